import numpy as np
import pytest

from benchmarks.explanations.statistics import (
    adjust,
    compare_pairs,
    mean_interval,
    metric_agreement,
    paired_p,
)


def test_the_interval_covers_the_mean_and_narrows_with_more_images():
    rng = np.random.default_rng(0)
    few, many = (mean_interval(rng.normal(1, 1, n)) for n in (10, 400))
    assert few.low < few.mean < few.high
    assert many.high - many.low < few.high - few.low
    assert many.low < 1 < many.high


def test_nan_values_do_not_count():
    found = mean_interval(np.array([1.0, np.nan, 3.0]))
    assert (found.mean, found.count) == (2.0, 2)


def test_no_values_one_value_and_equal_values_have_no_spread_to_estimate():
    assert mean_interval(np.array([np.nan])).count == 0
    assert np.isnan(mean_interval(np.array([2.0])).low)
    equal = mean_interval(np.full(5, 0.25))
    assert (equal.low, equal.high) == (0.25, 0.25)


def test_values_that_are_constant_up_to_rounding_give_an_interval_and_no_warning():
    found = mean_interval(np.array([0.1 + 0.2, 0.3, 0.3, 0.3]))
    assert found.low == pytest.approx(0.3)
    assert found.high == pytest.approx(0.3)


def test_the_permutation_test_is_exact_for_few_images():
    # All five differences are positive: of 2**5 sign patterns two are as extreme.
    assert paired_p(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 / 32)
    assert paired_p(np.zeros(4)) == 1.0


def test_holm_and_benjamini_hochberg_give_the_textbook_values():
    p = np.array([0.01, 0.04, 0.03, np.nan])
    np.testing.assert_allclose(adjust(p, "holm"), [0.03, 0.06, 0.06, np.nan])
    np.testing.assert_allclose(adjust(p, "bh"), [0.03, 0.04, 0.04, np.nan])
    with pytest.raises(ValueError, match="'holm' or 'bh'"):
        adjust(p, "none")


def test_a_small_but_steady_difference_is_found_where_unpaired_spreads_overlap():
    rng = np.random.default_rng(1)
    images = rng.normal(0, 5, 60)
    values = {"a": images + 0.5, "b": images + rng.normal(0, 0.1, 60), "c": images[::-1].copy()}
    ab, ac, _ = compare_pairs(values)
    assert ab.significant
    assert ab.difference.mean == pytest.approx(0.5, abs=0.05)
    assert not ac.significant


def test_pairs_use_the_images_that_both_have_values_for():
    (pair,) = compare_pairs({"a": np.array([1.0, np.nan, 3.0]), "b": np.array([0.0, 9.0, 1.0])})
    assert pair.difference.count == 2
    assert pair.difference.mean == 1.5


def test_results_are_the_same_each_time():
    values = np.random.default_rng(2).normal(size=30)
    assert mean_interval(values) == mean_interval(values)
    assert paired_p(values) == paired_p(values)


def test_metrics_that_rank_alike_agree_and_constants_have_no_rank():
    x = np.arange(6.0)
    names, matrix = metric_agreement({"x": x, "cube": x**3, "down": -x, "flat": np.ones(6)})
    assert names == ["x", "cube", "down", "flat"]
    np.testing.assert_allclose(matrix[0, :3], [1, 1, -1])
    assert np.isnan(matrix[3]).all()
