"""The metrics as `quantus.Metric` classes, for `quantus.evaluate` and for direct calls.

They take the options of the function that they wrap, and Quantus's own. One difference to
Quantus's metrics: nothing is normalised and no absolute values are taken unless asked for. A batch
of constant or of negative maps only is refused by Quantus itself, before any metric sees it.

Example:
    >>> import numpy as np
    >>> from captum_excon.metrics.quantus.classes import EBPG
    >>> x, maps, masks = np.zeros((1, 3, 2, 2)), np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))
    >>> maps[0, 0, 0], masks[0, 0, 0, 0] = [3.0, 1.0], 1
    >>> EBPG()(None, x, np.array([0]), maps, s_batch=masks)
    [0.75]
"""

from __future__ import annotations

import functools

from captum_excon.metrics import (
    abpc,
    average_drop_increase,
    bbox,
    deletion,
    drop_increase,
    drop_increase_sweep,
    ebpg,
    insertion,
    miou,
    pointing_game,
    road,
)
from captum_excon.metrics.quantus._base import (
    DropMetric,
    Faithfulness,
    IncreaseMetric,
    Localization,
    ScoreDirection,
)

__all__ = [
    "ABPC",
    "EBPG",
    "AverageDrop",
    "AverageIncrease",
    "Bbox",
    "Deletion",
    "Drop",
    "DropSweep",
    "Increase",
    "IncreaseSweep",
    "Insertion",
    "MIoU",
    "PointingGame",
    "ROADLeRF",
    "ROADMoRF",
]


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
