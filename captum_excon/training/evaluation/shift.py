"""Five shifts of the input at five severities: deterministic, and without a download."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

Shift = Literal["gaussian-noise", "gaussian-blur", "brightness", "contrast", "rotation"]

SHIFTS: tuple[Shift, ...] = get_args(Shift)
SEVERITIES = (1, 2, 3, 4, 5)

LADDER: dict[Shift, tuple[float, ...]] = {
    "gaussian-noise": (0.04, 0.08, 0.12, 0.18, 0.26),
    "gaussian-blur": (0.015, 0.025, 0.035, 0.05, 0.07),
    "brightness": (1.2, 1.5, 1.8, 2.2, 2.7),
    "contrast": (0.75, 0.55, 0.4, 0.25, 0.15),
    "rotation": (5.0, 10.0, 20.0, 30.0, 45.0),
}


def shifted(
    images: Tensor, shift: Shift, severity: int, *, generator: torch.Generator | None = None
) -> Tensor:
    r"""Shifts images by a severity, with torchvision's v2 functions.

    For the number s of a severity in `LADDER`, and pixels in [0, 1]:

    - ``gaussian-noise``: :math:`x + s\,\varepsilon`, one :math:`\varepsilon \sim N(0, 1)` for each
      pixel and channel.
    - ``gaussian-blur``: a Gaussian of s times the image's shorter side, so that a severity means
      the same at any resolution (32 pixels: 0.48, 0.8, 1.12, 1.6 and 2.24 pixels).
    - ``brightness``: :math:`s\,x`, brighter.
    - ``contrast``: :math:`s\,x + (1 - s)\,m` for the mean m of the image's gray values.
    - ``rotation``: s degrees counter-clockwise, bilinear, black beyond the image.

    All keep shape, dtype and device and are clipped to [0, 1]. Shifts and ladder are ours:
    figures compare with each other, not with those of CIFAR-100-C.

    Args:
        images: (N, C, H, W), C = 1 or 3, floating-point, in [0, 1].
        shift: Which.
        severity: 1 (slight) to 5 (strong).
        generator: Where ``gaussian-noise`` is drawn from, on the images' device, row after row; by
            default one with seed 0.

    Raises:
        ValueError: An unknown shift or severity, or images that are not (N, C, H, W).
        TypeError: The images are not floating-point.

    Example:
        >>> gray = torch.tensor([0.25, 0.5]).expand(1, 3, 1, 2)
        >>> shifted(gray, "brightness", 2)[0, 0]
        tensor([[0.3750, 0.7500]])
    """
    if shift not in SHIFTS:
        raise ValueError(f"shift must be one of {', '.join(SHIFTS)}, but found {shift!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, but found {severity!r}")
    if images.dim() != 4:
        raise ValueError(f"images must be (N, C, H, W), but found {tuple(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating-point in [0, 1], but found {images.dtype}")
    amount = LADDER[shift][severity - 1]
    match shift:
        case "gaussian-noise":
            moved = images + amount * _noise(images, generator)
        case "gaussian-blur":
            moved = _blurred(images, amount * min(images.shape[-2:]))
        case "brightness":
            moved = functional.adjust_brightness(images, amount)
        case "contrast":
            moved = functional.adjust_contrast(images, amount)
        case "rotation":
            moved = functional.rotate(images, amount, InterpolationMode.BILINEAR)
    return moved.clamp(0, 1)


def _noise(images: Tensor, generator: torch.Generator | None) -> Tensor:
    # torchvision's gaussian_noise draws from the global random state.
    if generator is None:
        generator = torch.Generator(images.device).manual_seed(0)
    # Image by image: a draw then does not depend on how images are batched.
    noise = images.new_empty(images.shape)
    for row in noise:
        row.normal_(generator=generator)
    return noise


def _blurred(images: Tensor, sigma: float) -> Tensor:
    # Its padding by reflection must be smaller than the image.
    radius = min(math.ceil(3 * sigma), min(images.shape[-2:]) - 1)
    blurred: Tensor = functional.gaussian_blur(images, [2 * radius + 1] * 2, [sigma, sigma])
    return blurred
