"""What networks see of a photograph: its scaled and cropped pixels, before normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

Geometry = Callable[[Image.Image], Tensor]
Box = tuple[float, float, float, float]


def as_pixels(image: Image.Image) -> Tensor:
    """Returns the image as it is, (3, H, W) in [0, 1]."""
    pixels: Tensor = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
    return pixels


def covering(size: tuple[int, int]) -> Geometry:
    """Scales an image until it covers ``size`` = (height, width) and crops it at the centre."""
    return lambda image: as_pixels(ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR))


def grayscale(geometry: Geometry) -> Geometry:
    """Reduces what another geometry gives to one channel."""
    return lambda image: F.rgb_to_grayscale(geometry(image))


def unnormalized(weights: Any) -> Geometry:
    """Returns the preset of torchvision's weights without its normalisation."""
    geometry: Geometry = weights.transforms(mean=(0, 0, 0), std=(1, 1, 1))
    return geometry


def standard_view(image: Image.Image, size: int) -> Image.Image:
    """Returns the central square at size x size: what our training explains and evaluates."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not resize's own box: its filter reads pixels beyond that.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def visible_box(geometry: Geometry, size: tuple[int, int]) -> Box:
    """Returns the part of an image that a geometry keeps: (left, top, right, bottom) in pixels.

    Found by sending a horizontal and a vertical ramp through it, so it holds for any geometry that
    scales and crops, whoever wrote it. Exact to about a thousandth of the image.

    Args:
        geometry: What prepares the image.
        size: (width, height) of the image.

    Example:
        >>> box = visible_box(covering((10, 10)), (400, 200))
        >>> [round(edge) for edge in box]
        [100, 0, 300, 200]
    """
    edges = [_visible_span(geometry, size, axis) for axis in (0, 1)]
    return edges[0][0], edges[1][0], edges[0][1], edges[1][1]


def _visible_span(geometry: Geometry, size: tuple[int, int], axis: int) -> tuple[float, float]:
    """Returns where the first and the last pixel begin and end along x (0) or y (1)."""
    length = size[axis]
    # From 16 to 240: filters may overshoot.
    ramp = (16 + 224 * (np.arange(length) + 0.5) / length).round().astype(np.uint8)
    pixels = np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1])
    seen = geometry(Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")).double().mean(0)
    values = seen.mean(axis).numpy()
    positions = (np.arange(len(values)) + 0.5) / len(values)
    # Filters bend a ramp at the edges of the image.
    inner = slice(len(values) // 8, len(values) - len(values) // 8)
    slope, start = np.polyfit(positions[inner], (values[inner] * 255 - 16) / 224 * length, 1)
    return max(0.0, float(start)), min(float(length), float(start + slope))
