"""How much of a map, or of its top pixels, lies on the object."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_excon.metrics._maps import (
    check_maps,
    check_masks,
    informative,
    nan_where,
    pixel_count,
    precise,
    ranks,
    scaled,
)


def ebpg(maps: Tensor, masks: Tensor) -> Tensor:
    r"""Energy-based pointing game: the share of the map's positive values that is on the object.

    :math:`\sum_{\lambda \in M} a_\lambda / \sum_\lambda a_\lambda` with
    :math:`a = \max(0, \mathrm{map})`. In [0, 1]; higher is better, and a random map scores the
    object's share of the image. Equals Quantus's ``RelevanceMassAccuracy`` of the rectified map.

    Reference: Wang et al., *Score-CAM*, CVPR Workshops 2020, https://arxiv.org/abs/1910.01279.

    Args:
        maps: (N, H, W) or (N, C, H, W), whose channels are summed.
        masks: The objects' boxes or pixels, (N, H, W) or (N, 1, H, W), Boolean or 0 and 1.

    Returns:
        Shares, (N,) float32; NaN for constant and non-finite maps, for maps without a positive
        value and for empty masks, see `nan_reasons` (with ``mass=True``).

    Example:
        >>> ebpg(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, True]]]))
        tensor([0.7500])
    """
    maps, masks, undefined = _prepared(maps, masks)
    energy = precise(maps.clamp(min=0)).flatten(1)
    total = energy.sum(1)
    share = (energy * masks.flatten(1)).sum(1) / total
    return nan_where(undefined | (total == 0), share)


def bbox(maps: Tensor, masks: Tensor, *, seed: int = 0) -> Tensor:
    """Bbox: the share of the top n pixels that are on the object, n being its area.

    In [0, 1]; higher is better, and a random map scores the object's share of the image. Equals
    Quantus's ``RelevanceRankAccuracy`` if no pixels tie; here ties are broken by a permutation
    drawn from ``seed``.

    Reference: Schulz et al., *Restricting the Flow: Information Bottlenecks for Attribution*, ICLR
    2020, https://arxiv.org/abs/2001.00396.

    Takes the arguments of `ebpg`; ``seed`` breaks ties.

    Returns:
        Shares, (N,) float32; NaN for constant and non-finite maps and for empty masks, see
        `nan_reasons`.

    Example:
        >>> bbox(torch.tensor([[[3.0, 1.0, -5.0]]]), torch.tensor([[[True, False, True]]]))
        tensor([0.5000])
    """
    maps, masks, undefined = _prepared(maps, masks)
    area = masks.flatten(1).sum(1)
    hits = ((ranks(maps, seed).flatten(1) < area.unsqueeze(1)) & masks.flatten(1)).sum(1)
    return nan_where(undefined, precise(hits) / area)


def miou(
    maps: Tensor,
    masks: Tensor,
    *,
    fraction: float = 0.2,
    threshold: float | None = None,
    seed: int = 0,
) -> Tensor:
    r"""IoU of the binarised map and the object; its mean over images is the papers' mIoU.

    :math:`|R \cap M| / |R \cup M|`, where R is the top ``fraction`` of pixels (exactly
    round(fraction · H · W), at least one; ties broken by a permutation drawn from ``seed``), or,
    with a ``threshold``, the pixels above it once the map is scaled to [0, 1] by its least and
    greatest value. In [0, 1]; higher is better.

    Args:
        maps: As in `ebpg`.
        masks: As in `ebpg`.
        fraction: The share of pixels in R, in (0, 1]; ignored if there is a threshold.
        threshold: In [0, 1), or None for the top fraction.
        seed: Breaks ties.

    Returns:
        IoU, (N,) float32; NaN for constant and non-finite maps and for empty masks, see
        `nan_reasons`.

    Example:
        >>> saliency, mask = torch.tensor([[[3.0, 2.0, 1.0]]]), torch.tensor([[[0, 1, 1]]])
        >>> miou(saliency, mask, fraction=2 / 3)
        tensor([0.3333])
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0, 1) or be None, but found {threshold!r}")
    maps, masks, undefined = _prepared(maps, masks)
    if threshold is None:
        region = ranks(maps, seed) < pixel_count(fraction, maps)
    else:
        region = scaled(maps) > threshold
    both = (region & masks).flatten(1).sum(1)
    either = (region | masks).flatten(1).sum(1)
    return nan_where(undefined, precise(both) / either)


def _prepared(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns maps and masks, (N, H, W) each, and which images have no value, (N,)."""
    maps = check_maps(maps)
    masks = check_masks(masks, maps)
    undefined = ~informative(maps) | ~masks.flatten(1).any(1)
    return torch.where(informative(maps).view(-1, 1, 1), maps, 0.0), masks, undefined
