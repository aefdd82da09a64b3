"""Watching a training step without making it wait: time spent, and losses that are not finite."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
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


class FiniteLoss:
    """Remembers on the device whether a loss was NaN or infinite, and says so when asked.

    Example:
        >>> guard = FiniteLoss()
        >>> guard.watch(torch.tensor(float("nan")))
        >>> guard.check()
        Traceback (most recent call last):
        ...
        FloatingPointError: the training loss is NaN or infinite. ...
    """

    def __init__(self) -> None:
        self._broken: Tensor | None = None

    def watch(self, loss: Tensor) -> None:
        """Notes a loss; does not wait for it."""
        broken = (~torch.isfinite(loss.detach())).float()
        self._broken = broken if self._broken is None else torch.maximum(self._broken, broken)

    def check(self, total: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        """Raises if one of the losses was not finite; waits for the device.

        Args:
            total: Sums over processes, so that all of them stop.

        Raises:
            FloatingPointError: One was not.
        """
        if self._broken is not None and bool(total(self._broken) > 0):
            raise FloatingPointError(
                "the training loss is NaN or infinite. Checkpoints written before are intact: "
                "resume from the last one with a lower lr, more warmup_epochs or a "
                "gradient_clip; with 16-mixed precision try bf16-mixed."
            )
