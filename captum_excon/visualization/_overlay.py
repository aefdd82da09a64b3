"""Heat maps over the images that they explain."""

from __future__ import annotations

import math
from typing import Literal, get_args

import matplotlib
import numpy as np
import torch
from matplotlib.colors import Colormap
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from captum_excon.visualization._pixels import Array, PerChannel, as_tensor, quantized, unnormalized

Sign = Literal["positive", "negative", "absolute_value", "all"]
Box = tuple[float, float, float, float]


def overlay(
    images: Array | Image.Image,
    attributions: Array,
    *,
    box: Box | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    sign: Sign = "positive",
    vmin: float | None = None,
    vmax: float | None = None,
    outlier_perc: float = 0.0,
    cmap: str | Colormap | None = None,
    alpha: float = 0.6,
) -> Tensor:
    """Blends heat maps with the images that they explain.

    Every image has its own scale unless ``vmin`` and ``vmax`` fix one. A map is shown from its
    smallest to its largest value (after ``sign``); with ``sign="all"`` from minus to plus its
    largest magnitude, so that 0 has the middle colour. A constant map gets the colour of the lower
    end (with ``sign="all"``, of the middle if it is zero), not amplified rounding noise.

    Args:
        images: ``(N, C, H, W)`` or ``(C, H, W)``, grayscale (``C = 1``) or RGB (``C = 3``):
            ``uint8``, floating-point in [0, 1], or, with ``mean`` and ``std``,
            ``(image - mean) / std`` of such an image. Or a PIL image, together with ``box``.
        attributions: ``(N, C, h, w)`` or ``(N, h, w)``; for one image ``(C, h, w)`` or ``(h, w)``;
            for a PIL image also ``(1, C, h, w)``. Channels are averaged, so a map repeated over
            the channels is unchanged. Maps of another size, such as a layer's, are resized
            bilinearly (``align_corners=False``). Any device; numpy arrays are accepted.
        box: The part of the image that the maps cover, (left, top, right, bottom) in pixels, as
            returned by `captum_excon.models.Model.view`; the rest is shown pale and gray. Default:
            the whole image.
        mean: Mean of the normalisation to undo, a number or one per channel.
        std: Standard deviation of the normalisation to undo.
        sign: Which values are heat, as in Captum's ``visualize_image_attr``: ``"positive"``
            (negative values count as 0), ``"negative"`` (the opposite), ``"absolute_value"``, or
            ``"all"`` for a signed picture.
        vmin: Heat (after ``sign``) at the lower end of the colour map, for every image. Default: 0
            if ``vmax`` is given, else each map's smallest value. With ``sign="all"`` it is
            ``-vmax`` and must not be given.
        vmax: Heat at the upper end. Default: each map's largest value.
        outlier_perc: If ``vmax`` is not given, saturates the largest values, those that make up
            this percentage of the sum of the map's magnitudes, in [0, 100). Captum's definition;
            2 suits noisy gradient maps.
        cmap: A matplotlib colour map or its name. Default: ``"inferno"``, or ``"bwr"`` (blue,
            white, red) for ``sign="all"``.
        alpha: Opacity of the heat map, from 0 (only the image) to 1 (only the heat map).

    Returns:
        ``uint8`` tensor of shape ``(N, 3, H, W)``, or ``(3, H, W)`` for one image, on the images'
        device.

    Raises:
        ValueError: If shapes do not fit, a PIL image has no box, an attribution is NaN or infinite,
            an image is not in [0, 1] after un-normalising, or an option is out of range.
        TypeError: If the images are neither ``uint8`` nor floating-point.

    Example:
        >>> import torch
        >>> from captum_excon.visualization import overlay
        >>> image = torch.full((1, 1, 1, 3), 0.5)
        >>> picture = overlay(image, torch.tensor([[[-1.0, 0.0, 2.0]]]), cmap="gray", alpha=0.5)
        >>> picture[0, 0, 0].tolist()
        [64, 64, 191]
    """
    if sign not in get_args(Sign):
        raise ValueError(f"sign must be one of {', '.join(get_args(Sign))}, not {sign!r}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}.")
    if isinstance(images, Image.Image) and box is None:
        raise ValueError(
            "a network sees only a part of a photograph: pass box=model.view(image), or the whole, "
            f"box=(0, 0, {images.width}, {images.height})."
        )
    given, maps = as_tensor(images), as_tensor(attributions)
    if isinstance(images, Image.Image) and maps.ndim == 4 and len(maps) == 1:
        maps = maps[0]
    photographs = unnormalized(given, mean, std)
    left, top, right, bottom = _pixels_of(box, photographs)
    seen = photographs[..., top:bottom, left:right]
    heat = _heat(maps, seen, single=given.ndim == 3)
    levels = _levels(heat, sign, vmin, vmax, outlier_perc)
    cmap = cmap or ("bwr" if sign == "all" else "inferno")
    blended = torch.lerp(seen, colours(levels, cmap), alpha)
    pictures = blended if box is None else _faded(photographs)
    pictures[..., top:bottom, left:right] = blended
    return quantized(pictures[0] if given.ndim == 3 else pictures)


