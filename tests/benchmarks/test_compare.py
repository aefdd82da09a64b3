import pytest
from report_runs import QUALITY, record, replaced, scores, write_run

from benchmarks.explanations.compare import compare, compared
from captum_excon._images import UserError

METRICS = {"ebpg": "higher", "drop": "lower"}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr("benchmarks.explanations.statistics.RESAMPLES", 499)


def runs(tmp_path, old, new):
    return [write_run(tmp_path / name, found) for name, found in (("old", old), ("new", new))]


def lost(found):
    return {(change.explainer, change.metric) for change in found.losses}


def test_the_same_run_has_no_loss(tmp_path, capsys):
    old, new = runs(tmp_path, scores(metrics=METRICS), scores(metrics=METRICS))
    assert compare(old, new) == 0
    assert "0 losses, 0 gains" in capsys.readouterr().out


@pytest.mark.parametrize("metric", METRICS)
def test_a_small_but_steady_loss_is_found_in_either_direction(tmp_path, metric, capsys):
    def shifted(by):
        up = by if METRICS[metric] == "higher" else -by
        for found in scores(metrics=METRICS):
            if found["explainer"] == "fair" and found["metric"] == metric:
                found["value"] += up * (1 + found["item"] % 3)
            yield found

    old, new = runs(tmp_path, shifted(0), shifted(-0.01))
    assert lost(compared(old, new)) == {("fair", metric)}
    assert compare(old, new) == 1
    assert compare(new, old) == 0  # the other way round it is a gain
    assert f"gain  fair, {metric}" in capsys.readouterr().out


def test_values_that_vanish_are_a_loss_even_where_the_mean_rises(tmp_path):
    def failing(item):
        return "error:RuntimeError" if item < 12 else "ok"

    old = list(scores(metrics=METRICS))
    new = list(replaced(old, "fair", "ebpg", status=failing))
    for found in new:
        found["value"] = found["value"] if found["status"] == "ok" else None
    assert lost(compared(*runs(tmp_path, old, new))) == {("fair", "ebpg: share with a value")}


def test_images_are_paired_by_what_they_are_and_not_by_their_number(tmp_path):
    old = list(scores(metrics=METRICS))
    new = [found | {"item": 23 - found["item"]} for found in old]
    found = compared(*runs(tmp_path, old, new))
    assert all(change.pair.difference.mean == 0 for change in found.changes)
    assert found.images == 24


def test_what_only_one_run_has_is_told(tmp_path):
    fewer = {name: level for name, level in QUALITY.items() if name != "poor"}
    new = [
        found | {"model": "other", "config": f"{found['config']}!", "versions": {"torch": "3"}}
        for found in scores(20, fewer, METRICS)
    ]
    notes = "\n".join(compared(*runs(tmp_path, scores(metrics=METRICS), new)).notes)
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
