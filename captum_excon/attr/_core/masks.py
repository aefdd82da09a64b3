"""Feature map -> mask -> saliency map: pure tensor functions.

Shapes: N images, K maps of a layer, R rows (kept maps of all images and layers), T targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_excon._messages import warn

_BINS = 256
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(maps: Tensor, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Interpolates (N, C, *spatial) maps linearly."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    mode = _INTERPOLATION[len(size)]
    return F.interpolate(maps, tuple(size), mode=mode, align_corners=align_corners)


def select_fixed(weights: Tensor, threshold: float) -> Tensor:
    """SISE's selection, (..., K) bool: positive and above μ = ``threshold`` times the largest."""
    return (weights > 0) & (weights > threshold * weights.amax(-1, keepdim=True))


def select_adaptive(weights: Tensor) -> Tensor:
    """Ada-SISE's selection: above the Otsu threshold of the positive weights, or the largest."""
    largest = weights.amax(-1, keepdim=True)
    normalized = torch.where(largest > 0, weights / largest, 0.0)
    positive = normalized > 0
    flat = normalized.flatten(0, -2)
    threshold = otsu(flat, positive.flatten(0, -2)).reshape(largest.shape)
    return positive & ((normalized > threshold) | (weights == largest))


def otsu(values: Tensor, valid: Tensor | None = None) -> Tensor:
    """Otsu's threshold of each row's ``valid`` values: (B, P) in [0, 1] -> (B,).

    As in ``skimage.filters.threshold_otsu``, it is the centre of the lower class's last bin, of 256
    bins on [0, 1]; use it with a strict ``>``.

    Reference: Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    dtype = widest(values.device)
    bins = (values * _BINS).long().clamp_(0, _BINS - 1)
    ones = torch.ones_like(values, dtype=dtype) if valid is None else valid.to(dtype)
    counts = torch.zeros(len(values), _BINS, dtype=dtype, device=values.device)
    counts.scatter_add_(1, bins, ones)
    centers = (torch.arange(_BINS, dtype=dtype, device=values.device) + 0.5) / _BINS
    below = counts.cumsum(1)
    above = counts.flip(1).cumsum(1).flip(1)
    mass_below = (counts * centers).cumsum(1)
    mass_above = (counts * centers).flip(1).cumsum(1).flip(1)
    mean_below = mass_below / below.clamp(min=1)
    mean_above = mass_above / above.clamp(min=1)
    variance = below[:, :-1] * above[:, 1:] * (mean_below[:, :-1] - mean_above[:, 1:]).square()
    return centers[variance.argmax(1)].to(values.dtype)


def weighted_sum(weights: Tensor, maps: Tensor) -> Tensor:
    """Sums maps by weights in float64, free of TF32: (..., T, R) @ (..., R, P) -> (..., T, P)."""
    wide = widest(maps.device)
    with torch.autocast(maps.device.type, enabled=False):
        return (weights.to(wide) @ maps.to(wide)).to(maps.dtype)


def channel_sum(weights: Tensor, maps: Tensor) -> Tensor:
    """Sums maps over their channels: (T, N, K) and (N, K, *spatial) -> (T, N, 1, *spatial)."""
    flat = maps.reshape(*maps.shape[:2], -1)
    summed = weighted_sum(weights.transpose(0, 1), flat).transpose(0, 1)
    return summed.reshape(*summed.shape[:2], 1, *maps.shape[2:])


def widest(device: torch.device) -> torch.dtype:
    """Returns float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def column(values: Tensor, dims: int) -> Tensor:
    """Views (N,) values as (N, 1, ...) of ``dims`` dimensions."""
    return values.view(-1, *(1,) * (dims - 1))


def minmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Scales each (N, 1, *spatial) map to [0, 1] and tells which vary, (N,) bool.

    A map that is constant up to rounding becomes zero.
    """
    low, high = maps.flatten(1).aminmax(dim=1)
    span = high - low
    varies = _apart(low, high)
    low, span = column(low, maps.dim()), column(torch.where(varies, span, 1.0), maps.dim())
    return (maps - low) / span * column(varies, maps.dim()), varies


def varying(maps: Tensor) -> Tensor:
    """Which (N, K, *spatial) maps are not constant up to rounding, (N, K) bool."""
    return _apart(*maps.flatten(2).aminmax(dim=2))


def _apart(low: Tensor, high: Tensor) -> Tensor:
    return (high - low) > 8 * torch.finfo(low.dtype).eps * torch.maximum(low.abs(), high.abs())


def warn_of_empty(maps: Sequence[Tensor], name: str, reason: str) -> None:
    """Warns of images whose ``maps``, each (N, C, *spatial), are all zero."""
    empty = int((~torch.stack([m.flatten(1).any(1) for m in maps]).any(0)).sum())
    if empty:
        warn(f"{name}: {empty} of {len(maps[0])} maps are all zero: {reason}")


class FeatureMasks:
    """The kept feature maps of all layers and images as rows of masks, at layer resolution.

    Rows are ordered by layer, then image. Chunks are up-sampled on demand; their minima, spans and
    areas, which differ from those of the small maps, are remembered for `combine`.

    Args:
        maps: For each layer (N, K, *spatial).
        keep: For each layer the maps to use, (N, K) bool, or None for all but constant ones.
        sizes: The spatial size of each input.
        align_corners: How maps are up-sampled.
    """

    def __init__(
        self,
        maps: list[Tensor],
        keep: list[Tensor] | None,
        sizes: list[tuple[int, ...]],
        *,
        align_corners: bool = False,
    ) -> None:
        for m in maps:
            if m.dim() < 3:
                raise ValueError(
                    f"a layer gives vectors of shape {tuple(m.shape)}, but masks need feature maps "
                    "(N, C, *spatial); choose an earlier layer"
                )
        # Half precision would lose the differences between small sums over many masks.
        maps = [m.to(torch.promote_types(m.dtype, torch.float32)) for m in maps]
        self.maps = maps
        self.sizes = sizes
        self.align_corners = align_corners
        usable = [varying(m) for m in maps]
        if keep is not None:
            usable = [u & k for u, k in zip(usable, keep, strict=True)]
        self.index = [u.nonzero(as_tuple=True) for u in usable]
        self.image = torch.cat([image for image, _ in self.index])
        self.bounds = [0]
        for image, _ in self.index:
            self.bounds.append(self.bounds[-1] + len(image))
        # low, span and area for each input size and row
        self.statistics = maps[0].new_zeros(3, len(sizes), len(self.image))

    def __len__(self) -> int:
        return len(self.image)

    def masks(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Returns the masks of rows ``start`` to ``stop``, (rows, 1, *size) for each input size."""
        pieces: list[list[Tensor]] = [[] for _ in self.sizes]
        for layer, first, last in self._layers(start, stop):
            small = self._rows(layer, first, last).unsqueeze(1)
            at = slice(self.bounds[layer] + first, self.bounds[layer] + last)
            for i, size in enumerate(self.sizes):
                up = resize(small, size, align_corners=self.align_corners)
                low, high = up.flatten(1).aminmax(dim=1)
                span = torch.where(high > low, high - low, 1.0)
                up = (up - column(low, up.dim())).div_(column(span, up.dim()))
                self.statistics[:, i, at] = torch.stack([low, span, up.flatten(1).sum(1)])
                pieces[i].append(up)
        return tuple(p[0] if len(p) == 1 else torch.cat(p) for p in pieces)

    def areas(self) -> Tensor:
        """Returns Σ_λ m(λ) of every mask made so far, (inputs, R)."""
        return self.statistics[2]

    def combine(self, weights: Tensor, input_index: int) -> list[Tensor]:
        """Returns Σ_r weights_r m_r of one input's masks, (T, N, *spatial), for each layer.

        The sum, with weights (T, R), is at the layer's resolution: up-sampling is linear and keeps
        constants, so it may follow the sum of the maps, each scaled and shifted as its mask was.
        """
        low, span, _ = self.statistics[:, input_index]
        scaled = weights / span
        results = []
        for layer, maps in enumerate(self.maps):
            first = self.bounds[layer]
            counts = torch.bincount(self.index[layer][0], minlength=len(maps)).tolist()
            total = maps.new_zeros(len(weights), len(maps), *maps.shape[2:])
            for n, count in enumerate(counts):
                if count:
                    rows = slice(first, first + count)
                    start = first - self.bounds[layer]
                    small = self._rows(layer, start, start + count).flatten(1)
                    summed = weighted_sum(scaled[:, rows], small - low[rows].unsqueeze(1))
                    total[:, n] = summed.view(-1, *maps.shape[2:])
                first += count
            results.append(total)
        return results

    def _layers(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The layers that rows ``start`` to ``stop`` belong to, with their own row ranges."""
        found = []
        for layer, (low, high) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            first, last = max(start, low), min(stop, high)
            if first < last:
                found.append((layer, first - low, last - low))
        return found

    def _rows(self, layer: int, first: int, last: int) -> Tensor:
        image, channel = self.index[layer]
        return self.maps[layer][image[first:last], channel[first:last]]
