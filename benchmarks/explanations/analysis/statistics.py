"""Means with intervals, and paired comparisons of explainers over the same images.

Values are always paired by image: two explainers are compared on the images that both have a
value for. Intervals are bootstrap intervals over images, tests are sign-flip permutation tests, and
Holm's procedure corrects the p values of a family of pairs. The larger the family, the more sign
patterns are drawn where they decide.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
RESAMPLES = 9999
ALPHA = 0.05
# A p value that counts no more patterns than this is too coarse to be multiplied.
FEW = 10
# Numbers in one array of a batch of sign patterns: 32 MiB.
BATCH = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean over the ``count`` images with a value, and its bootstrap interval.

    Without values the mean is NaN, with fewer than two the interval.
    """

    mean: float
    low: float
    high: float
    count: int


class Pair(NamedTuple):
    """The paired difference ``first - second`` of two explainers over the images of both.

    Attributes:
        first: An explainer.
        second: Another one.
        difference: Its mean and bootstrap interval.
        p: Of the two-sided sign-flip permutation test, corrected for the family.
    """

    first: str
    second: str
    difference: Interval
    p: float

    @property
    def significant(self) -> bool:
        """Whether the paired interval excludes zero and the corrected test agrees at 5 %."""
        return self.p < ALPHA and (self.difference.low > 0 or self.difference.high < 0)


def mean_interval(values: Values, *, seed: int = 0) -> Interval:
    """The mean of finite values with a 95 % bootstrap interval (BCa; percentile where BCa fails).

    Args:
        values: One value per image, NaN where there is none, (N,).
        seed: Of the resampling.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(finite.mean())
    if len(finite) < 2:
        return Interval(mean, np.nan, np.nan, len(finite))
    if np.ptp(finite) == 0:
        return Interval(mean, mean, mean, len(finite))
    ends = (np.nan, np.nan)
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            # Differences that are constant up to rounding have no BCa interval: hence the second.
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            ends = stats.bootstrap(
                (finite,),
                np.mean,
                vectorized=True,
                n_resamples=RESAMPLES,
                batch=max(1, BATCH // len(finite)),
                confidence_level=0.95,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(ends).all():
            break
    return Interval(mean, float(ends[0]), float(ends[1]), len(finite))


def paired_p(differences: Values, *, seed: int = 0) -> float:
    """The two-sided p value of the sign-flip permutation test of a zero mean difference.

    Exact where the number of sign patterns is below the number of resamples; else no less than
    ``2 / (RESAMPLES + 1)``: for many tests see `family_p`.
    """
    finite = differences[np.isfinite(differences)]
    if len(finite) == 0:
        return float("nan")
    if len(finite) == 1 or not finite.any():
        return 1.0  # as many patterns are as extreme as there are, which scipy does not count
    result = stats.permutation_test(
        (finite,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // len(finite)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def family_p(differences: Sequence[Values], *, seed: int = 0) -> Values:
    """`paired_p` of many tests, fine enough to be corrected for their number.

    m tests need p values far below ``ALPHA / m``. So where no more than `FEW` of the first sample's
    patterns are as extreme, the p value is found again over ``40 m / ALPHA`` patterns: the least
    possible, times m, is ``ALPHA / 20``. In two steps the test stays valid: up to the limit between
    them a p value is always the second sample's, and above it never less than the first's.

    Args:
        differences: For each test one value per image, NaN where there is none, (N,).
        seed: Of the resampling.

    Returns:
        One p value per test, NaN where there is no value.
    """
    p = np.array([paired_p(d, seed=seed) for d in differences])
    resamples = math.ceil(40 * np.isfinite(p).sum() / ALPHA)
    if resamples <= RESAMPLES:
        return p
    # With so few images that the first p value is exact there is no finer one.
    images = np.array([np.isfinite(d).sum() for d in differences])
    coarse = np.flatnonzero((p <= 2 * FEW / (RESAMPLES + 1)) & (images > math.log2(RESAMPLES)))
    if len(coarse):
        p[coarse] = _sign_flip_p([differences[int(i)] for i in coarse], resamples, seed)
    return p


def _sign_flip_p(differences: Sequence[Values], resamples: int, seed: int) -> Values:
    """The two-sided p values of all tests over the same random sign patterns."""
    columns = np.column_stack(differences)
    columns = np.where(np.isfinite(columns), columns, 0)  # the sign of 0 makes no difference
    observed = columns.sum(axis=0)
    # Sums that are equal but for rounding count as equal.
    slack = 100 * np.finfo(np.float64).eps * np.abs(columns).sum(axis=0)
    rng = np.random.default_rng(seed)
    low, high = np.ones((2, columns.shape[1]))  # the observed pattern is one of each
    batch = max(1, BATCH // max(columns.shape))
    for start in range(0, resamples, batch):
        rows = min(batch, resamples - start)
        kept = rng.integers(2, size=(rows, len(columns)), dtype=np.int8).astype(np.float64)
        sums = 2 * (kept @ columns) - observed
        low += (sums <= observed + slack).sum(axis=0)
        high += (sums >= observed - slack).sum(axis=0)
    return np.minimum(2 * np.minimum(low, high) / (resamples + 1), 1)


def compare_pairs(
    values: Mapping[str, Values], pairs: Sequence[tuple[str, str]] | None = None, *, seed: int = 0
) -> list[Pair]:
    """Compares explainers pair by pair on the images they share.

    Args:
        values: For each explainer one value per image, in the same order of images, (N,).
        pairs: Which to compare; all by default. They are one family for the correction.
        seed: Of the resampling.
    """
    pairs = list(combinations(values, 2)) if pairs is None else list(pairs)
    differences = [values[a] - values[b] for a, b in pairs]
    corrected = adjust(family_p(differences, seed=seed))
    return [
        Pair(a, b, mean_interval(d, seed=seed), float(p))
        for (a, b), d, p in zip(pairs, differences, corrected, strict=True)
    ]


def adjust(p: Values) -> Values:
    """Corrects p values for many comparisons by Holm; NaN stays NaN and does not count."""
    adjusted = np.array(p, dtype=float)
    order = np.argsort(adjusted, kind="stable")[: np.isfinite(adjusted).sum()]  # NaN is last
    stepped = np.maximum.accumulate(adjusted[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def metric_agreement(values: Mapping[str, Values]) -> pd.DataFrame:
    """Spearman's rank correlation between metrics, over everything that both have values for.

    Args:
        values: For each metric one value per explainer and image, oriented so that more is better.

    Returns:
        Metric × metric; NaN where a metric is constant or two values at most are shared.
    """
    return pd.DataFrame(values).corr("spearman", min_periods=3)
