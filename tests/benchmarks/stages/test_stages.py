import itertools
import math

import numpy as np
import pytest
import torch
from helpers.tiny_runs import finished, lines, maps, planned, records, stages, tiny_config, values

from benchmarks.explanations.analysis.run import load_run
from benchmarks.explanations.analysis.summaries import analyse
from benchmarks.explanations.configs.settings import Choice
from benchmarks.explanations.methods.controls import CONTROLS
from benchmarks.explanations.metrics import registry as suite_metrics
from benchmarks.explanations.stages.common import Shard, forget_errors
from benchmarks.explanations.stages.explain import explain
from benchmarks.explanations.stages.plan import open_run
from benchmarks.explanations.stages.records import read_records
from benchmarks.explanations.stages.score import processed, score
from captum_excon.errors import UserError

WHOLE = Shard()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("run"))


def test_every_item_explainer_and_metric_has_one_record(run):
    found = read_records(run / "records")
    assert len(found) == len(lines(run)) == 3 * 3 + 3 * 3 * 3
    assert {r["status"] for r in found} == {"ok"}


def test_records_say_what_was_measured_how_and_at_what_cost(run):
    explained = {r["explainer"]: r for r in read_records(run / "records") if not r["item"]}
    rise, cam = (
        next(
            r
            for r in read_records(run / "records")
            if r["stage"] == "explain" and r["explainer"] == name and r["item"] == 0
        )
        for name in ("rise", "captum:layer-grad-cam")
    )
    assert set(explained) == {"captum:layer-grad-cam", "rise", "random"}
    assert (rise["forward_rows"], rise["backward_rows"], rise["layers"]) == (8, 0, [])
    assert (cam["forward_rows"], cam["backward_rows"], cam["layers"]) == (1, 1, ["block1"])
    drop = next(r for r in read_records(run / "records") if r["metric"] == "drop")
    assert drop["direction"] == "lower"
    assert drop["fractions"][2] == 0.15
    assert drop["curve"][2] == drop["value"]
    assert drop["forward_rows"] == 8
    assert (drop["dataset"], drop["model"], drop["seed"]) == ("synthetic", "synthetic", 0)
    assert drop["seconds"] > 0
    assert drop["peak_mib"] is None or drop["peak_mib"] > 0
    assert drop["versions"]["torch"]
    assert drop["versions"]["machine"]


def test_shards_give_together_what_one_process_gives(run, tmp_path):
    planned(tmp_path)
    for rank in (1, 0):
        explain(open_run(tmp_path), Shard(rank, 2))
    for rank in (2, 0, 1):
        score(open_run(tmp_path), Shard(rank, 3))
    assert records(tmp_path) == records(run)
    assert maps(tmp_path) == maps(run)


def test_an_explainer_of_its_own_gives_the_same_bits_as_among_others(run, tmp_path):
    config = tiny_config(explainers=[{"name": "rise", "options": {"n_masks": 8}}])
    finished(tmp_path, config)
    assert set(records(tmp_path)) < set(records(run))


def test_the_order_of_methods_does_not_depend_on_the_batch_size(run, tmp_path):
    finished(tmp_path, tiny_config(batch_size=3))
    for metric in ("ebpg", "drop", "deletion"):
        here, there = values(run, metric), values(tmp_path, metric)
        assert list(here) == list(there)
        for name in here:
            np.testing.assert_allclose(here[name], there[name], atol=1e-6)


def test_the_same_command_again_does_nothing(run):
    before = lines(run)
    explained, scored = stages(run)
    assert (explained.done, explained.skipped) == (0, 9)
    assert (scored.done, scored.skipped) == (0, 27)
    assert lines(run) == before


def test_a_further_explainer_or_metric_redoes_nothing(tmp_path):
    finished(tmp_path, tiny_config(metrics=["ebpg"]))
    before = lines(tmp_path)
    more = tiny_config(
        explainers=["captum:layer-grad-cam", {"name": "rise", "options": {"n_masks": 8}}, "random",
                    "sobel"],
        metrics=["ebpg", "bbox"],
    )  # fmt: skip
    planned(tmp_path, more)
    explained, scored = stages(tmp_path)
    assert (explained.done, scored.done) == (3, 3 + 4 * 3)
    assert set(before) < set(lines(tmp_path))


def read_map(folder, label, number):
    return torch.from_numpy(np.load(folder / "maps" / label / f"{number}.npy"))


