"""Fusion of the maps of several layers into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_excon.attr._core.masks import column, otsu, resize

Fusion = Literal["otsu", "soft_otsu", "sum", "gated", "product"] | Callable[[list[Tensor]], Tensor]

_FUSIONS = ("otsu", "soft_otsu", "sum", "gated", "product")


def fuse_layers(
    layer_maps: Sequence[Tensor],
    size: Sequence[int],
    *,
    fusion: Fusion = "gated",
    smooth: float = 0.25,
) -> Tensor:
    r"""Fuses the maps of any `captum.attr.LayerAttribution` at several layers into one.

    Each map is up-sampled linearly, rectified and divided by its maximum: :math:`\hat V_b`. The
    default gate, :math:`E_1 = \hat V_1` and :math:`E_b = (E_{b-1} + \hat V_b) \odot \hat V_b`, is
    SISE's fusion with the deeper map itself instead of its Otsu region: the result ranks all
    positions, and the deepest map decides. A map without a positive value is left out.

    Args:
        layer_maps: Maps (N, C, \*spatial), shallow to deep, whose channels are summed.
        size: The spatial size of the result.
        fusion: As in `MultiLayerSISE.attribute`.
        smooth: σ of a Gaussian over the result, in cells of the last map. A quarter removes the
            kinks of linear up-sampling; 0 is none.

    Returns:
        Non-negative maps (N, 1, \*size), zero for an image none of whose maps is positive.

    Raises:
        ValueError: Shapes or options are not as described.

    Example:
        >>> import torch
        >>> from captum.attr import LayerGradCam
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2),
        ...                       nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        >>> images = torch.rand(2, 3, 32, 32)
        >>> maps = [LayerGradCam(model, model[i]).attribute(images, target=1) for i in (1, 3)]
        >>> fuse_layers(maps, (32, 32)).shape
        torch.Size([2, 1, 32, 32])
    """
    check_fusion(fusion)
    check_smooth(smooth)
    if not layer_maps or any(m.dim() != len(size) + 2 for m in layer_maps):
        raise ValueError(
            f"layer_maps must be at least one map (N, C, *spatial) with {len(size)} spatial "
            f"dimensions, but found {[tuple(m.shape) for m in layer_maps]}"
        )
    scaled = [positive(resize(m.detach().sum(1, keepdim=True), size)) for m in layer_maps]
    fused = fuse([v for v, _ in scaled], [p for _, p in scaled], fusion)
    return gaussian(fused, smooth, layer_maps[-1].shape[2:])


def check_fusion(fusion: Fusion) -> None:
    """Raises ValueError for an unknown fusion."""
    if not callable(fusion) and fusion not in _FUSIONS:
        raise ValueError(f"fusion must be one of {_FUSIONS} or a callable, but found {fusion!r}")


def check_smooth(smooth: float) -> None:
    """Raises ValueError unless ``smooth`` is a finite number of cells, at least 0."""
    if not isinstance(smooth, (int, float)) or not 0 <= smooth < float("inf"):
        raise ValueError(f"smooth must be a number of cells >= 0, but found {smooth!r}")


def positive(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Scales rectified (N, 1, *spatial) maps to a maximum of 1; also tells which have one, (N,)."""
    maps = maps.relu()
    top = maps.flatten(1).amax(1)
    return maps / column(torch.where(top > 0, top, 1.0), maps.dim()), top > 0


def fuse(layer_maps: list[Tensor], present: list[Tensor], fusion: Fusion) -> Tensor:
    """Fuses the layers' maps from shallow to deep; each (N, 1, *spatial) in [0, 1].

    Args:
        layer_maps: The paper's V̂_b, zero for an image without a map.
        present: For each layer which images have a map, (N,) bool; an absent one adds nothing and
            does not mask.
        fusion: E_b = (E_{b-1} + V̂_b) ⊙ g, where g is [V̂_b > t] with Otsu's t for ``"otsu"``,
            sigmoid(100 (V̂_b - t)) for ``"soft_otsu"``, with 1.5 t unless a tenth of the pixels
            exceed it, and V̂_b for ``"gated"``; or ``"sum"``, ``"product"`` or a callable.
    """
    if callable(fusion):
        return _called(fusion, layer_maps)
    if fusion == "sum":
        return torch.stack(layer_maps).sum(0)
    fused, begun = layer_maps[0], present[0]
    for current, here in zip(layer_maps[1:], present[1:], strict=True):
        if fusion == "product":
            joined = fused * current
        else:
            joined = (fused + current) * _support(current, fusion)
        if fusion in ("gated", "product"):
            joined = torch.where(column(begun, current.dim()), joined, current)
        fused = torch.where(column(here, current.dim()), joined, fused)
        begun = begun | here
    return fused


def _support(current: Tensor, fusion: Fusion) -> Tensor:
    """The factor g of `fuse`."""
    if fusion == "gated":
        return current
    threshold = column(otsu(current.flatten(1)), current.dim())
    if fusion == "otsu":
        return (current > threshold).to(current)
    raised = 1.5 * threshold
    share = column((current > raised).flatten(1).float().mean(1), current.dim())
    threshold = torch.where(share < 0.1, raised, threshold)
    return torch.sigmoid(100 * (current - threshold))


def _called(fusion: Callable[[list[Tensor]], Tensor], layer_maps: list[Tensor]) -> Tensor:
    fused = fusion(layer_maps)
    if not isinstance(fused, Tensor) or fused.shape != layer_maps[0].shape:
        raise ValueError(
            f"a fusion callable must return one map of shape {tuple(layer_maps[0].shape)}, but "
            f"returned {tuple(fused.shape) if isinstance(fused, Tensor) else type(fused).__name__}"
        )
    if not bool(torch.isfinite(fused).all()):
        raise ValueError("the fusion callable returned NaN or infinite values")
    return fused


def gaussian(maps: Tensor, cells: float, grid: Sequence[int]) -> Tensor:
    """Smooths (N, 1, *spatial) maps, reflected at their borders.

    ``cells`` is σ in cells of a grid that covers the map, with ``grid`` cells along each dimension.
    """
    for dim, count in enumerate(grid, start=2):
        length = maps.shape[dim]
        sigma = cells * length / count
        radius = min(round(3 * sigma), length - 1)
        if radius > 0:
            offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
            kernel = torch.exp(-0.5 * (offsets / sigma).square())
            rows = maps.movedim(dim, -1)
            padded = F.pad(rows.reshape(-1, 1, length), (radius, radius), mode="reflect")
            with torch.autocast(maps.device.type, enabled=False):
                smoothed = F.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))
            maps = smoothed.view(rows.shape).movedim(-1, dim)
    return maps
