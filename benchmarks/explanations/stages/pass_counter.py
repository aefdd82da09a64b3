"""Measures the cost of a computation: forward and backward rows, seconds, and peak memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Passes:
    """Rows that a network was given, rows that gradients came back for, and forward seconds."""

    forward_rows: int = 0
    backward_rows: int = 0
    seconds: float = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Passes:
        # Copies of the network, such as pytorch-grad-cam's classes get, count here as well.
        return self


class CountedModel(nn.Module):
    """A network that counts its passes in `passes`.

    Args:
        model: From (N, C, H, W) to class scores (N, classes).
        timed: Whether to measure the seconds of forward passes too, which waits for the device.
    """

    def __init__(self, model: nn.Module, *, timed: bool = False) -> None:
        super().__init__()
        self.model = model
        self.passes = Passes()
        self.timed = timed
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """The scores of the network."""
        began = _now(inputs.device) if self.timed else 0.0
        output: Tensor = self.model(inputs)
        if self.timed:
            self.passes.seconds += _now(inputs.device) - began
        self.passes.forward_rows += len(inputs)
        if output.requires_grad:
            output.register_hook(self._count_backward)  # type: ignore[no-untyped-call]
        return output

    def _count_backward(self, gradient: Tensor) -> None:
        self.passes.backward_rows += len(gradient)


@dataclass
class Cost:
    """The cost of a computation: wall-clock time, rows of the network, and peak memory.

    The memory is torch's own on a GPU, the whole process's on the CPU under Linux; None elsewhere.
    """

    seconds: float = 0.0
    forward_rows: int = 0
    backward_rows: int = 0
    peak_mib: float | None = None


@contextmanager
def measured(model: CountedModel, device: torch.device) -> Iterator[Cost]:
    """Yields a `Cost` that is filled in when the block ends, by an error too."""
    cost, passes = Cost(), model.passes
    rows = passes.forward_rows, passes.backward_rows
    _reset_peak(device)
    began = _now(device)
    try:
        yield cost
    finally:
        cost.seconds = _now(device) - began
        cost.forward_rows = passes.forward_rows - rows[0]
        cost.backward_rows = passes.backward_rows - rows[1]
        cost.peak_mib = _peak(device)


@dataclass
class Profile:
    """Seconds of a stage and its named parts, and those of them in the network's forward passes."""

    seconds: float = 0.0
    forward: float = 0.0
    parts: dict[str, Profile] = field(default_factory=dict)

    @contextmanager
    def whole(self, model: CountedModel) -> Iterator[None]:
        """Adds the time of a block."""
        seconds, forward = time.perf_counter(), model.passes.seconds
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - seconds
            self.forward += model.passes.seconds - forward

    def part(self, name: str, model: CountedModel) -> AbstractContextManager[None]:
        """Adds the time of a block to a part."""
        return self.parts.setdefault(name, Profile()).whole(model)

    def __str__(self) -> str:
        rest = self.seconds - sum(part.seconds for part in self.parts.values())
        share = self.forward / max(self.seconds, 1e-9)
        lines = [f"profile: {self.seconds:.1f} s, {share:.1%} in forward passes"]
        for name, part in {**self.parts, "all else": Profile(rest)}.items():
            share = part.forward / max(part.seconds, 1e-9)
            lines.append(f"  {name}: {part.seconds:.1f} s, {share:.1%} of it in forward passes")
        return "\n".join(lines)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        # Where the system has or allows no reset, the peak is that of the process so far.
        with suppress(OSError):
            _RESET.write_text("5")


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if device.type == "cpu" and _STATUS.exists():
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else None
    return None
