"""Drop and Increase: the score of the pixels that a map keeps, against the whole image's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from captum_excon.attr._core.captum import ForwardFunc
from captum_excon.metrics._imputation import FadeTo, Imputation, fill_values, remover
from captum_excon.metrics._maps import (
    check_maps,
    informative,
    nan_where,
    pixel_count,
    ranks,
    scaled,
)
from captum_excon.metrics.scorer import Scorer, Scoring, scorer_of

if TYPE_CHECKING:
    from typing_extensions import Unpack


class DropIncrease(NamedTuple):
    """The values that `drop_increase` and its relatives return."""

    drop: Tensor  # the share of the score that is lost, in [0, 1]; lower is better
    increase: Tensor  # 1 where the score grows, else 0; higher is better


def drop_increase(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    fraction: float = 0.15,
    fill: Imputation = 0.0,
    seed: int = 0,
    **scoring: Unpack[Scoring],
) -> DropIncrease:
    r"""Drop % and Increase % of SISE and ExCon: the top pixels alone, as a binary mask.

    With p the score of the image and o that of its top ``fraction`` of pixels alone,
    :math:`\mathrm{drop} = \max(0, p - o) / p` and :math:`\mathrm{increase} = [o > p]`; the papers
    report 100 times the means over images. Exactly round(fraction · H · W) pixels are kept (at
    least one), and ties between pixels are broken by a permutation drawn from ``seed`` [ours]. A
    score of zero cannot drop: its drop is 0. For scores other than probabilities (``"identity"``),
    the drop means what the papers mean only where they are positive; other originals give NaN.

    Reference: Sattarzadeh et al., *Explaining Convolutional Neural Networks through Attribution-
    Based Input Sampling and Block-Wise Feature Aggregation*, AAAI 2021,
    https://arxiv.org/abs/2010.00672.

    Args:
        forward_func: The model, any function of the images that returns a tensor (N, ...), or a
            `Scorer` of these images.
        images: (N, C, H, W), as the model expects them.
        maps: One per image, (N, H, W) or (N, C, H, W), whose channels are summed.
        fraction: The share of pixels to keep, in (0, 1]; the papers keep 15 %.
        fill: What the other pixels become, as in `perturbation_curve`; the papers' are 0.
        seed: Breaks ties.
        **scoring: ``target``, ``score`` (the papers' is ``"softmax"``), ``additional_forward_args``
            and ``batch_size``, as in `Scorer`; none beside a scorer.

    Returns:
        drop and increase, (N,) float32 each; NaN for constant and non-finite maps, see
        `nan_reasons`.

    Example:
        >>> image = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]]]])
        >>> model = lambda x: x.sum((2, 3))
        >>> drop, increase = drop_increase(model, image, image[:, 0], fraction=0.25,
        ...                                score="identity")
        >>> drop, increase
        (tensor([0.2500]), tensor([0.]))
    """
    results = drop_increase_sweep(
        forward_func, images, maps, fractions=[fraction], fill=fill, seed=seed, **scoring
    )
    return DropIncrease(results.drop[:, 0], results.increase[:, 0])


def drop_increase_sweep(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    fractions: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
    fill: Imputation = 0.0,
    seed: int = 0,
    **scoring: Unpack[Scoring],
) -> DropIncrease:
    """Drop and Increase for several fractions of pixels: the papers' 15 % is one point of it.

    Takes the arguments of `drop_increase`, with F ``fractions``, at least one; drop and increase
    are (N, F) float32 each.
    """
    if not fractions:
        raise ValueError("fractions is empty; name at least one share of pixels in (0, 1]")
    scorer = scorer_of(forward_func, images, **scoring)
    maps = check_maps(maps, images)
    counts = [pixel_count(fraction, maps) for fraction in fractions]
    remove = remover(scorer.images, fill, seed)
    places = ranks(maps, seed)
    kept = torch.tensor(counts, device=images.device)

    def build(image: Tensor, step: Tensor) -> Tensor:
        return remove(image, places[image] < kept[step].view(-1, 1, 1))

    return _compared(scorer, scorer.score(len(counts), build), maps)


def average_drop_increase(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    fill: FadeTo = 0.0,
    **scoring: Unpack[Scoring],
) -> DropIncrease:
    r"""Average Drop and Average Increase of Grad-CAM++ and Score-CAM: the soft map as the mask.

    As `drop_increase`, with o the score of :math:`m \odot x + (1 - m) \odot b`, where m is the map
    scaled to [0, 1] by its extremes; it rewards maps that are one almost everywhere.
    pytorch-grad-cam's ``DropInConfidence`` is p - o, not divided by p.

    Reference: Chattopadhay et al., *Grad-CAM++*, WACV 2018, https://arxiv.org/abs/1710.11063.

    Takes and returns what `drop_increase` does. What is masked out fades to
    ``fill``, b: a number, a tensor that broadcasts to the images, or ``"blur"``.

    Example:
        >>> image = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]]]])
        >>> model = lambda x: x.sum((2, 3))
        >>> soft = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]])
        >>> average_drop_increase(model, image, soft, score="identity").drop
        tensor([0.1250])
    """
    scorer = scorer_of(forward_func, images, **scoring)
    maps = check_maps(maps, images)
    values = fill_values(scorer.images, fill)
    masks = scaled(maps).to(images.dtype).unsqueeze(1)

    def build(image: Tensor, step: Tensor) -> Tensor:
        return torch.lerp(values[image], scorer.images[image], masks[image])

    drop, increase = _compared(scorer, scorer.score(1, build), maps)
    return DropIncrease(drop[:, 0], increase[:, 0])


def _compared(scorer: Scorer, scores: Tensor, maps: Tensor) -> DropIncrease:
    p, o = scorer.original.unsqueeze(1), scores
    lost = (p - o).clamp(min=0)
    drop = torch.where(p > 0, lost / p, torch.where(p == 0, 0.0, torch.nan))
    undefined = ~informative(maps).unsqueeze(1)
    return DropIncrease(nan_where(undefined, drop), nan_where(undefined, (o > p).float()))
