import numpy as np
import pytest
from helpers.report_runs import QUALITY, record, replaced, scores, write_run

from benchmarks.explanations.analysis.compare import compare
from captum_excon.errors import UserError

METRICS = {"ebpg": "higher", "drop": "lower"}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("benchmarks.explanations.analysis.statistics.RESAMPLES", 499)


def runs(tmp_path, old, new):
    return [write_run(tmp_path / name, found) for name, found in (("old", old), ("new", new))]


def lost(found):
    return {(change.explainer, change.metric) for change in found.losses}


def test_the_same_run_has_no_loss(tmp_path):
    old, new = runs(tmp_path, scores(metrics=METRICS), scores(metrics=METRICS))
    found = compare(old, new)
    assert found.losses == []
    assert "0 losses, 0 gains" in str(found)


@pytest.mark.parametrize("metric", METRICS)
def test_a_small_but_steady_loss_is_found_in_either_direction(tmp_path, metric):
    def shifted(by):
        up = by if METRICS[metric] == "higher" else -by
        for found in scores(metrics=METRICS):
            if found["explainer"] == "fair" and found["metric"] == metric:
                found["value"] += up * (1 + found["item"] % 3)
            yield found

    old, new = runs(tmp_path, shifted(0), shifted(-0.01))
    assert lost(compare(old, new)) == {("fair", metric)}
    found = compare(new, old)
    assert found.losses == []  # the other way round it is a gain
    assert f"gain  fair, {metric}" in str(found)


def full(levels, noise, seed, images=20):
    """A run of the size of the configuration ``full``: 26 explainers by 15 metrics."""
    rng = np.random.default_rng(seed)
    for explainer in map("explainer-{}".format, range(26)):
        for metric in map("metric-{}".format, range(15)):
            values = levels.get((explainer, metric), 0.8) + noise * rng.normal(size=images)
            for item in range(images):
                yield record(item, explainer, metric, float(values[item]))


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_one_collapse_among_all_explainers_and_metrics_of_a_full_run_is_a_loss(tmp_path, noise):
    broken = ("explainer-3", "metric-7")
    old, new = runs(tmp_path, full({}, noise, 0), full({broken: 0.1}, noise, 1))
    found = compare(old, new)
    told = str(found)
    assert broken in lost(found)
    assert "loss  explainer-3, metric-7" in told
    # All values have noise or only one has changed, and no value has come or gone.
    changed = 390 if noise else 1
    assert f"for {changed} comparisons; in {780 - changed} more nothing differs" in told


def test_every_figure_that_differs_is_printed_significant_or_not(tmp_path):
    old = list(scores(4, metrics=METRICS))
    new = [found | {"value": found["value"] + 0.01} for found in old]
    told = str(compare(*runs(tmp_path, old, new)))
    (line,) = [line for line in told.splitlines() if "poor, ebpg" in line]
    assert line.startswith("same  poor, ebpg (higher is better): 0.")
    assert "difference 0.010 [0.010 to 0.010], p = " in line


def test_what_is_the_same_in_both_runs_does_not_weaken_the_test_of_the_rest(tmp_path):
    levels = {"old": 0.5, "new": 0.45}

    def run(age, explainers):
        for explainer in explainers:
            for item in range(8):
                level = levels[age] if explainer == "worse" else 0.5
                yield record(item, explainer, "ebpg", level - 0.01 * item)

    # 8 images: the p value is 2 / 2**8, which ten comparisons would make insignificant.
    explainers = ["worse", *map("same-{}".format, range(9))]
    found = compare(*runs(tmp_path, run("old", explainers), run("new", explainers)))
    assert lost(found) == {("worse", "ebpg")}
    assert found.losses[0].pair.p == pytest.approx(2 / 2**8)
    assert (len(found.changes), found.unchanged) == (1, 19)


def test_an_image_that_lost_its_value_is_no_difference_of_the_values_of_the_others(tmp_path):
    old = list(scores(metrics=METRICS))
    new = [dict(found) for found in old]
    for found in new:
        if (found["explainer"], found["metric"], found["item"]) == ("fair", "ebpg", 0):
            found |= {"value": None, "status": "error:RuntimeError"}
    found = compare(*runs(tmp_path, old, new))
    assert [change.metric for change in found.changes] == ["ebpg: share with a value"]


def test_values_that_vanish_are_a_loss_even_where_the_mean_rises(tmp_path):
    def failing(item):
        return "error:RuntimeError" if item < 12 else "ok"

    old = list(scores(metrics=METRICS))
    new = list(replaced(old, "fair", "ebpg", status=failing))
    for found in new:
        found["value"] = found["value"] if found["status"] == "ok" else None
    assert lost(compare(*runs(tmp_path, old, new))) == {("fair", "ebpg: share with a value")}


def test_images_are_paired_by_what_they_are_and_not_by_their_number(tmp_path):
    old = list(scores(metrics=METRICS))
    new = [found | {"item": 23 - found["item"]} for found in old]
    found = compare(*runs(tmp_path, old, new))
    assert not found.changes
    assert found.images == 24


def test_what_only_one_run_has_is_told(tmp_path):
    fewer = {name: level for name, level in QUALITY.items() if name != "poor"}
    new = [
        found | {"model": "other", "config": f"{found['config']}!", "versions": {"torch": "3"}}
        for found in scores(20, fewer, METRICS)
    ]
    notes = "\n".join(compare(*runs(tmp_path, scores(metrics=METRICS), new)).notes)
    assert "only in the old run: poor, ebpg" in notes
    assert "only in the old run: 4 images" in notes
    assert "the model differs: network and other" in notes
    assert "the version of torch differs: 2.0 and 3" in notes
    assert "the configuration differs: fair (drop), good (drop)" in notes


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    old, new = runs(tmp_path, [record(0, "a", "ebpg", 1.0)], [record(0, "b", "ebpg", 1.0)])
    with pytest.raises(UserError, match="in common"):
        compare(old, new)
    turned = record(0, "a", "ebpg", 1.0, direction="lower")
    with pytest.raises(UserError, match="higher is better"):
        compare(old, write_run(tmp_path / "turned", [turned]))
