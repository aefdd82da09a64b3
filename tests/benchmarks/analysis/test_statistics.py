import numpy as np
import pytest
from scipy import stats

from benchmarks.explanations.analysis.statistics import (
    adjust,
    compare_pairs,
    family_p,
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


@pytest.mark.parametrize("count", [13, 400])
def test_the_smallest_p_value_survives_the_correction_for_a_family_of_any_size(count, monkeypatch):
    monkeypatch.setattr("benchmarks.explanations.analysis.statistics.RESAMPLES", 499)
    rng = np.random.default_rng(3)
    clear = np.linspace(0.5, 1, 40)
    noise = list(rng.normal(size=(count - 1, 40)))
    assert paired_p(clear) == 2 / 500
    p = family_p([clear, *noise])
    assert p[0] * count <= 0.05 / 20
    assert adjust(p)[0] < 0.05
    assert adjust(p)[1:].min() > 0.05


def test_a_small_family_and_what_is_far_from_significant_keep_the_p_value_of_a_single_test():
    columns = list(np.random.default_rng(4).normal(0.2, 1, size=(60, 20)))
    alone = np.array([paired_p(d) for d in columns])
    np.testing.assert_array_equal(family_p(columns[:12]), alone[:12])
    far = alone > 20 / 10000
    assert 0 < far.sum() < 60
    np.testing.assert_array_equal(family_p(columns)[far], alone[far])


def test_the_finer_p_value_is_the_exact_one_with_ties_and_missing_values(monkeypatch):
    rng = np.random.default_rng(5)
    columns = [
        np.r_[np.full(14, 0.1), np.nan, np.nan],
        np.r_[0.3, np.full(14, -0.1), np.nan],
        np.r_[rng.normal(1, 0.5, 15), np.nan],
    ]
    exact = [
        stats.permutation_test(
            (d[np.isfinite(d)],),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=2**16,
        ).pvalue
        for d in columns
    ]
    monkeypatch.setattr("benchmarks.explanations.analysis.statistics.RESAMPLES", 499)
    monkeypatch.setattr("benchmarks.explanations.analysis.statistics.BATCH", 2**18)  # many batches
    found = family_p([*columns, *[np.full(16, np.nan)] * 3, *np.ones((400, 16))])
    np.testing.assert_allclose(found[:3], exact, rtol=0.5)
    assert np.isnan(found[3:6]).all()


def test_few_images_have_their_exact_p_value_in_any_family():
    p = family_p([np.arange(1.0, 9.0)] * 500)
    np.testing.assert_allclose(p, 2 / 2**8)


def test_holm_gives_the_textbook_values():
    p = np.array([0.01, 0.04, 0.03, np.nan])
    np.testing.assert_allclose(adjust(p), [0.03, 0.06, 0.06, np.nan])
    assert adjust(np.array([])).size == 0


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
    found = metric_agreement({"x": x, "cube": x**3, "down": -x, "flat": np.ones(6)})
    assert list(found) == list(found.index) == ["x", "cube", "down", "flat"]
    np.testing.assert_allclose(found.loc["x"].iloc[:3], [1, 1, -1])
    assert found.loc["flat"].isna().all()


def test_one_image_shows_nothing_and_breaks_nothing():
    (pair,) = compare_pairs({"a": np.array([1.0, np.nan]), "b": np.array([0.0, 0.5])})
    assert (pair.p, pair.difference.mean, pair.difference.count) == (1.0, 1.0, 1)
    assert not pair.significant
