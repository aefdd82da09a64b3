"""What removed pixels become."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# From the rows' images, (R,), to values that broadcast to (R, C, H, W).
Fill = Callable[[Tensor], Tensor]


def constant_fill(images: Tensor, baseline: float | Tensor) -> Fill:
    """Fills with a number, or with a tensor of one or N rows that broadcasts to the images."""
    values = torch.as_tensor(baseline, dtype=images.dtype, device=images.device).detach()
    values = values.reshape((1,) * (4 - values.dim()) + tuple(values.shape))
    if values.dim() != 4 or any(
        s not in (1, t) for s, t in zip(values.shape, images.shape, strict=True)
    ):
        raise ValueError(
            f"baseline of shape {tuple(values.shape)} does not fit images of shape "
            f"{tuple(images.shape)}; pass a number, a tensor of the images' shape, or one of shape "
            "(1, C, 1, 1) such as (0 - mean) / std for black"
        )
    if not bool(values.isfinite().all()):
        raise ValueError("baseline contains NaN or infinite values; pass finite ones")
    if len(values) == 1:
        return lambda image: values
    return lambda image: values[image]
