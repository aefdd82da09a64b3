"""Which images the costly measurements are made on."""

from __future__ import annotations

import torch
from torch import Tensor


def subset(count: int, limit: int | None, seed: int = 0) -> Tensor:
    """Chooses the images that explanations and attacks are measured on.

    They depend on the arguments alone, so that all models are measured on the same images.

    Args:
        count: How many images there are.
        limit: How many are taken, at most; None for all.
        seed: Decides which.

    Returns:
        (count,) bool.

    Example:
        >>> subset(6, 3).sum()
        tensor(3)
        >>> subset(3, None)
        tensor([True, True, True])
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    chosen[order[:limit]] = True
    return chosen
