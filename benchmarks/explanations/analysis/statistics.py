"""Means with intervals, and paired comparisons of explainers over the same images.

Values are always paired by image: two explainers are compared on the images that both have a
value for. Intervals are bootstrap intervals over images, tests are sign-flip permutation tests, and
the p values of a family of pairs are corrected by Holm's or by the Benjamini-Hochberg procedure.
The larger the family, the more sign patterns are drawn where they decide.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
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
    """A mean over images with its bootstrap interval.

    Attributes:
        mean: Over the images with a value; NaN if there is none.
        low: Lower end; NaN with fewer than two values.
        high: Upper end.
        count: Images with a value.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Pair:
    """The paired difference ``first - second``.

    Attributes:
        first: An explainer.
        second: Another one.
        difference: Mean difference and its bootstrap interval over the images of both.
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


def mean_interval(values: Values, *, seed: int = 0, confidence: float = 0.95) -> Interval:
    """The mean of finite values with a bootstrap interval (BCa; percentile where BCa fails).

    Args:
        values: One value an image, NaN where there is none, (N,).
        seed: Of the resampling.
        confidence: In (0, 1).
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(finite.mean())
    if len(finite) < 2:
        return Interval(mean, np.nan, np.nan, len(finite))
    if np.ptp(finite) == 0:
        return Interval(mean, mean, mean, len(finite))
    ends = None
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
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(ends.low) and np.isfinite(ends.high):
            break
    assert ends is not None
    return Interval(mean, float(ends.low), float(ends.high), len(finite))


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
        differences: For each test one value an image, NaN where there is none, (N,).
        seed: Of the resampling.

    Returns:
        One p value a test, NaN where there is no value.
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
    values: Mapping[str, Values],
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    correction: str = "holm",
    seed: int = 0,
) -> list[Pair]:
    """Compares explainers pair by pair on the images they share.

    Args:
        values: For each explainer one value an image, in the same order of images, (N,).
        pairs: Which to compare; all by default. They are one family for the correction.
        correction: ``"holm"`` or ``"bh"`` (Benjamini-Hochberg).
        seed: Of the resampling.
    """
    pairs = list(combinations(values, 2)) if pairs is None else list(pairs)
    differences = [values[a] - values[b] for a, b in pairs]
    corrected = adjust(family_p(differences, seed=seed), correction)
    return [
        Pair(a, b, mean_interval(d, seed=seed), float(p))
        for (a, b), d, p in zip(pairs, differences, corrected, strict=True)
    ]


def adjust(p: Values, correction: str) -> Values:
    """Corrects p values for many comparisons; NaN stays NaN and does not count.

    Raises:
        ValueError: An unknown correction.
    """
    if correction not in ("holm", "bh"):
        raise ValueError(f"correction must be 'holm' or 'bh', but found {correction!r}")
    adjusted = np.array(p, dtype=float)
    known = np.isfinite(adjusted)
    count = int(known.sum())
    if count == 0:
        return adjusted
    if correction == "bh":
        adjusted[known] = stats.false_discovery_control(adjusted[known])
        return adjusted
    order = np.argsort(adjusted[known], kind="stable")
    stepped = np.maximum.accumulate(adjusted[known][order] * np.arange(count, 0, -1))
    corrected = np.empty(count)
    corrected[order] = np.minimum(stepped, 1)
    adjusted[known] = corrected
    return adjusted


def metric_agreement(values: Mapping[str, Values]) -> tuple[list[str], Values]:
    """Spearman's rank correlation between metrics, over everything that both have values for.

    Args:
        values: For each metric one value a (explainer, image), oriented so that more is better.

    Returns:
        The metrics' names and the (M, M) matrix; NaN where a metric is constant.
    """
    names = list(values)
    matrix = np.full((len(names), len(names)), np.nan)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            x, y = values[a], values[b]
            both = np.isfinite(x) & np.isfinite(y)
            if both.sum() > 2 and np.ptp(x[both]) > 0 and np.ptp(y[both]) > 0:
                matrix[i, j] = stats.spearmanr(x[both], y[both]).statistic
    return names, matrix