def test_maps_of_other_options_are_kept_apart_and_come_back(tmp_path):
    def configured(masks):
        return tiny_config([{"name": "rise", "options": {"n_masks": masks}}], ["ebpg"], count=1)

    finished(tmp_path, configured(8))
    first = read_map(tmp_path, "rise", 0)
    finished(tmp_path, configured(4))
    assert not torch.equal(read_map(tmp_path, "rise", 0), first)
    planned(tmp_path, configured(8))
    explained, scored = stages(tmp_path)
    assert (explained.done, scored.done) == (0, 0)
    assert torch.equal(read_map(tmp_path, "rise", 0), first)


def test_the_maps_that_are_scored_are_those_of_the_plan_and_not_the_last_ones(tmp_path):
    def configured(masks):
        return tiny_config([{"name": "rise", "options": {"n_masks": masks}}], ["bbox"], count=2)

    for masks in (5, 40):
        finished(tmp_path / str(masks), configured(masks))
        planned(tmp_path / "both", configured(masks))
        explain(open_run(tmp_path / "both"), WHOLE)
    planned(tmp_path / "both", configured(5))
    score(open_run(tmp_path / "both"), WHOLE)
    assert values(tmp_path / "both", "bbox") == values(tmp_path / "5", "bbox")
    assert values(tmp_path / "5", "bbox") != values(tmp_path / "40", "bbox")


def test_seeds_of_one_folder_stand_beside_each_other_in_the_report(tmp_path):
    for seed in (0, 1):
        finished(tmp_path, tiny_config(["random", "sobel"], ["ebpg"], count=4, seed=seed))
    found = analyse(load_run(tmp_path))
    assert found.seeds.set_index("explainer")["seeds"].to_dict() == {"random": 2, "sobel": 2}
    assert found.seeds.set_index("explainer")["sd"]["random"] > 0
    assert found.summary["images"].tolist() == [4, 4]
    assert found.summary["missing"].tolist() == [0, 0]


def test_a_renamed_explainer_stands_once_in_the_report(tmp_path):
    finished(tmp_path, tiny_config(["random"], ["ebpg"], count=2))
    finished(tmp_path, tiny_config([{"name": "random", "label": "noise"}], ["ebpg"], count=2))
    assert analyse(load_run(tmp_path)).summary["explainer"].tolist() == ["noise"]


def test_a_deleted_map_is_made_again(tmp_path):
    finished(tmp_path, tiny_config(["random"], ["ebpg"], count=2))
    path = tmp_path / "maps" / "random" / "1.npy"
    before = path.read_bytes()
    path.unlink()
    assert explain(open_run(tmp_path), WHOLE).done == 1
    assert path.read_bytes() == before


def test_scoring_before_explaining_is_refused(tmp_path):
    planned(tmp_path)
    with pytest.raises(UserError, match="9 maps are missing; run the explain stage first"):
        score(open_run(tmp_path), WHOLE)


def test_two_processes_cannot_write_the_same_shard(tmp_path):
    from benchmarks.explanations.stages.common import Records
    from benchmarks.explanations.stages.plan import read_plan

    planned(tmp_path)
    with Records(read_plan(tmp_path), "explain", WHOLE):
        with pytest.raises(UserError, match="being written by another process"):
            explain(open_run(tmp_path), WHOLE)
        explain(open_run(tmp_path), Shard(0, 2))
    assert explain(open_run(tmp_path), WHOLE).skipped == 6


def test_an_explainer_that_raises_costs_only_its_own_maps(tmp_path, monkeypatch):
    def broken(images, items):
        if items[0] == 1:
            raise RuntimeError("no map\nfor this one")
        return images.mean(1, keepdim=True)

    planned(tmp_path, tiny_config(["sobel", "random"], ["ebpg"]))
    with monkeypatch.context() as patch:
        patch.setitem(CONTROLS, "sobel", broken)
        explained, scored = stages(tmp_path)
    assert explained.errors.total() == 1
    assert scored.errors.total() == 0
    (failed,) = (r for r in read_records(tmp_path / "records") if r["status"] != "ok")
    assert (failed["item"], failed["explainer"]) == (1, "sobel")
    assert failed["status"] == "error:RuntimeError"
    assert failed["message"] == "no map for this one"
    assert {name: len(v) for name, v in values(tmp_path, "ebpg").items()} == {
        "random": 3,
        "sobel": 2,
    }
    # The same command does not hide that there was an error, and --retry tries again.
    assert explain(open_run(tmp_path), WHOLE).errors.total() == 1
    assert forget_errors(tmp_path) == 1
    explained, scored = stages(tmp_path)
    assert (explained.done, explained.errors.total(), scored.done) == (1, 0, 1)


