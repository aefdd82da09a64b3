"""Scores while pixels are removed: the one loop behind every perturbation metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from captum_excon.metrics._fill import Fill, remover
from captum_excon.metrics._maps import informative, nan_where, precise, ranks
from captum_excon.metrics._scorer import Scorer

Order = Literal["morf", "lerf"]

STEPS = 28


class Curve(NamedTuple):
    """Scores of images that lose more and more pixels.

    Attributes:
        fractions: The share of pixels that are gone, (S,), exactly as removed.
        scores: Of each image at each share, (N, S) float32; NaN for degenerate maps.
    """

    fractions: Tensor
    scores: Tensor

    @property
    def area(self) -> Tensor:
        """The area under the curve by the trapezoidal rule, (N,) float32."""
        return torch.trapezoid(precise(self.scores), precise(self.fractions), dim=1).float()


def curves(
    scorer: Scorer,
    maps: Tensor,
    orders: Sequence[Order],
    fill: Fill,
    fractions: Sequence[float] | int,
    seed: int,
) -> list[Curve]:
    """One curve for each order; the rows of all of them fill the same forward passes."""
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

    scores = scorer(len(orders) * len(gone), build).view(len(maps), len(orders), len(gone))
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
