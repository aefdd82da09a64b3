"""The pointing game: does a map's highest point lie on the object?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from captum_excon.metrics._maps import check_maps, check_masks, informative, nan_where, ranks


class ClassMean(NamedTuple):
    """The means and counts of K classes that `class_mean` returns."""

    mean: Tensor  # of the classes' means, a scalar
    classes: Tensor  # in ascending order, (K,) int64
    means: Tensor  # of each class, (K,) float32; NaN where all of its values are
    counts: Tensor  # how many values each mean averages, (K,) int64
    undefined: Tensor  # how many values of each class were NaN, (K,) int64


def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: float = 15.0, seed: int = 0) -> Tensor:
    """Pointing game: 1 where the map's highest point is within ``tolerance`` of the object.

    Distances are Euclidean, in pixels of the map. If several pixels share the highest value, a
    permutation drawn from ``seed`` picks one. Higher is better; `class_mean` makes the accuracy.

    Reference: Zhang et al., *Top-down Neural Attention by Excitation Backprop*, ECCV 2016,
    https://arxiv.org/abs/1608.00507.

    Args:
        maps: (N, H, W) or (N, C, H, W), whose channels are summed.
        masks: The objects of one class, (N, H, W) or (N, 1, H, W), Boolean or 0 and 1.
        tolerance: In pixels, at least 0; the paper's 15 is for images of their original size.
        seed: Breaks ties.

    Returns:
        1 or 0, (N,) float32; NaN for constant and non-finite maps and for empty masks, see
        `nan_reasons`.

    Example:
        >>> saliency, mask = torch.tensor([[[3.0, 0.0, 0.0, 1.0]]]), torch.tensor([[[0, 0, 1, 1]]])
        >>> pointing_game(saliency, mask, tolerance=1), pointing_game(saliency, mask, tolerance=2)
        (tensor([0.]), tensor([1.]))
    """
    if not isinstance(tolerance, (int, float)) or not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0 pixels, but found {tolerance!r}")
    maps = check_maps(maps)
    masks = check_masks(masks, maps)
    height, width = maps.shape[1:]
    top = ranks(maps, seed).flatten(1).argmin(1)
    rows = torch.arange(height, device=maps.device).view(1, -1, 1)
    columns = torch.arange(width, device=maps.device).view(1, 1, -1)
    squared = (rows - (top // width).view(-1, 1, 1)) ** 2
    squared = squared + (columns - (top % width).view(-1, 1, 1)) ** 2
    hit = ((squared <= tolerance**2) & masks).flatten(1).any(1)
    return nan_where(~informative(maps) | ~masks.flatten(1).any(1), hit)


def class_mean(values: Tensor, classes: Tensor) -> ClassMean:
    """Averages values within each class and then over classes: the pointing game's accuracy.

    NaN values enter no mean; they are counted, to be reported beside it.

    Args:
        values: One per image and class in it, (R,).
        classes: The class of each value, (R,) integers.

    Example:
        >>> hits = torch.tensor([1.0, 1.0, 0.0, torch.nan, 0.0])
        >>> result = class_mean(hits, torch.tensor([3, 3, 3, 7, 7]))
        >>> result.mean, result.means, result.undefined
        (tensor(0.3333), tensor([0.6667, 0.0000]), tensor([0, 1]))
    """
    if values.dim() != 1 or values.shape != classes.shape:
        raise ValueError(
            "values and classes must have the same shape (R,), but found "
            f"{tuple(values.shape)} and {tuple(classes.shape)}"
        )
    present, index = torch.unique(classes.to(values.device), return_inverse=True)
    defined = ~values.isnan()
    zeros = torch.zeros(len(present), dtype=torch.long, device=values.device)
    total = zeros.to(values.dtype).index_add(0, index, values.nan_to_num())
    counts = zeros.index_add(0, index, defined.long())
    undefined = zeros.index_add(0, index, (~defined).long())
    means = total / counts
    return ClassMean(means.nanmean(), present, means, counts, undefined)


def difficult(masks: Tensor, distractors: Tensor, *, largest: float = 0.25) -> Tensor:
    """Tells which images belong to the pointing game's "difficult" set, (N,) Boolean.

    In these, objects of the class cover less than a quarter of the image, and there is an object of
    another class. The paper measures the objects' boxes, so pass boxes as masks.

    Args:
        masks: The objects of the class, (N, H, W) or (N, 1, H, W), Boolean or 0 and 1.
        distractors: Whether there are objects of other classes, (N,) Boolean.
        largest: The share of the image that the objects must not reach.
    """
    flat = masks.flatten(1).float()
    if distractors.shape != flat.shape[:1]:
        raise ValueError(
            f"distractors must be one flag per mask, {tuple(flat.shape[:1])}, but found "
            f"{tuple(distractors.shape)}"
        )
    return (flat.mean(1) < largest) & distractors.to(masks.device).bool()
