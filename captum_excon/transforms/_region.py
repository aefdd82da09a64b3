"""Turns saliency maps into regions: the salient pixels, or as many at random places."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor

from captum_excon.attr._core.masks import varying

Placement: TypeAlias = Literal["shift", "shuffle"]


def check_region(threshold: float | None, keep_ratio: float | None) -> None:
    """Raises ValueError for options that `salient_region` does not take."""
    if keep_ratio is not None:
        if not 0 < keep_ratio < 1:
            raise ValueError(f"keep_ratio must lie between 0 and 1, but found {keep_ratio!r}")
    elif threshold is None:
        raise ValueError("one of threshold and keep_ratio is needed, but both are None")
    elif not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and below 1, but found {threshold!r}")


def check_placement(placement: Placement) -> None:
    """Raises ValueError for a placement that `displaced` does not take."""
    if placement not in ("shift", "shuffle"):
        raise ValueError(f'placement must be "shift" or "shuffle", but found {placement!r}')


def salient_region(
    maps: Tensor, threshold: float | None = 0.5, keep_ratio: float | None = None
) -> tuple[Tensor, Tensor]:
    r"""Selects the salient pixels of each image.

    With a threshold τ, as ExCon's official code does, those where the map, scaled to [0, 1], is
    strictly larger: :math:`(m - \min m) / (\max m - \min m) > \tau`. With a ratio q, those of the
    round(q H W) largest values, at least one; of equal values the first in reading order.

    Returns the region (N, 1, H, W) bool, and which maps are unusable, (N,) bool: constant up to
    rounding, or not finite [ours]. Their region is empty.
    """
    check_region(threshold, keep_ratio)
    varies = varying(maps)
    if keep_ratio is not None:
        region = _largest(maps.flatten(1), keep_ratio).view_as(maps)
    else:
        low, high = (v.view(-1, 1, 1, 1) for v in maps.flatten(1).aminmax(dim=1))
        region = (maps - low) / (high - low) > cast(float, threshold)
    return region & varies[..., None, None], ~varies[:, 0]


def _largest(values: Tensor, ratio: float) -> Tensor:
    """Marks the largest values of each row (N, L); several times faster than a stable sort."""
    count = max(1, round(ratio * values.shape[1]))
    last = values.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, ties = values > last, values == last
    return above | (ties & (ties.cumsum(1) <= count - above.sum(1, keepdim=True)))


def displaced(
    region: Tensor, placement: Placement, generator: torch.Generator | None = None
) -> Tensor:
    """Moves regions (N, 1, H, W) to random places, anew for each image, and keeps their areas.

    ``"shift"`` moves a region as it is, around the borders; ``"shuffle"`` scatters its pixels.
    """
    check_placement(placement)
    count, (height, width) = len(region), region.shape[-2:]
    if placement == "shuffle":
        order = _uniform((count, height * width), region.device, generator).argsort(dim=1)
    else:
        start = _uniform((2, count, 1), region.device, generator)
        rows = (start[0] * height + torch.arange(height, device=region.device)).long() % height
        columns = (start[1] * width + torch.arange(width, device=region.device)).long() % width
        order = (rows.unsqueeze(2) * width + columns.unsqueeze(1)).flatten(1)
    return region.flatten(1).gather(1, order).view_as(region)


def kept_area(region: Tensor, constant: Tensor) -> Tensor:
    """Returns the mean share of pixels in regions of usable maps, a scalar; 0 without any."""
    return region.flatten(1).float().mean(1).sum() / (~constant).sum().clamp(min=1)


def mean_share(flags: Tensor) -> Tensor:
    """Returns the share of True among flags (N,), a scalar; 0 for an empty batch."""
    return flags.sum() / max(1, len(flags))


def _uniform(
    shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None
) -> Tensor:
    place = device if generator is None else generator.device
    return torch.rand(shape, device=place, generator=generator).to(device)
