"""Scores of images that lose their most, or least, relevant pixels: the one loop behind areas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from captum_excon.attr._core.captum import ForwardFunc
from captum_excon.metrics._imputation import Imputation, remover
from captum_excon.metrics._maps import check_maps, informative, nan_where, precise, ranks
from captum_excon.metrics.scorer import Scorer, Scoring, scorer_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

Order = Literal["morf", "lerf"]

STEPS = 28


class Curve(NamedTuple):
    """Scores of images that lose more and more pixels."""

    fractions: Tensor  # the share of pixels that are gone, (S,), exactly as removed
    scores: Tensor  # of each image at each share, (N, S) float32; NaN for degenerate maps

    @property
    def area(self) -> Tensor:
        """The area under the curve by the trapezoidal rule, (N,) float32."""
        return torch.trapezoid(precise(self.scores), precise(self.fractions), dim=1).float()


def perturbation_curve(
    forward_func: ForwardFunc | Scorer,
    images: Tensor,
    maps: Tensor,
    *,
    order: Order = "morf",
    fill: Imputation = 0.0,
    fractions: Sequence[float] | int = STEPS,
    seed: int = 0,
    **scoring: Unpack[Scoring],
) -> Curve:
    """Scores images as pixels are removed, the most or the least relevant ones first.

    At a share q, round(q · H · W) pixels of all channels are filled. Pixels are ordered by a stable
    sort; ties are broken by a permutation drawn from ``seed``, the same for all images, so that the
    area is that of no particular corner of the image [ours; RISE's code takes ties as they come].

    Args:
        forward_func: The model, any function of the images that returns a tensor (N, ...), or a
            `Scorer` of these images.
        images: (N, C, H, W), as the model expects them.
        maps: One per image, (N, H, W) or (N, C, H, W), whose channels are summed.
        order: ``"morf"`` removes the most relevant pixels first, ``"lerf"`` the least relevant.
        fill: What removed pixels become: a number or a tensor that broadcasts to the images,
            ``"blur"`` (the image under a Gaussian of 11 pixels and σ 5, reflected at the border),
            or ``"noisy-linear"`` (pytorch-grad-cam's imputer: a sparse linear system per row,
            solved on the CPU, plus noise of σ 0.01 drawn from ``seed``; needs the `bench` extra).
        fractions: The shares of pixels to remove, ascending in [0, 1]; a number S stands for S
            equal steps with both end points, S + 1 rows. Noisy linear imputation needs shares below
            1.
        seed: Breaks ties and makes the imputer's noise.
        **scoring: ``target``, ``score``, ``additional_forward_args`` and ``batch_size``, as in
            `Scorer`; none beside a scorer.

    Raises:
        ImportError: ``fill="noisy-linear"`` without pytorch-grad-cam.

    Example:
        >>> image = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])
        >>> model = lambda x: x.sum((2, 3))
        >>> curve = perturbation_curve(model, image, image[:, 0], fractions=4, score="identity")
        >>> curve.scores
        tensor([[10.,  6.,  3.,  1.,  0.]])
        >>> curve.area
        tensor([3.7500])
    """
    if order not in ("morf", "lerf"):
        raise ValueError(f"order must be 'morf' or 'lerf', but found {order!r}")
    scorer = scorer_of(forward_func, images, **scoring)
    return curves(scorer, maps, [order], fill, fractions, seed)[0]


def curves(
    scorer: Scorer,
    maps: Tensor,
    orders: Sequence[Order],
    fill: Imputation,
    fractions: Sequence[float] | int,
    seed: int,
) -> list[Curve]:
    """Returns one curve for each order; the rows of all of them fill the same forward passes."""
    maps = check_maps(maps, scorer.images)
    pixels = maps.shape[1:].numel()
    counts = [round(fraction * pixels) for fraction in _shares(fractions)]
    if isinstance(fill, str) and fill == "noisy-linear" and counts[-1] == pixels:
        raise ValueError(
            "fill='noisy-linear' cannot remove all pixels, since nothing is left to impute them "
            "from; pass fractions below 1, such as 0.1, 0.2, ..., 0.9"
        )
    places = ranks(maps, seed)
    remove = remover(scorer.images, fill, seed)
    whole = counts.count(0)  # these rows are the images, whose scores are known
    gone = torch.tensor(counts[whole:], dtype=torch.long, device=maps.device)
    least_first = torch.tensor([order == "lerf" for order in orders], device=maps.device)

    def build(image: Tensor, row: Tensor) -> Tensor:
        place = places[image]
        removed = gone[row % len(gone)].view(-1, 1, 1)
        reverse = least_first[row // len(gone)].view(-1, 1, 1)
        return remove(image, torch.where(reverse, place < pixels - removed, place >= removed))

    scores = scorer.score(len(orders) * len(gone), build).view(len(maps), len(orders), len(gone))
    originals = scorer.original.view(-1, 1, 1).expand(-1, len(orders), whole)
    scores = torch.cat([originals, scores], dim=2)
    scores = nan_where(~informative(maps).view(-1, 1, 1), scores)
    exact = torch.tensor([count / pixels for count in counts], device=maps.device)
    return [Curve(exact, scores[:, i]) for i in range(len(orders))]


def _shares(fractions: Sequence[float] | int) -> list[float]:
    if isinstance(fractions, int):
        if fractions < 1:
            raise ValueError(f"there must be at least one step, but found {fractions}")
        return [step / fractions for step in range(fractions + 1)]
    shares = list(fractions)
    if not shares or any(not 0 <= f <= 1 for f in shares) or shares != sorted(shares):
        raise ValueError(
            f"fractions must be ascending shares of pixels in [0, 1], but found {shares!r}"
        )
    return shares
