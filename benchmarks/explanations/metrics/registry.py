"""Metrics by name: all maps of one image are scored together, so that forward batches are full.

Metrics of one *family* with the same options come from the same forward passes: Drop and Increase,
and their soft relatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.explanations.configs.settings import Choice
from benchmarks.explanations.metrics.quantus_adapter import QuantusMetric
from captum_excon import metrics as m
from captum_excon._messages import close_names
from captum_excon.errors import UserError
from captum_excon.metrics.perturbation_areas import TENTHS
from captum_excon.metrics.perturbation_curve import STEPS, Order

Direction = Literal["higher", "lower"]
PAPERS_SHARE = 0.15
NO_TRUTH = "the data has no ground truth"
_CURVE = ("fill", "steps", "score")


@dataclass
class Maps:
    """One image with the maps of several explainers.

    Attributes:
        model: The network.
        image: (1, C, H, W).
        target: The class that was explained.
        mask: The object, (1, H, W) bool, or None.
        maps: After the post-processing, (E, 1, H, W).
        black: Black as the network sees it, (1, C, 1, 1).
        seed: Of the benchmark.
        rows: Rows per forward pass; None to find them from the image's size.
    """

    model: nn.Module
    image: Tensor
    target: int
    mask: Tensor | None
    maps: Tensor
    black: Tensor
    seed: int
    rows: int | None
    _scorers: dict[str | None, m.Scorer] = field(default_factory=dict, init=False, repr=False)

    def only(self, at: Sequence[int]) -> Maps:
        """Returns some of the maps, whose metrics share the score of the unmasked image."""
        chosen = replace(self, maps=self.maps[at])
        chosen._scorers = self._scorers
        return chosen

    def masks(self) -> Tensor | None:
        """Returns the mask once for each map, (E, H, W)."""
        return None if self.mask is None else self.mask.expand(len(self.maps), -1, -1)

    def scorer(self, score: Any = None) -> m.Scorer:
        """Returns the scorer of the image once for each map."""
        if score not in self._scorers:
            self._scorers[score] = m.Scorer(
                self.model, self.image, target=self.target, score=score, batch_size=self.rows
            )
        return self._scorers[score].expand(len(self.maps))


class Scores(NamedTuple):
    """The scores of maps by one metric.

    Attributes:
        values: (E,).
        curves: (E, S), or None.
        fractions: Shares of pixels that are kept, removed or inserted, (S,); None without curves.
        rows: Forward rows that each map needed, not counting those that fill up the last batch.
    """

    values: Tensor
    curves: Tensor | None = None
    fractions: list[float] | None = None
    rows: int = 0


Compute = Callable[..., dict[str, Scores]]


class Family(NamedTuple):
    """Metrics that come from the same computation.

    Attributes:
        directions: Which values of each metric are better, by name.
        compute: From `Maps` and options to the scores of each metric.
        options: The names of its options.
        mass: Whether it needs a map with positive values.
        truth: Whether it needs the ground truth.
    """

    directions: dict[str, Direction]
    compute: Compute
    options: tuple[str, ...] = ()
    mass: bool = False
    truth: bool = False


class Metric(NamedTuple):
    """One metric of a config, and what computes it."""

    choice: Choice
    family: Family

    @property
    def direction(self) -> Direction:
        """Which values are better."""
        return self.family.directions[self.choice.name]

    @property
    def group(self) -> str:
        """Equal for metrics that share one computation."""
        return repr((sorted(self.family.directions), sorted(self.choice.options.items())))

    def compute(self, maps: Maps) -> dict[str, Scores]:
        """The scores of all metrics in the family, by name."""
        return self.family.compute(maps, **self.choice.options)

    def reasons(self, maps: Maps) -> list[str | None]:
        """Why a value is NaN, for each map."""
        masks = maps.masks() if self.family.truth else None
        if self.family.truth and masks is None:
            return [NO_TRUTH] * len(maps.maps)
        return m.nan_reasons(maps.maps, masks, mass=self.family.mass)


def make_metric(choice: Choice) -> Metric:
    """Looks up a metric of a config.

    Raises:
        UserError: There is no such metric or option, a package is missing, or Quantus's metric of
            this name is not right.

    Example:
        >>> make_metric(Choice(name="deletion", label="deletion, blur",
        ...                    options={"fill": "blur"})).direction
        'lower'
    """
    library, colon, name = choice.name.partition(":")
    if library == "quantus" and colon:
        metric = QuantusMetric(name, choice)
        compute = partial(_quantus, metric, choice.name)
        return Metric(choice, Family({choice.name: metric.direction}, compute, truth=metric.truth))
    for family in FAMILIES:
        if choice.name in family.directions:
            choice.check_options("metric", family.options)
            return Metric(choice, family)
    known = sorted(name for family in FAMILIES for name in family.directions)
    hint = close_names(choice.name, known) or f"; metrics are {', '.join(known)} and quantus:NAME"
    raise UserError(f"there is no metric {choice.name!r}{hint}")


def _localize(function: Callable[..., Tensor], name: str, maps: Maps, **options: Any) -> Any:
    masks = maps.masks()
    if masks is None:
        return {name: Scores(torch.full((len(maps.maps),), torch.nan))}
    if "seed" in inspect.signature(function).parameters:
        options["seed"] = maps.seed
    return {name: Scores(function(maps.maps, masks.to(maps.maps.device), **options))}


def _drop(maps: Maps, fraction: float = PAPERS_SHARE, **options: Any) -> dict[str, Scores]:
    fractions = sorted({0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, fraction})
    scorer, options = _prepared(maps, options)
    found = m.drop_increase_sweep(
        scorer, scorer.images, maps.maps, fractions=fractions, seed=maps.seed, **options
    )
    at = fractions.index(fraction)
    rows = 1 + len(fractions)
    return {
        "drop": Scores(found.drop[:, at], found.drop, fractions, rows),
        "increase": Scores(found.increase[:, at], found.increase, fractions, rows),
    }


def _average(maps: Maps, **options: Any) -> dict[str, Scores]:
    scorer, options = _prepared(maps, options)
    found = m.average_drop_increase(scorer, scorer.images, maps.maps, **options)
    return {
        "average-drop": Scores(found.drop, rows=2),
        "average-increase": Scores(found.increase, rows=2),
    }


def _removal(
    name: str, order: Order, papers_fill: str | float, maps: Maps, **options: Any
) -> dict[str, Scores]:
    steps = options.pop("steps", STEPS)
    found = _curve(maps, order, steps, {"fill": papers_fill, **options})
    # Insertion's curve is that of removing the least relevant pixels, read from right to left.
    curve = found.scores.flip(1) if order == "lerf" else found.scores
    return {name: Scores(found.area, curve, found.fractions.tolist(), curve.shape[1])}


def _road(name: str, order: Order, maps: Maps, **options: Any) -> dict[str, Scores]:
    fractions = options.pop("fractions", TENTHS)
    found = _curve(maps, order, fractions, {"fill": "noisy-linear", **options})
    values = found.scores.double().mean(1).float()
    return {name: Scores(values, found.scores, found.fractions.tolist(), 1 + found.scores.shape[1])}


def _abpc(maps: Maps, steps: int = STEPS, **options: Any) -> dict[str, Scores]:
    scorer, options = _prepared(maps, options)
    areas = m.abpc(scorer, scorer.images, maps.maps, steps=steps, seed=maps.seed, **options)
    return {"abpc": Scores(areas, rows=1 + 2 * (steps - 1))}


def _quantus(metric: QuantusMetric, name: str, maps: Maps, **_: Any) -> dict[str, Scores]:
    values = torch.full((len(maps.maps),), torch.nan)
    for i, reason in enumerate(m.nan_reasons(maps.maps)):
        # Quantus refuses constant maps.
        if reason is None and not (metric.truth and maps.mask is None):
            values[i] = metric(
                maps.model, maps.image, maps.target, maps.maps[i : i + 1], maps.mask, maps.seed
            )
    return {name: Scores(values)}


def _curve(
    maps: Maps, order: Order, fractions: Sequence[float] | int, options: dict[str, Any]
) -> m.Curve:
    scorer, options = _prepared(maps, options)
    options |= {"order": order, "fractions": fractions, "seed": maps.seed}
    return m.perturbation_curve(scorer, scorer.images, maps.maps, **options)


def _prepared(maps: Maps, options: dict[str, Any]) -> tuple[m.Scorer, dict[str, Any]]:
    """The scorer of a metric, and its other options as the library takes them."""
    options = dict(options)
    score = options.pop("score", None)
    if options.get("fill") == "black":
        options["fill"] = maps.black
    return maps.scorer(score), options


FAMILIES: Sequence[Family] = (
    Family({"ebpg": "higher"}, partial(_localize, m.ebpg, "ebpg"), mass=True, truth=True),
    Family({"bbox": "higher"}, partial(_localize, m.bbox, "bbox"), truth=True),
    Family(
        {"miou": "higher"},
        partial(_localize, m.miou, "miou"),
        ("fraction", "threshold"),
        truth=True,
    ),
    Family(
        {"pointing-game": "higher"},
        partial(_localize, m.pointing_game, "pointing-game"),
        ("tolerance",),
        truth=True,
    ),
    Family({"drop": "lower", "increase": "higher"}, _drop, ("fraction", "fill", "score")),
    Family({"average-drop": "lower", "average-increase": "higher"}, _average, ("fill", "score")),
    Family({"insertion": "higher"}, partial(_removal, "insertion", "lerf", "blur"), _CURVE),
    Family({"deletion": "lower"}, partial(_removal, "deletion", "morf", 0.0), _CURVE),
    Family({"road-morf": "lower"}, partial(_road, "road-morf", "morf"), ("fractions", "score")),
    Family({"road-lerf": "higher"}, partial(_road, "road-lerf", "lerf"), ("fractions", "score")),
    Family({"abpc": "higher"}, _abpc, _CURVE),
)
