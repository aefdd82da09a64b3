"""Rows in batches: the size found by the library, halved when memory runs out."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

# Inputs of 2**22 elements (16 MiB in float32) are a safe first batch on any device; on the CPU,
# where larger batches gain little, growth ends at four times that.
_FIRST_ELEMENTS = 2**22
_CPU_ELEMENTS = 2**24
_WORTHWHILE = 1.05  # a batch size is doubled as long as that gains 5 % more rows a second
# cuBLAS and cuDNN report their own allocations in their own words.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    "allocation_failed",
    "unable to find a valid cudnn algorithm",
    "unable to find an engine to execute",
)
_TRIALS = 2  # the faster of two batches counts: the first one of a size warms up


def first_batch_size(inputs: tuple[Tensor, ...], at_most: int) -> int:
    """Returns a batch size that is safe while nothing is known about the model's memory."""
    per_row = sum(x.shape[1:].numel() for x in inputs)
    return max(1, min(at_most, _FIRST_ELEMENTS // per_row))


def check_batch_size(name: str, size: int | None) -> None:
    """Raises ValueError unless ``size`` is None or a positive integer."""
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"{name} must be a positive integer or None (automatic), found {size!r}")


def run_in_batches(
    rows: int,
    step: Callable[[int, int], None],
    inputs: tuple[Tensor, ...],
    batch_size: int | None = None,
    *,
    grow: bool = True,
    first: int = 4,
) -> None:
    """Calls ``step(start, stop)`` until every row is done, each exactly once.

    Without a ``batch_size`` it starts small and, with ``grow``, doubles while memory allows and
    the rows a second improve. When a step runs out of memory, its batch is halved and done again;
    ``step`` must therefore have no effect before its last allocation. A single row that does not
    fit raises the out-of-memory error.
    """
    device = inputs[0].device
    size = batch_size or first_batch_size(inputs, first)
    growing = grow and batch_size is None
    rates: dict[int, list[float]] = {}
    start = 0
    while start < rows:
        stop = min(start + size, rows)
        reserved = _reserved(device)
        began = time.perf_counter()
        # The retry stands outside the handler, whose traceback keeps the failed batch alive.
        failed = False
        try:
            step(start, stop)
        except (RuntimeError, MemoryError) as error:
            if stop - start == 1 or not is_out_of_memory(error):
                raise
            failed = True
        if failed:
            size = (stop - start) // 2
            growing = False
            if device.type == "cuda":
                torch.cuda.empty_cache()
            continue
        if growing and stop - start == size:
            _synchronize(device)
            rates.setdefault(size, []).append(size / (time.perf_counter() - began))
            if len(rates[size]) == _TRIALS:
                smaller = max(rates.get(size // 2, [0.0]))
                growing = max(rates[size]) > _WORTHWHILE * smaller
                if not growing and max(rates[size]) < smaller:
                    size //= 2
                elif growing:
                    growing = _fits(2 * size, size, reserved, inputs)
                    size = 2 * size if growing else size
        start = stop


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return any(sign in text for sign in _OUT_OF_MEMORY)


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _fits(wanted: int, done: int, reserved: int, inputs: tuple[Tensor, ...]) -> bool:
    """Whether ``wanted`` rows are expected to fit, from what ``done`` rows have just taken."""
    device = inputs[0].device
    if device.type != "cuda":
        return wanted * sum(x.shape[1:].numel() for x in inputs) <= _CPU_ELEMENTS
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    taken = max(torch.cuda.memory_reserved(device) - reserved, idle)
    return taken / done * wanted < 0.8 * (free + idle)
