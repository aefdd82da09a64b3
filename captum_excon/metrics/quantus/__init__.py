"""The metrics as `quantus.Metric` classes, for `quantus.evaluate` and for direct calls.

They take the options of the functions that they wrap, and Quantus's own. Unlike Quantus's metrics,
they neither normalise maps nor take absolute values unless asked to. Quantus itself refuses a batch
whose maps are all constant or all negative, before any metric sees it.

Quantus is imported with the first class, not with this package.

Example:
    >>> import numpy as np
    >>> from captum_excon.metrics.quantus import EBPG
    >>> x, maps, masks = np.zeros((1, 3, 2, 2)), np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))
    >>> maps[0, 0, 0], masks[0, 0, 0, 0] = [3.0, 1.0], 1
    >>> EBPG()(None, x, np.array([0]), maps, s_batch=masks)
    [0.75]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_excon.metrics.quantus.classes import *  # noqa: F403

__all__ = [  # noqa: F405 - found by __getattr__
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.classes"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