def test_a_metric_that_raises_for_one_map_costs_only_that_value(tmp_path, monkeypatch):
    from captum_excon import metrics as m

    planned(tmp_path, tiny_config(["sobel", "random", "fake-cam"], ["bbox", "ebpg"]))
    original = m.bbox

    def picky(maps, masks, **options):
        if ((maps == 0) | (maps == 1)).flatten(1).all(1).any():
            raise ZeroDivisionError
        return original(maps, masks, **options)

    family = next(f for f in suite_metrics.FAMILIES if "bbox" in f.directions)
    broken = suite_metrics.Family(
        family.directions,
        suite_metrics.partial(suite_metrics._localize, picky, "bbox"),
        truth=True,
    )
    families = [broken if f is family else f for f in suite_metrics.FAMILIES]
    monkeypatch.setattr(suite_metrics, "FAMILIES", families)
    _, scored = stages(tmp_path)
    assert list(scored.errors) == [("fake-cam", "bbox", "ZeroDivisionError: ZeroDivisionError")]
    assert scored.errors.total() == 3
    assert scored.done == 18


def test_degenerate_maps_are_nan_with_a_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(CONTROLS, "sobel", lambda images, items: torch.zeros_like(images[:, :1]))
    finished(tmp_path, tiny_config(["sobel"], ["ebpg", "drop"], count=1))
    found = [r for r in read_records(tmp_path / "records") if r["stage"] == "score"]
    assert [r["status"] for r in found] == ["nan:the map is constant"] * 2
    assert all(math.isnan(r["value"]) for r in found)


def test_every_localization_metric_has_the_truth_on_top_and_random_at_chance(tmp_path):
    metrics = ["ebpg", "bbox", "miou", {"name": "pointing-game", "options": {"tolerance": 0}}]
    controls = ["ground-truth", "random", "fake-cam"]
    finished(tmp_path, tiny_config(controls, metrics, count=24))
    masks = [float(read_map(tmp_path, "ground-truth", i).mean()) for i in range(24)]
    area = np.mean(masks)
    for metric in ("ebpg", "bbox", "pointing-game"):
        found = {name: np.mean(v) for name, v in values(tmp_path, metric).items()}
        assert found["ground-truth"] == 1
        assert found["random"] == pytest.approx(area, abs=0.15)
        assert found["fake-cam"] == pytest.approx(area, abs=0.15)
    ious = values(tmp_path, "miou")
    # The top 20 % against an object of another size.
    best = [min(m, 0.2) / max(m, 0.2) for m in masks]
    np.testing.assert_allclose(ious["ground-truth"], best, atol=0.01)
    chance = [0.2 * m / (0.2 + m - 0.2 * m) for m in masks]
    assert np.mean(ious["random"]) == pytest.approx(np.mean(chance), abs=0.02)


def test_fake_cam_wins_the_soft_drop_and_is_exposed_by_the_others(tmp_path):
    metrics = ["average-drop", "drop", {"name": "insertion", "options": {"steps": 8}}]
    finished(
        tmp_path, tiny_config(["captum:layer-grad-cam", "ground-truth", "fake-cam"], metrics, 6)
    )
    soft, drop, insertion = (
        {name: np.mean(v) for name, v in values(tmp_path, metric).items()}
        for metric in ("average-drop", "drop", "insertion")
    )
    assert soft["fake-cam"] < 1e-4 < soft["captum:layer-grad-cam"]
    assert drop["ground-truth"] < 0.05
    assert drop["fake-cam"] > 0.3 > 2 * drop["captum:layer-grad-cam"]
    assert insertion["fake-cam"] < insertion["captum:layer-grad-cam"]


def test_negative_parts_are_treated_alike_after_enlarging():
    raw = torch.tensor([[[-2.0, 2.0]]])
    assert processed(raw, (1, 4), "keep").tolist() == [[[-2, -1, 1, 2]]]
    assert processed(raw, (1, 4), "clamp").tolist() == [[[0, 0, 1, 2]]]
    assert processed(raw, (1, 4), "abs").tolist() == [[[2, 1, 1, 2]]]


def test_shards_divide_the_items():
    numbers = [list(Shard(rank, 3).numbers(8)) for rank in range(3)]
    assert sorted(itertools.chain(*numbers)) == list(range(8))


def test_a_shard_is_read_from_the_option_or_from_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert Shard.parse(None) == WHOLE
    assert Shard.parse("1/4") == Shard(1, 4)
    for wrong in ("4/4", "1", "-1/4", "1/0"):
        with pytest.raises(UserError, match="--shard must be R/N"):
            Shard.parse(wrong)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Shard.parse(None) == Shard(2, 3)
    with pytest.raises(UserError, match="use one of them"):
        Shard.parse("0/2")


def test_labels_that_are_no_folders_are_refused(tmp_path):
    from benchmarks.explanations.methods.explainers import Explainer

    with pytest.raises(UserError, match="names a folder"):
        Explainer(Choice(name="random", label="../elsewhere"))
