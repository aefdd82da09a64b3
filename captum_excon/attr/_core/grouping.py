"""Groups of feature maps that light up in the same places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from captum_excon.attr._core.masks import widest

_STEPS = 10


def grouped(maps: Tensor, groups: int) -> Tensor:
    """Clusters the maps of each row by cosine similarity and sums each cluster.

    Deterministic spherical k-means. The first center is the map of the largest mass; each next one
    has the largest product of the root of its mass and one minus its largest cosine to the others.

    Args:
        maps: Non-negative maps (B, K, P) of P positions; all-zero maps belong to no cluster.
        groups: The number of clusters.

    Returns:
        The clusters' sums, (B, groups, P); zero where there are fewer different maps.
    """
    # In float64, since a rounded cosine could change a map's cluster.
    with torch.autocast(maps.device.type, enabled=False):
        return _clustered(maps.to(widest(maps.device)), groups).to(maps.dtype)


def _clustered(maps: Tensor, groups: int) -> Tensor:
    mass = maps.sum(2)
    directions = F.normalize(maps, dim=2)
    rows = torch.arange(len(maps), device=maps.device)
    seeds = [directions[rows, mass.argmax(1)]]
    nearest = (directions @ seeds[0].unsqueeze(2)).squeeze(2)
    for _ in range(1, min(groups, maps.shape[1])):
        # A copy of a seed is as near as rounding allows.
        distance = torch.where(nearest < 1 - 1e-5, 1 - nearest, 0.0)
        gain, index = (distance * mass.sqrt()).max(1)
        seeds.append(directions[rows, index] * (gain > 0).unsqueeze(1))
        nearest = torch.maximum(nearest, (directions @ seeds[-1].unsqueeze(2)).squeeze(2))
    centers = torch.stack(seeds, 1)
    for _ in range(_STEPS):
        sums = _members(directions, centers).mT @ maps
        centers = torch.where(sums.any(2, keepdim=True), F.normalize(sums, dim=2), centers)
    sums = _members(directions, centers).mT @ maps
    return F.pad(sums, (0, 0, 0, groups - sums.shape[1]))


def _members(directions: Tensor, centers: Tensor) -> Tensor:
    """Which center each map belongs to, (B, K, groups) in the maps' dtype."""
    return F.one_hot((directions @ centers.mT).argmax(2), centers.shape[1]).to(directions)
