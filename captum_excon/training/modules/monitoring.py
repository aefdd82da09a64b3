"""Watching a training step without making it wait: time spent, and losses that go wrong."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

REMEDY = "a lower lr, more warmup_epochs or a smaller gradient_clip"


class Stopwatch:
    """Sums the time of regions; on a GPU from events, so that nothing waits until it is read."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._total = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Adds the time of the block."""
        if not self._cuda:
            before = time.perf_counter()
            yield
            self._total += time.perf_counter() - before
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        yield
        end.record()
        self._events.append((start, end))

    def seconds(self) -> float:
        """Returns the sum; waits for the device."""
        for start, end in self._events:
            end.synchronize()
            self._total += start.elapsed_time(end) / 1000
        self._events.clear()
        return self._total


class LossWatch:
    """Remembers on the device how losses went, and reports what is wrong when asked.

    Example:
        >>> losses = LossWatch()
        >>> losses.watch("train/loss", torch.tensor(float("nan")), guess=1.6)
        >>> losses.check()
        Traceback (most recent call last):
        ...
        FloatingPointError: the training loss is NaN or infinite. ...
    """

    # A training that goes well stays below 1.1 times, one that explodes begins with 1.9 times.
    EXPLODED = 2.0
    # Times the loss of guessing.
    ABSURD = 10.0

    def __init__(self) -> None:
        self._broken: Tensor | None = None
        self._first: dict[str, Tensor] = {}
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._warned: set[str] = set()

    def watch(self, name: str, loss: Tensor, guess: float) -> None:
        """Notes a loss, and about that of a network that guesses; does not wait for it."""
        loss = loss.detach().float()
        broken = (~torch.isfinite(loss)).float()
        self._broken = broken if self._broken is None else torch.maximum(self._broken, broken)
        ratio = loss / guess
        self._first.setdefault(name, ratio.clamp(min=1))
        total, count = self._sums.get(name, (torch.zeros_like(ratio), 0))
        self._sums[name] = total + ratio, count + 1

    def check(self, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Raises if a loss was not finite; waits for the device.

        ``total`` sums over processes, so that all of them stop.

        Raises:
            FloatingPointError: One was not finite.
        """
        if self._broken is not None and bool(total(self._broken) > 0):
            raise FloatingPointError(
                "the training loss is NaN or infinite. Checkpoints written before are intact: "
                f"resume from the last one with {REMEDY}; with 16-mixed precision try bf16-mixed."
            )

    def end_epoch(self) -> None:
        """Warns, once in a training, if an epoch's mean loss is far above the first one."""
        for name, (total, count) in self._sums.items():
            ratio = float(total) / count / float(self._first[name])
            if ratio > self.EXPLODED:
                self._warn(name, f"{name} rose to {ratio:.3g} times its first value")
        self._sums.clear()

    def end_validation(self, loss: float, guess: float) -> None:
        """Warns, once in a training, if the validation loss is far above that of guessing."""
        if loss > self.ABSURD * guess:
            text = f"val/loss is {loss:.3g}, where guessing has {guess:.3g}"
            self._warn("val/loss", f"{text}: batch-norm statistics lag behind the weights")

    def _warn(self, name: str, text: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            rank_zero_warn(f"training diverges, {text}; try {REMEDY}")
