"""The `quantus.Metric` classes; `captum_excon.metrics.quantus` exports them."""

from __future__ import annotations

import functools

from captum_excon.metrics.drop import average_drop_increase, drop_increase, drop_increase_sweep
from captum_excon.metrics.localization import bbox, ebpg, miou
from captum_excon.metrics.perturbation_areas import abpc, deletion, insertion, road
from captum_excon.metrics.pointing import pointing_game
from captum_excon.metrics.quantus._base import Faithfulness, Localization


class EBPG(Localization, name="EBPG", function=ebpg):
    """`captum_excon.metrics.ebpg`: the share of energy on the object; higher is better."""


class Bbox(Localization, name="Bbox", function=bbox):
    """`captum_excon.metrics.bbox`: the share of top pixels on the object; higher is better."""


class MIoU(Localization, name="mIoU", function=miou):
    """`captum_excon.metrics.miou`: the binarised map's IoU; higher is better."""


class PointingGame(Localization, name="Pointing game", function=pointing_game):
    """`captum_excon.metrics.pointing_game`: 1 for a hit, 0 for a miss; higher is better."""


class Drop(Faithfulness, name="Drop", function=drop_increase, lower=True):
    """The drop of `captum_excon.metrics.drop_increase`: lower is better."""


class Increase(Faithfulness, name="Increase", function=drop_increase):
    """The increase of `captum_excon.metrics.drop_increase`: higher is better."""


class DropSweep(Faithfulness, name="Drop sweep", function=drop_increase_sweep, lower=True):
    """The drops of `captum_excon.metrics.drop_increase_sweep`: lower is better."""


class IncreaseSweep(Faithfulness, name="Increase sweep", function=drop_increase_sweep):
    """The increases of `captum_excon.metrics.drop_increase_sweep`: higher is better."""


class AverageDrop(
    Faithfulness, name="Average Drop (soft)", function=average_drop_increase, lower=True
):
    """The drop of `captum_excon.metrics.average_drop_increase`: lower is better."""


class AverageIncrease(Faithfulness, name="Average Increase (soft)", function=average_drop_increase):
    """The increase of `captum_excon.metrics.average_drop_increase`: higher is better."""


class Insertion(Faithfulness, name="Insertion", function=insertion):
    """`captum_excon.metrics.insertion`: an area; higher is better."""


class Deletion(Faithfulness, name="Deletion", function=deletion, lower=True):
    """`captum_excon.metrics.deletion`: an area; lower is better."""


class ROADMoRF(
    Faithfulness,
    name="ROAD, most relevant first",
    function=functools.partial(road, order="morf"),
    lower=True,
):
    """`captum_excon.metrics.road` with the most relevant pixels first: lower is better."""


class ROADLeRF(
    Faithfulness, name="ROAD, least relevant first", function=functools.partial(road, order="lerf")
):
    """`captum_excon.metrics.road` with the least relevant pixels first: higher is better."""


class ABPC(Faithfulness, name="ABPC", function=abpc):
    """`captum_excon.metrics.abpc`: the area between the curves; higher is better."""
