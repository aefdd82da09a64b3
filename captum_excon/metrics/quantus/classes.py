"""The `quantus.Metric` classes; `captum_excon.metrics.quantus` exports them."""

from __future__ import annotations

import functools

from captum_excon.metrics.drop import average_drop_increase, drop_increase, drop_increase_sweep
from captum_excon.metrics.localization import bbox, ebpg, miou
from captum_excon.metrics.perturbation_areas import abpc, deletion, insertion, road
from captum_excon.metrics.pointing import pointing_game
from captum_excon.metrics.quantus._base import (
    DropMetric,
    Faithfulness,
    IncreaseMetric,
    Localization,
    ScoreDirection,
)


class EBPG(Localization):
    """`captum_excon.metrics.ebpg`: the share of energy on the object; higher is better."""

    name = "EBPG"
    function = staticmethod(ebpg)


class Bbox(Localization):
    """`captum_excon.metrics.bbox`: the share of top pixels on the object; higher is better."""

    name = "Bbox"
    function = staticmethod(bbox)


class MIoU(Localization):
    """`captum_excon.metrics.miou`: the binarised map's IoU; higher is better."""

    name = "mIoU"
    function = staticmethod(miou)


class PointingGame(Localization):
    """`captum_excon.metrics.pointing_game`: 1 for a hit, 0 for a miss; higher is better."""

    name = "Pointing game"
    function = staticmethod(pointing_game)


class Drop(DropMetric):
    """The drop of `captum_excon.metrics.drop_increase`: lower is better."""

    name = "Drop"
    function = staticmethod(drop_increase)


class Increase(IncreaseMetric):
    """The increase of `captum_excon.metrics.drop_increase`: higher is better."""

    name = "Increase"
    function = staticmethod(drop_increase)


class DropSweep(DropMetric):
    """The drops of `captum_excon.metrics.drop_increase_sweep`: lower is better."""

    name = "Drop sweep"
    function = staticmethod(drop_increase_sweep)


class IncreaseSweep(IncreaseMetric):
    """The increases of `captum_excon.metrics.drop_increase_sweep`: higher is better."""

    name = "Increase sweep"
    function = staticmethod(drop_increase_sweep)


class AverageDrop(DropMetric):
    """The drop of `captum_excon.metrics.average_drop_increase`: lower is better."""

    name = "Average Drop (soft)"
    function = staticmethod(average_drop_increase)


class AverageIncrease(IncreaseMetric):
    """The increase of `captum_excon.metrics.average_drop_increase`: higher is better."""

    name = "Average Increase (soft)"
    function = staticmethod(average_drop_increase)


class Insertion(Faithfulness):
    """`captum_excon.metrics.insertion`: an area; higher is better."""

    name = "Insertion"
    score_direction = ScoreDirection.HIGHER
    function = staticmethod(insertion)


class Deletion(Faithfulness):
    """`captum_excon.metrics.deletion`: an area; lower is better."""

    name = "Deletion"
    score_direction = ScoreDirection.LOWER
    function = staticmethod(deletion)


class ROADMoRF(Faithfulness):
    """`captum_excon.metrics.road` with the most relevant pixels first: lower is better."""

    name = "ROAD, most relevant first"
    score_direction = ScoreDirection.LOWER
    function = staticmethod(functools.partial(road, order="morf"))


class ROADLeRF(Faithfulness):
    """`captum_excon.metrics.road` with the least relevant pixels first: higher is better."""

    name = "ROAD, least relevant first"
    score_direction = ScoreDirection.HIGHER
    function = staticmethod(functools.partial(road, order="lerf"))


class ABPC(Faithfulness):
    """`captum_excon.metrics.abpc`: the area between the curves; higher is better."""

    name = "ABPC"
    score_direction = ScoreDirection.HIGHER
    function = staticmethod(abpc)
