"""Maps and masks as every metric needs them: checked, ranked, and tested for degeneracy."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_excon.attr._core.masks import minmax, varying

NOT_FINITE = "the map has NaN or infinite values"
CONSTANT = "the map is constant"
NO_MASS = "the map has no positive value"
EMPTY_MASK = "the mask is empty"


def check_images(images: Tensor) -> None:
    """Raises unless images are finite floating-point (N, C, H, W)."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be a floating-point tensor, but found {found}")
    if images.dim() != 4 or 0 in images.shape[1:]:
        raise ValueError(f"images must have shape (N, C, H, W), but found {tuple(images.shape)}")
    if not bool(images.isfinite().all()):
        raise ValueError("images contain NaN or infinite values; clean them first")


def check_maps(maps: Tensor, images: Tensor | None = None) -> Tensor:
    """Returns maps as (N, H, W) in float32 or float64, channels summed, on the images' device."""
    if not isinstance(maps, Tensor) or not (maps.is_floating_point() or maps.dtype == torch.bool):
        found = maps.dtype if isinstance(maps, Tensor) else type(maps).__name__
        raise TypeError(
            f"maps must be a floating-point or Boolean tensor, but found {found}; convert arrays "
            "with torch.from_numpy(maps).float()"
        )
    if maps.dim() not in (3, 4) or 0 in maps.shape[1:]:
        raise ValueError(
            f"maps must have shape (N, H, W) or (N, C, H, W), but found {tuple(maps.shape)}"
        )
    maps = maps.detach()
    if images is not None:
        expected = (len(images), *images.shape[2:])
        if (len(maps), *maps.shape[-2:]) != expected:
            raise ValueError(
                f"there must be one map per image, of the image's size: expected {expected}, but "
                f"found {(len(maps), *maps.shape[-2:])}; resize maps with "
                "captum.attr.LayerAttribution.interpolate"
            )
        maps = maps.to(images.device)
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return maps.sum(1) if maps.dim() == 4 else maps


def check_masks(masks: Tensor, maps: Tensor) -> Tensor:
    """Returns masks as (N, H, W) bool on the maps' device; ``maps`` are (N, H, W)."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks must be a tensor, but found {type(masks).__name__}")
    if masks.dim() == 4 and masks.shape[1] == 1:
        masks = masks.squeeze(1)
    if masks.shape != maps.shape:
        raise ValueError(
            "masks must have shape (N, H, W) or (N, 1, H, W) with the maps' size "
            f"{tuple(maps.shape)}, but found {tuple(masks.shape)}"
        )
    if not bool(((masks == 0) | (masks == 1)).all()):
        raise ValueError("masks must hold 0 and 1 only (or be Boolean); threshold them first")
    return masks.to(maps.device) == 1


def finite(maps: Tensor) -> Tensor:
    """Tells which (N, H, W) maps have finite values only, (N,) bool."""
    return maps.isfinite().flatten(1).all(1)


def informative(maps: Tensor) -> Tensor:
    """Tells which (N, H, W) maps are finite and not constant up to rounding, (N,) bool."""
    return finite(maps) & varying(maps.nan_to_num().unsqueeze(1)).squeeze(1)


def ranks(maps: Tensor, seed: int = 0) -> Tensor:
    """Returns the place of every pixel in descending order, (N, H, W) int64.

    The pixels are permuted before a stable sort, which breaks ties as infinitesimal noise would.
    The permutation depends on the size and the seed alone, so an image's order depends neither on
    the batch nor on the device.
    """
    flat = maps.flatten(1).nan_to_num()
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(flat.shape[1], generator=generator).to(flat.device)
    order = shuffled[flat[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).view(maps.shape)


def pixel_count(fraction: float, maps: Tensor) -> int:
    """Returns how many pixels a share of a map is, at least one; ValueError outside (0, 1]."""
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must lie in (0, 1], but found {fraction!r}")
    return max(1, round(fraction * maps.shape[1:].numel()))


def scaled(maps: Tensor) -> Tensor:
    """Scales each (N, H, W) map to [0, 1] by its extremes; one that is not informative is zero."""
    maps = torch.where(informative(maps).view(-1, 1, 1), maps, 0.0)
    return minmax(maps.unsqueeze(1))[0].squeeze(1)


def precise(x: Tensor) -> Tensor:
    """Returns the tensor in float64 if the device has it, so that sums do not depend on order."""
    return x.float() if x.device.type == "mps" else x.double()


def nan_where(undefined: Tensor, values: Tensor) -> Tensor:
    """Returns the values in float32, NaN where undefined."""
    return torch.where(undefined, torch.nan, values.float())


def nan_reasons(
    maps: Tensor, masks: Tensor | None = None, *, mass: bool = False
) -> list[str | None]:
    """Returns for each image why its metrics are NaN.

    Constant maps and maps with NaN or infinite values do not rank pixels, so their metrics are NaN
    rather than a meaningless number. So are localization metrics of an empty mask.

    Args:
        maps: As for the metric, (N, H, W) or (N, C, H, W).
        masks: As for the metric; only localization metrics have them.
        mass: Whether the metric needs positive values, as `ebpg` does.

    Returns:
        A reason, or None where the metric is defined, for each image.

    Example:
        >>> nan_reasons(torch.stack([torch.zeros(2, 2), torch.eye(2)]))
        ['the map is constant', None]
    """
    maps = check_maps(maps)
    tests = [(NOT_FINITE, ~finite(maps)), (CONSTANT, ~informative(maps))]
    if mass:
        tests.append((NO_MASS, ~(maps > 0).flatten(1).any(1)))
    if masks is not None:
        tests.append((EMPTY_MASK, ~check_masks(masks, maps).flatten(1).any(1)))
    failed = [(reason, test.tolist()) for reason, test in tests]
    return [next((r for r, hit in failed if hit[i]), None) for i in range(len(maps))]
