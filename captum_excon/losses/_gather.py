"""Gathers tensors of all processes, with gradients."""

from __future__ import annotations

from typing import Any, cast

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
    counts = torch.cat(_all_gather(rows)).tolist()
    largest = max(counts)
    gathered = tuple(_gather_padded(tensor, largest) for tensor in tensors)
    flags = [i < count for count in counts for i in range(largest)]
    real = torch.tensor(flags, dtype=torch.bool, device=rows.device)
    return gathered, real, dist.get_rank() * largest


def sum_over_processes(value: Tensor) -> Tensor:
    """Returns the sum over the default group, without gradients."""
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def _gather_padded(tensor: Tensor, rows: int) -> Tensor:
    # F.pad counts from the last dimension. NCCL and gloo need contiguous memory, and not every
    # backend takes bool.
    wire = tensor.to(torch.uint8) if tensor.dtype == torch.bool else tensor
    padding = [0, 0] * (tensor.dim() - 1) + [0, rows - len(tensor)]
    padded = F.pad(wire, padding).contiguous()
    if not padded.is_floating_point():
        return torch.cat(_all_gather(padded)).to(tensor.dtype)
    return cast(Tensor, _Gather.apply(padded))


def _all_gather(tensor: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts


class _Gather(torch.autograd.Function):
    """Concatenates over ranks; backwards sums over ranks and takes this rank's rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        return torch.cat(_all_gather(tensor))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(0, dist.get_rank() * ctx.rows, ctx.rows)
