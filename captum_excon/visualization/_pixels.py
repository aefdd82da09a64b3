"""Conversion of images to pixels in [0, 1] or 8 bits, and to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

Array = Tensor | npt.NDArray[Any]
PerChannel = float | Sequence[float] | Tensor


def to_uint8(
    images: Array | Image.Image, *, mean: PerChannel | None = None, std: PerChannel | None = None
) -> Tensor:
    """Turns images, normalised or not, into 8-bit RGB pictures.

    Arguments, errors and shapes are those of :func:`overlay`.
    """
    array = as_tensor(images)
    pictures = quantized(unnormalized(array, mean, std))
    return pictures[0] if array.ndim == 3 else pictures


def as_tensor(images: Array | Image.Image) -> Tensor:
    """Returns a tensor of the same shape; of shape (3, H, W) and uint8 for a PIL image."""
    if isinstance(images, Image.Image):
        return torch.from_numpy(np.array(images.convert("RGB"))).movedim(-1, 0)
    # torch accepts neither read-only nor flipped arrays, hence the copy.
    return images.detach() if isinstance(images, Tensor) else torch.from_numpy(np.array(images))


def unnormalized(images: Tensor, mean: PerChannel | None, std: PerChannel | None) -> Tensor:
    """Returns float32 RGB images ``(N, 3, H, W)`` in [0, 1]."""
    if images.ndim not in (3, 4) or images.shape[-3] not in (1, 3) or 0 in images.shape[-2:]:
        raise ValueError(
            "images must have shape (N, C, H, W) or (C, H, W) with C = 1 or 3 channels, not "
            f"{tuple(images.shape)}."
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating-point, not {images.dtype}.")
    if (mean is None) != (std is None):
        raise ValueError("pass mean and std together, or neither.")

    pixels = images.float()
    if images.dtype == torch.uint8:
        if mean is not None:
            raise ValueError("uint8 images are not normalised: leave out mean and std.")
        pixels = pixels / 255
    elif mean is not None and std is not None:
        pixels = pixels * _per_channel("std", std, pixels) + _per_channel("mean", mean, pixels)
    if not pixels.isfinite().all():
        raise ValueError("images contain NaN or infinite values.")
    # A round trip through bfloat16 costs less than one grey level.
    if pixels.numel() and (pixels.min() < -1 / 255 or pixels.max() > 1 + 1 / 255):
        advice = ": pass mean and std if they are normalised (to `overlay` or `to_uint8`)."
        if mean is not None:
            advice = " after the normalisation is undone: mean and std are not the ones it used."
        found = f"from {pixels.min():.3g} to {pixels.max():.3g}"
        raise ValueError(f"images have values {found}, outside [0, 1]{advice}")
    pixels = pixels.clamp(0, 1).reshape(-1, *pixels.shape[-3:])
    return pixels.expand(-1, 3, -1, -1)


def _per_channel(name: str, value: PerChannel, pixels: Tensor) -> Tensor:
    numbers = torch.as_tensor(value, dtype=pixels.dtype, device=pixels.device).reshape(-1, 1, 1)
    if len(numbers) not in (1, pixels.shape[-3]):
        raise ValueError(
            f"{name} has {len(numbers)} values, but the images have {pixels.shape[-3]} channels."
        )
    if not numbers.isfinite().all() or (name == "std" and (numbers <= 0).any()):
        raise ValueError(f"{name} must be finite (std also positive), not {value}.")
    return numbers


def quantized(pixels: Tensor) -> Tensor:
    """Rounds pixels in [0, 1] to 8 bits."""
    return (pixels * 255).round().to(torch.uint8)


def save_png(picture: Array, path: str | Path) -> None:
    """Saves a picture or a figure as a PNG file.

    Args:
        picture: ``uint8``: an array ``(H, W, 3)`` as :func:`grid` returns it, or a tensor
            ``(3, H, W)``, one picture of :func:`overlay`.
        path: The file, whose name ends in ``.png``. An existing file is replaced.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the name does not end in ``.png`` or ``picture`` is not one picture.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path} does not end in .png, the only format that is written.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: create it first.")
    pixels = as_tensor(picture)
    channels_last = pixels if isinstance(picture, np.ndarray) else pixels.movedim(0, -1)
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or channels_last.shape[-1] != 3:
        raise ValueError(
            "expected one uint8 picture, an array (H, W, 3) or a tensor (3, H, W), not "
            f"{pixels.dtype} of shape {tuple(pixels.shape)}."
        )
    Image.fromarray(channels_last.cpu().numpy()).save(path)
