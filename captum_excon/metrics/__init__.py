"""Metrics of explanations: one value per image, NaN where a map says nothing."""

from captum_excon.metrics._maps import nan_reasons
from captum_excon.metrics.drop import (
    DropIncrease,
    average_drop_increase,
    drop_increase,
    drop_increase_sweep,
)

__all__ = [
    "DropIncrease",
    "average_drop_increase",
    "drop_increase",
    "drop_increase_sweep",
    "nan_reasons",
]
