"""The settings of a benchmark: read, checked, put on top of each other, and hashed."""

import re
from typing import get_args

import pytest

from benchmarks.explanations.configs.settings import (
    CONFIGS,
    Config,
    GridData,
    load_config,
    settings_tables,
)
from captum_excon._settings import Settings, parse_assignments
from captum_excon.errors import UserError

SMALL = {
    "data": {"kind": "synthetic", "count": 4},
    "model": {"name": "synthetic"},
    "explainers": ["random", {"name": "rise", "options": {"n_masks": 8}}],
    "metrics": ["ebpg", "drop"],
}


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS.glob("*.yaml")])
def test_every_configuration_reads(name):
    config = load_config(name, {} if name == "quick" else {"data.path": "somewhere"})
    assert {"random", "ground-truth", "fake-cam"} <= {c.label for c in config.explainers}


def test_there_are_seven_configurations():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        *("quick", "grid", "boxes", "ablation", "fused", "paper", "full")
    }


def test_a_saved_configuration_reads_as_itself(tmp_path):
    config = load_config("grid", {"data.path": "flowers"})
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert isinstance(config.data, GridData)


def test_overrides_go_on_top_of_the_file():
    config = load_config("quick", parse_assignments(["data.count=3", "protocol.negatives=abs"]))
    assert (config.data.count, config.protocol.negatives, config.data.size) == (3, "abs", 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, "unknown setting 'modle'; did you mean 'model'?"),
        ({"model": {"nam": "demo"}}, "unknown setting 'model.nam'; did you mean 'name'?"),
        ({"data": {"kind": "grid"}}, "the setting 'data.path' is missing"),
        (
            {"data": {"kind": "images", "path": "x", "min_probability": 0.5}},
            "unknown setting 'data.min_probability'; settings are classes, count, seed, path, "
            "split, kind",
        ),
        (
            {"data": {"kind": "films"}},
            "data.kind should be one of 'synthetic', 'images', 'grid', 'boxes', but found 'films'",
        ),
        ({"data": {"count": 4}}, "the setting 'data.kind' is missing"),
        ({"data": "cats"}, "data: expected lines of 'setting: value', but found 'cats'"),
        (
            {"data": {"kind": "synthetic", "count": 0}},
            "data.count should be greater than or equal to 1, but found 0",
        ),
        (
            {"data": {"kind": "synthetic", "count": "ten"}},
            "data.count should be a valid integer, but found 'ten'",
        ),
        (
            {"protocol": {"target": "best"}},
            "protocol.target should be 'predicted' or 'label', but found 'best'",
        ),
        ({"protocol": []}, "protocol: expected lines of 'setting: value', but found []"),
        ({"data": {"kind": "grid", "path": "x"}}, "protocol.target must be 'label' for mosaics"),
        (
            {
                "data": {"kind": "boxes", "layout": "voc", "path": "x"},
                "protocol": {"target": "predicted", "only_correct": False},
            },
            "set protocol.only_correct=true, or protocol.target=label",
        ),
        ({"model": {"size": [64]}}, "model.size: List should have at least 2 items"),
        ({"metrics": []}, "metrics: expected a list of names"),
        ({"metrics": "drop"}, "metrics should be a list, but found 'drop'"),
        ({"metrics": ["drop", "drop"]}, "'drop' stands twice; give one of them a label"),
        (
            {"metrics": ["ebpg", {"name": "drop", "option": {}}]},
            "unknown setting 'metrics.1.option'; did you mean 'options'?",
        ),
        (
            {"batch_size": 0},
            "batch_size should be greater than or equal to 1, but found 0",
        ),
        ({"seed": 0.5}, "seed should be a valid integer, but found 0.5"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(UserError) as caught:
        Config.from_mapping({**SMALL, **change}, "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert message in str(caught.value)


def settings_of(cls, prefix=""):
    """Every setting of a class and of those inside it: its dotted name and its field."""
    for name, field in cls.model_fields.items():
        yield f"{prefix}{name}", field
        for inner in _classes(field.annotation):
            yield from settings_of(inner, f"{prefix}{name}.")


def _classes(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for inner in get_args(annotation):
        yield from _classes(inner)


def test_every_setting_says_what_it_is():
    found = dict(settings_of(Config))
    assert len(found) > 35
    assert {"data.min_probability", "model.name", "metrics.options"} <= set(found)
    assert [name for name, field in found.items() if not field.description] == []


def test_the_tables_of_settings_name_all_but_explainers_and_metrics():
    tables = settings_tables()
    for name, field in settings_of(Config):
        if not name.startswith(("explainers", "metrics")) and name not in (
            "data",
            "model",
            "protocol",
        ):
            assert f"`{name}`" in tables
            assert " ".join(field.description.split()) in tables
    assert "| `data.min_probability` | 0<=X<=1" in re.sub(" +", " ", tables)


def test_another_kind_of_data_drops_the_settings_that_it_does_not_have():
    config = load_config("paper", {"data.kind": "images", "data.path": "flowers"})
    assert (config.data.kind, config.data.count) == ("images", 1000)
    with pytest.raises(UserError, match=r"unknown setting 'data\.layout'"):
        load_config("paper", {"data.kind": "images", "data.path": "x", "data.layout": "voc"})


def test_wrongly_classified_boxes_can_be_explained_for_their_own_class():
    data = {"kind": "boxes", "layout": "voc", "path": "x"}
    protocol = {"target": "label", "only_correct": False}
    assert not Config.from_mapping(
        {**SMALL, "data": data, "protocol": protocol}
    ).protocol.only_correct


def test_an_unknown_configuration_is_answered_with_close_ones():
    with pytest.raises(UserError, match="did you mean 'quick'"):
        load_config("quik")


def test_an_override_cannot_go_below_a_value():
    with pytest.raises(UserError, match="'count' is a value, not a section"):
        load_config("quick", {"data.count.more": 1})


def hashes(**change):
    config = Config.from_mapping({**SMALL, **change})
    rise = next(e for e in config.explainers if e.name == "rise")
    drop = next(m for m in config.metrics if m.name == "drop")
    return config.items_hash, config.explainer_hash(rise), config.metric_hash(rise, drop)


@pytest.mark.parametrize(
    "change",
    [
        {"explainers": [*SMALL["explainers"], "sobel"]},
        {"metrics": ["drop", "bbox"]},
        {"batch_size": 7},
        {"explainers": [{"name": "rise", "options": {"n_masks": 8}, "label": "RISE"}]},
    ],
)
def test_what_changes_no_value_changes_no_hash(change):
    assert hashes(**change) == hashes()


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"data": {"kind": "synthetic", "count": 4, "seed": 1}}, (False, False, False)),
        ({"model": {"name": "demo"}}, (False, False, False)),
        ({"protocol": {"only_correct": False}}, (False, False, False)),
        ({"seed": 1}, (True, False, False)),
        ({"layer": "block2"}, (True, False, False)),
        ({"explainers": [{"name": "rise", "options": {"n_masks": 9}}]}, (True, False, False)),
        ({"protocol": {"negatives": "abs"}}, (True, True, False)),
        ({"metrics": [{"name": "drop", "options": {"fraction": 0.5}}]}, (True, True, False)),
    ],
)
def test_a_hash_changes_with_what_its_value_depends_on(change, same):
    assert tuple(a == b for a, b in zip(hashes(**change), hashes(), strict=True)) == same


def test_hashes_are_those_of_earlier_runs_so_that_they_go_on():
    config = load_config("quick")
    explainer, metric = config.explainers[1], config.metrics[-1]
    assert config.items_hash == "06f7481260e6217f"
    assert config.explainer_hash(explainer) == "980ac934fbcc8e4d"
    assert config.metric_hash(explainer, metric) == "dff2f1df4cb6c981"
    changes = {"data.path": "x", "model.size": [64, 32], "model.mean": [0.5] * 3, "seed": 3}
    config = load_config("grid", {**changes, "layer": "a"})
    explainer, metric = config.explainers[5], config.metrics[2]
    assert config.items_hash == "fb53fd2e2d04417b"
    assert config.explainer_hash(explainer) == "04dd926d5c2985cc"
    assert config.metric_hash(explainer, metric) == "2e8ea0c7082c36f1"


def test_where_the_data_lie_changes_no_hash():
    here, there = (load_config("grid", {"data.path": p}).items_hash for p in ("here", "there"))
    assert here == there
