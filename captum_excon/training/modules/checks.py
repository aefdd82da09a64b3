"""Watching a training step without making it wait: time spent, and losses that go wrong."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor


class Stopwatch:
    """Sums the time of regions; on a GPU from events, so that nothing waits until it is read.

    Args:
        device: Where the measured work runs.

    Example:
        >>> watch = Stopwatch(torch.device("cpu"))
        >>> with watch.measure():
        ...     _ = torch.rand(10).sum()
        >>> watch.seconds() > 0
        True
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._total = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        """Adds the time of the block."""
        if self._cuda:
            start, end = (_timing_event() for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            before = time.perf_counter()
            yield
            self._total += time.perf_counter() - before

    def seconds(self) -> float:
        """Returns the sum; waits for the device."""
        for start, end in self._events:
            end.synchronize()
            self._total += start.elapsed_time(end) / 1000
        self._events.clear()
        return self._total


def _timing_event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


class LossWatch:
    """Remembers on the device how large losses were, and reports it when asked.

    Example:
        >>> losses = LossWatch()
        >>> losses.watch(torch.tensor(float("nan")), guess=1.6)
        >>> losses.check()
        Traceback (most recent call last):
        ...
        FloatingPointError: the training loss is NaN or infinite. ...
    """

    # Times the loss of guessing: a network that trains stays far below.
    ABSURD = 10.0

    def __init__(self) -> None:
        self._broken: Tensor | None = None
        self._largest: Tensor | None = None
        self._warned: set[str] = set()

    def watch(self, loss: Tensor, guess: float) -> None:
        """Notes a loss and that of guessing; does not wait for it."""
        loss = loss.detach().float()
        broken = (~torch.isfinite(loss)).float()
        ratio = torch.where(broken > 0, 0.0, loss / guess)
        if self._broken is not None and self._largest is not None:
            broken = torch.maximum(self._broken, broken)
            ratio = torch.maximum(self._largest, ratio)
        self._broken, self._largest = broken, ratio

    def check(self, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Raises if one of the losses was not finite, warns if one exploded; waits for the device.

        Args:
            total: Sums over processes, so that all of them stop.

        Raises:
            FloatingPointError: One was not finite.
        """
        if self._broken is None or self._largest is None:
            return
        if bool(total(self._broken) > 0):
            raise FloatingPointError(
                "the training loss is NaN or infinite. Checkpoints written before are intact: "
                "resume from the last one with a lower lr, more warmup_epochs or a "
                "gradient_clip; with 16-mixed precision try bf16-mixed."
            )
        self.warn_if_absurd("training", float(self._largest), 1.0)

    def warn_if_absurd(self, which: str, loss: float, guess: float) -> None:
        """Warns, once in a training, of a loss many times that of guessing."""
        if loss > self.ABSURD * guess and which not in self._warned:
            self._warned.add(which)
            rank_zero_warn(
                f"the {which} loss is {loss / guess:.3g} times that of guessing, so training "
                "diverges: lower lr, raise warmup_epochs, or set gradient_clip"
            )
