"""Saliency maps that move with their images through torchvision's v2 transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_collate_fn_map
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


class Saliency(tv_tensors.Mask):
    """A saliency map, or a batch of them, that follows its image through v2 transforms.

    Geometric transforms move it as they move an image, to a pixel: resize, the crops, flips,
    rotation, affine and perspective transforms, padding and elastic deformation. A map is always
    interpolated **bilinearly**, with the transform's ``antialias``.

    Values stay values. Transforms of colour, noise, blur, `v2.Normalize`, erasing and
    ``v2.ToDtype(dtype, scale=...)`` leave a map as it is. ``v2.ToDtype({Saliency: dtype})`` and
    `v2.ConvertImageDtype` change its precision without scaling, if the dtype is floating point.

    What comes in from outside the image is 0, no evidence. A ``fill`` per channel is a colour and
    concerns images alone; a single number fills maps as it fills masks, so give
    ``fill={tv_tensors.Image: 127, Saliency: 0}`` where the two differ.

    Where v2 refuses a `tv_tensors.Mask` it refuses a map, and never moves the image alone:
    `v2.RandAugment` and its relatives, `v2.MixUp`, `v2.CutMix`, `v2.FiveCrop`, `v2.TenCrop`.
    `v2.RandomErasing` warns that it passes the map through; `v2.SanitizeBoundingBoxes` leaves it
    alone. Arithmetic gives plain tensors; `torch.utils.data.default_collate` gives maps. [ours]

    Args:
        data: Anything that `torch.as_tensor` takes, floating point, of the shape (..., H, W):
            usually (1, H, W) for an image, (N, 1, H, W) for a batch.
        dtype: By default the data's, as ``device`` and ``requires_grad``.
        device: Where the map is.
        requires_grad: Whether autograd records.

    Raises:
        TypeError: The values are not floating point.
        ValueError: There are fewer than two dimensions.

    Example:
        >>> from torchvision.transforms import v2
        >>> image = tv_tensors.Image(torch.rand(3, 4, 4))
        >>> saliency = Saliency([[[0.0, 0.0, 0.5, 1.0]] * 4])
        >>> flip = v2.Compose([v2.RandomHorizontalFlip(p=1), v2.ColorJitter(brightness=0.4)])
        >>> image, saliency = flip(image, saliency)
        >>> saliency[0, 0], type(saliency).__name__
        (tensor([1.0000, 0.5000, 0.0000, 0.0000]), 'Saliency')
    """

    def __new__(
        cls,
        data: Any,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | int | None = None,
        requires_grad: bool | None = None,
    ) -> Saliency:
        """Makes a map of ``data`` without a copy where that is possible."""
        saliency: Saliency = super().__new__(
            cls, data, dtype=dtype, device=device, requires_grad=requires_grad
        )
        if not saliency.is_floating_point():
            raise TypeError(
                f"a saliency map holds floating-point values, but found {saliency.dtype}; pass "
                "dtype=torch.float32, or use torchvision.tv_tensors.Mask for labels"
            )
        if saliency.ndim < 2:
            raise ValueError(
                f"a saliency map has the shape (..., H, W), but found {tuple(saliency.shape)}"
            )
        return saliency

    def __getitem__(self, index: Any) -> Any:
        """Indexes like a tensor, but selects by a mask from batches (N, 1, H, W) only.

        `v2.SanitizeBoundingBoxes` selects like this from instance masks, and passes on what raises
        IndexError: the map, which belongs to the image and not to its boxes.
        """
        by_mask = isinstance(index, Tensor) and index.dtype == torch.bool and index.ndim == 1
        if by_mask and self.ndim < 4:
            raise IndexError(
                f"a mask selects from a batch of maps (N, 1, H, W), but this one is "
                f"{tuple(self.shape)}; use as_subclass(torch.Tensor) to index it as a tensor"
            )
        return super().__getitem__(index)


def _register(functional: Callable[..., Any], kernel: Callable[..., Tensor], **fixed: Any) -> None:
    """Lets ``functional`` move maps by the kernel of images; flips and crops are masks' own."""

    def move(saliency: Saliency, *args: Any, **options: Any) -> Saliency:
        values = saliency.as_subclass(Tensor)
        if values.dim() == 2:
            values = values.unsqueeze(0)
        if isinstance(fill := options.get("fill"), Sequence):
            options["fill"] = fill[0] if len(fill) == 1 else 0.0
        # Kernels build their grid of coordinates in the values' dtype, and half precision cannot
        # tell the pixels of a large image apart.
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        moved = kernel(wide, *args, **{**options, **fixed}).to(values.dtype)
        moved = moved.reshape(*saliency.shape[:-2], *moved.shape[-2:])
        return tv_tensors.wrap(moved, like=saliency)  # type: ignore[no-any-return]

    F.register_kernel(functional, Saliency)(move)


def _to_dtype(saliency: Saliency, dtype: torch.dtype, scale: bool = False) -> Saliency:
    if not dtype.is_floating_point:
        return saliency
    converted = saliency.as_subclass(Tensor).to(dtype)
    return tv_tensors.wrap(converted, like=saliency)  # type: ignore[no-any-return]


def _collate(batch: Sequence[Saliency], *, collate_fn_map: Any = None) -> Saliency:
    return Saliency(default_collate([saliency.as_subclass(Tensor) for saliency in batch]))


for _name in ("resize", "resized_crop", "rotate", "affine", "perspective", "elastic"):
    _kernel = getattr(F, f"{_name}_image")
    _register(getattr(F, _name), _kernel, interpolation=InterpolationMode.BILINEAR)
_register(F.pad, F.pad_image)
F.register_kernel(F.to_dtype, Saliency)(_to_dtype)
default_collate_fn_map[Saliency] = _collate
