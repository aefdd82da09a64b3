"""Where the time of a stage went."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.explanations.stages.pass_counter import CountedModel


@dataclass
class Profile:
    """Seconds of a stage and its parts, and those of them in the network's forward passes.

    Attributes:
        seconds: From beginning to end.
        forward: In forward passes.
        parts: Both for each named part.
    """

    seconds: float = 0.0
    forward: float = 0.0
    parts: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of forward passes."""
        return self.forward / max(self.seconds, 1e-9)

    @contextmanager
    def whole(self, model: CountedModel) -> Iterator[None]:
        """Measures the stage."""
        seconds, forward = time.perf_counter(), model.passes.seconds
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - seconds
            self.forward += model.passes.seconds - forward

    @contextmanager
    def part(self, name: str, model: CountedModel) -> Iterator[None]:
        """Measures a part, which may come several times."""
        before = self.parts.get(name, (0.0, 0.0))
        inner = Profile()
        with inner.whole(model):
            yield
        self.parts[name] = before[0] + inner.seconds, before[1] + inner.forward

    def lines(self) -> list[str]:
        """A table for the terminal."""
        rest = self.seconds - sum(seconds for seconds, _ in self.parts.values())
        rows = [f"profile: {self.seconds:.1f} s, {self.share:.1%} in forward passes"]
        for name, (seconds, forward) in {**self.parts, "all else": (rest, 0.0)}.items():
            share = forward / max(seconds, 1e-9)
            rows.append(f"  {name}: {seconds:.1f} s, {share:.1%} of it in forward passes")
        return rows
