"""Values that replace occluded pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Fill: TypeAlias = float | Literal["mean", "blur", "noise"] | Callable[[Tensor], Tensor]


def check_fill(fill: Fill) -> None:
    """Raises ValueError for a fill that `fill_values` does not take."""
    named = isinstance(fill, str) and fill in ("mean", "blur", "noise")
    if not named and not isinstance(fill, int | float) and not callable(fill):
        raise ValueError(
            f'fill must be a number, "mean", "blur", "noise" or a function, but found {fill!r}'
        )


def fill_values(images: Tensor, fill: Fill, generator: torch.Generator | None = None) -> Tensor:
    """Returns the values that replace occluded pixels, as `ExplanationMask` describes them.

    They have the images' shape (N, C, H, W), dtype and device, and may be expanded: do not write to
    them. Integer images get rounded, clipped values.
    """
    check_fill(fill)
    if isinstance(fill, int | float):
        _check_representable(fill, images.dtype)
        return images.new_full((), fill).expand_as(images)
    if callable(fill):
        values = _in_dtype(fill(images).to(images.device), images.dtype)
        try:
            return values.expand_as(images)
        except RuntimeError:
            raise ValueError(
                f"the fill function must return values of shape {tuple(images.shape)}, but "
                f"returned {tuple(values.shape)}"
            ) from None
    exact = images if images.is_floating_point() else images.float()
    if fill == "blur":
        values = _blur(exact)
    else:
        values = exact.mean((2, 3), keepdim=True).expand_as(images)
        if fill == "noise" and len(images):
            spread = exact.var((2, 3), correction=0, keepdim=True).sqrt()
            place = images.device if generator is None else generator.device
            noise = torch.randn(images.shape, dtype=exact.dtype, device=place, generator=generator)
            values = values + spread * noise.to(images.device)
    return _in_dtype(values, images.dtype)


def _check_representable(fill: float, dtype: torch.dtype) -> None:
    if dtype.is_floating_point:
        return
    limits = torch.iinfo(dtype)
    if not float(fill).is_integer() or not limits.min <= fill <= limits.max:
        raise ValueError(
            f"{dtype} images can be filled with a whole number from {limits.min} to {limits.max}, "
            f"but found {fill!r}; convert them first: v2.ToDtype(torch.float32, scale=True)"
        )


def _in_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    if values.is_floating_point() and not dtype.is_floating_point:
        limits = torch.iinfo(dtype)
        values = values.round().clamp(limits.min, limits.max)
    return values.to(dtype)


def _blur(images: Tensor) -> Tensor:
    side = min(images.shape[-2:])
    sigma = side / 8
    # Reflection needs a border narrower than the image.
    border = min(math.ceil(2 * sigma), side - 1)
    blurred: Tensor = F.gaussian_blur(images, [2 * border + 1] * 2, [sigma] * 2)
    return blurred