def colours(levels: Tensor, cmap: str | Colormap) -> Tensor:
    """Returns the colours (N, 3, H, W) of positions in a colour map, (N, H, W) in [0, 1]."""
    table = matplotlib.colormaps.get_cmap(cmap)(np.linspace(0, 1, 256))[:, :3]
    found = torch.as_tensor(table, dtype=torch.float32, device=levels.device)
    return found[(levels * 255).round().long()].movedim(-1, 1)


def _pixels_of(box: Box | None, photographs: Tensor) -> tuple[int, int, int, int]:
    height, width = photographs.shape[-2:]
    if box is None:
        return 0, 0, width, height
    left, top, right, bottom = map(round, box)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"box must lie in the image of {width}x{height} pixels, not {box}.")
    return left, top, right, bottom


def _faded(photographs: Tensor) -> Tensor:
    gray = photographs.mean(1, keepdim=True).expand_as(photographs)
    return torch.lerp(gray, torch.ones_like(gray), 0.6)


def _heat(given: Tensor, photographs: Tensor, single: bool) -> Tensor:
    """Returns maps ``(N, H, W)`` at the size of the images, averaged over channels."""
    maps = given[None] if single else given
    maps = maps[:, None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or len(maps) != len(photographs) or 0 in maps.shape[1:]:
        expected = "(C, h, w) or (h, w)" if single else "(N, C, h, w) or (N, h, w)"
        raise ValueError(
            f"attributions of shape {tuple(given.shape)} do not fit {len(photographs)} image(s) "
            f"of size {tuple(photographs.shape[-2:])}: expected {expected}."
        )
    maps = maps.to(photographs.device, torch.float32).mean(dim=1, keepdim=True)
    if not maps.isfinite().all():
        raise ValueError("attributions contain NaN or infinite values.")
    size = photographs.shape[-2:]
    if maps.shape[-2:] != size:
        maps = interpolate(maps, size=size, mode="bilinear", align_corners=False)
    return maps[:, 0]


def _levels(
    heat: Tensor, sign: Sign, vmin: float | None, vmax: float | None, outlier_perc: float
) -> Tensor:
    """Returns the positions in the colour map, in [0, 1], of maps ``(N, H, W)``."""
    if sign == "all" and vmin is not None:
        raise ValueError('sign="all" is symmetric about 0: pass vmax alone, vmin is -vmax.')
    low = 0.0 if vmin is None else vmin
    if not math.isfinite(low) or (vmax is not None and not low < vmax < math.inf):
        raise ValueError(f"vmin and vmax must be finite and vmin < vmax, not {vmin} and {vmax}.")
    if not 0 <= outlier_perc < 100:
        raise ValueError(f"outlier_perc must be in [0, 100), not {outlier_perc}.")

    values = -heat.flatten(1) if sign == "negative" else heat.flatten(1)
    if sign != "all":
        values = values.abs() if sign == "absolute_value" else values.clamp(min=0)
    tiny = torch.finfo(values.dtype).tiny
    peak = values.abs().amax(dim=1, keepdim=True)
    high = _saturation(values.abs(), outlier_perc) if outlier_perc else peak
    if vmax is not None:
        high = torch.full_like(peak, vmax)
    if sign == "all":
        levels = (values / high.clamp(min=tiny) + 1) / 2
    elif vmin is None and vmax is None:
        smallest = values.amin(dim=1, keepdim=True)
        # A constant map has rounding noise after it was resized: an infinite scale hides it.
        high = high.where(peak - smallest > 1e-5 * peak, math.inf)
        levels = (values - smallest) / (high - smallest).clamp(min=tiny)
    else:
        levels = (values - low) / (high - low).clamp(min=tiny)
    return levels.clamp(0, 1).reshape(heat.shape)


def _saturation(magnitudes: Tensor, outlier_perc: float) -> Tensor:
    """Returns the magnitude up to which values make up ``100 - outlier_perc`` % of a map's sum."""
    ascending = magnitudes.sort(dim=1).values
    # Divided by the peak, so that the sum of a map of very large values stays finite.
    sums = (ascending / ascending[:, -1:].clamp(min=torch.finfo(ascending.dtype).tiny)).cumsum(1)
    reached = sums >= sums[:, -1:] * (1 - outlier_perc / 100)
    return ascending.gather(1, reached.int().argmax(dim=1, keepdim=True))
