"""Gathers tensors of all processes, with gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def world_size() -> int:
    """Returns the number of processes of the default group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(*tensors: Tensor) -> tuple[tuple[Tensor, ...], Tensor, int]:
    """Concatenates the rows of all processes, whose numbers may differ, in the order of ranks.

    Each process's rows are padded with zeros to the largest number; finding it is the only wait.
    Each process gets the sum of all processes' gradients for its own rows.

    Returns the gathered tensors, which rows are not padding (bool), and the index of this process's
    first row.
    """
    rows = torch.tensor([len(tensors[0])], device=tensors[0].device)
    counts = _all_gather(rows).tolist()
    largest = max(counts)
    gathered = tuple(_gather_padded(tensor, largest) for tensor in tensors)
    flags = [i < count for count in counts for i in range(largest)]
    real = torch.tensor(flags, dtype=torch.bool, device=rows.device)
    return gathered, real, dist.get_rank() * largest


def _gather_padded(tensor: Tensor, rows: int) -> Tensor:
    # F.pad counts from the last dimension. NCCL and gloo need contiguous memory, and not every
    # backend takes bool.
    wire = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    padding = [0, 0] * (tensor.dim() - 1) + [0, rows - len(tensor)]
    return _all_gather(F.pad(wire, padding).contiguous()).to(tensor.dtype)


def _all_gather(tensor: Tensor) -> Tensor:
    from torch.distributed.nn.functional import all_gather  # fails without distributed support

    return torch.cat(all_gather(tensor))  # type: ignore[no-untyped-call]
