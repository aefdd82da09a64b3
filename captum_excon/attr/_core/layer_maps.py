"""The saliency map of each layer, from masks or from gradients, at the inputs' sizes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_excon.attr._core.fusion import positive
from captum_excon.attr._core.masks import FeatureMasks, channel_sum, minmax, resize
from captum_excon.attr._core.scoring import Batch


class LayerMaps(NamedTuple):
    """The layers' maps of one target, at the size of one input."""

    maps: list[Tensor]  # (N, 1, *spatial) in [0, 1], zero for an image without a map
    present: list[Tensor]  # which images have one, (N,) bool


def scored_maps(batch: Batch, maps: list[Tensor], keep: list[Tensor]) -> list[list[LayerMaps]]:
    """SISE's V̂ for each target and input: masks weighted by their score over their area.

    The union of the targets' masks is scored once.

    Args:
        batch: N images and T readouts.
        maps: For each layer (N, K, *spatial).
        keep: For each layer the maps that are masks, (T, N, K) bool.
    """
    masks = FeatureMasks(maps, [k.any(0) for k in keep], batch.sizes)
    scores = batch.score(masks)
    kept = torch.cat([k[:, n, c] for k, (n, c) in zip(keep, masks.index, strict=True)], dim=1)
    results: list[list[LayerMaps]] = [[] for _ in batch.readouts]
    for i, (size, area) in enumerate(zip(batch.sizes, masks.areas(), strict=True)):
        # The mean over masks is left a sum: the maps are scaled to [0, 1] next.
        summed = masks.combine(torch.where(area > 0, scores / area, 0.0) * kept, i)
        for t, result in enumerate(results):
            scaled = [minmax(resize(v[t].unsqueeze(1), size)) for v in summed]
            result.append(LayerMaps([v for v, _ in scaled], [p for _, p in scaled]))
    return results


def gradient_maps(
    maps: list[Tensor],
    weights: list[Tensor],
    sizes: list[tuple[int, ...]],
    *,
    mirrored: bool = False,
) -> list[list[LayerMaps]]:
    """Grad-CAM for each target and input: up-sampled, rectified and divided by its maximum.

    Args:
        maps: For each layer (N, K, *spatial).
        weights: For each layer the targets' mean gradients, (T, N, K).
        sizes: The inputs' spatial sizes.
        mirrored: Reverse the last dimension of the result.
    """
    cams = [channel_sum(w, m.to(w.dtype)) for m, w in zip(maps, weights, strict=True)]
    if mirrored:
        cams = [cam.flip(-1) for cam in cams]
    results = []
    for per_target in zip(*cams, strict=True):
        scaled = [[positive(resize(cam, size)) for cam in per_target] for size in sizes]
        results.append([LayerMaps([v for v, _ in s], [p for _, p in s]) for s in scaled])
    return results
