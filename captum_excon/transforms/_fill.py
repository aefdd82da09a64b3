"""Values that replace occluded pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

__all__ = ["Fill", "check_fill", "fill_values", "occlude"]

Fill: TypeAlias = float | Literal["mean", "blur", "noise"] | Callable[[Tensor], Tensor]


def check_fill(fill: Fill) -> None:
    """Raises ValueError for a fill that `fill_values` does not take."""
    named = isinstance(fill, str) and fill in ("mean", "blur", "noise")
    if not named and not isinstance(fill, int | float) and not callable(fill):
        raise ValueError(
            f'fill must be a number, "mean", "blur", "noise" or a function, but found {fill!r}'
        )


def fill_values(images: Tensor, fill: Fill, generator: torch.Generator | None = None) -> Tensor:
    """Returns the values that replace occluded pixels.

    Args:
        images: (N, C, H, W), normalised or not; integer images get rounded, clipped values.
        fill: A number, for all channels: 0 in normalised space, as in ExCon's official code, is
            the dataset's mean colour. ``"mean"``: the image's own mean colour. ``"blur"``: the
            image after a Gaussian blur with a standard deviation of an eighth of its smaller side.
            ``"noise"``: normal with the mean and the standard deviation of the image's channel,
            drawn for each pixel and channel. A function: its result for the images, of their shape
            or one that expands to it.
        generator: Where noise is drawn from; by default torch's own for the images' device.

    Returns:
        A tensor of the images' shape, dtype and device; it may be expanded, so do not write to it.

    Raises:
        ValueError: The fill is none of these, integer images cannot hold the number, or the
            function's result has another shape.

    Example:
        >>> fill_values(torch.tensor([0.0, 4.0]).view(1, 1, 1, 2), "mean").flatten().tolist()
        [2.0, 2.0]
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
    """Converts values to the images' dtype; integers are rounded and clipped, not wrapped."""
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


def occlude(images: Tensor, where: Tensor, values: Tensor) -> Tensor:
    """Replaces images (N, C, H, W) by values where a region (N, 1, H, W) is True."""
    return torch.where(where, values, images)
