"""Means, spreads and paired differences of a few runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """The mean of n values, their standard deviation, and a t-interval of the mean.

    Attributes:
        n: How many.
        mean: Their mean.
        sd: Their standard deviation with n - 1 in the denominator; None for one value.
        low: The interval's lower end; None for one value, and for values that are all equal, of
            which a few say nothing about the spread of others.
        high: The interval's upper end, as the lower one.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def summary(values: Mapping[int, float]) -> Summary | None:
    r"""Summarises values by seed.

    The interval is :math:`\bar x \pm t_{n-1}\, s / \sqrt n` with the 97.5 % quantile t of
    Student's distribution. It holds for independent, normally distributed values; a handful of
    seeds cannot show whether they are.

    Returns:
        The summary; None if there is no value.

    Example:
        >>> found = summary({0: 1.0, 1: 2.0, 2: 3.0})
        >>> found.mean, found.sd, round(found.low, 3), round(found.high, 3)
        (2.0, 1.0, -0.484, 4.484)
    """
    n = len(values)
    if not n:
        return None
    mean = statistics.fmean(values.values())
    if n == 1:
        return Summary(n, mean, None, None, None)
    sd = statistics.stdev(values.values())
    if sd < 1e-9:  # rounding
        return Summary(n, mean, sd, None, None)
    reach = quantile(n) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - reach, mean + reach)


def quantile(n: int) -> float:
    """How many standard errors the interval of the mean of n > 1 values reaches to each side.

    Example:
        >>> round(quantile(3), 2), round(quantile(30), 2)
        (4.3, 2.05)
    """
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))


def paired(
    arm: Mapping[int, float | None], control: Mapping[int, float | None]
) -> dict[int, float]:
    """The differences ``arm - control`` at the seeds for which both have a value.

    Example:
        >>> paired({0: 3.0, 1: 5.0, 2: 9.0}, {0: 1.0, 1: 6.0, 2: None})
        {0: 2.0, 1: -1.0}
    """
    differences = {}
    for seed, value in arm.items():
        other = control.get(seed)
        if value is not None and other is not None:
            differences[seed] = value - other
    return differences
