"""The settings of a benchmark: read, checked, put on top of each other, and hashed."""

import pytest

from benchmarks.explanations.config import (
    CONFIGS,
    Config,
    GridData,
    load_config,
    parse_overrides,
)
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


def test_there_are_five_configurations():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == {
        *("quick", "grid", "boxes", "paper", "full")
    }


def test_a_saved_configuration_reads_as_itself(tmp_path):
    config = load_config("grid", {"data.path": "flowers"})
    config.save(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert isinstance(config.data, GridData)


def test_overrides_go_on_top_of_the_file():
    config = load_config("quick", parse_overrides(["data.count=3", "protocol.negatives=abs"]))
    assert (config.data.count, config.protocol.negatives, config.data.size) == (3, "abs", 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": {}}, "unknown setting 'modle'; did you mean 'model'?"),
        ({"model": {"nam": "demo"}}, "model: unknown setting 'nam'; did you mean 'name'?"),
        ({"data": {"kind": "grid"}}, "data: the setting 'path' is missing: add data.path=..."),
        ({"data": {"kind": "films"}}, "data.kind must be one of synthetic, images, grid, boxes"),
        ({"data": {"kind": "synthetic", "count": 0}}, "count must be at least 1, but found 0"),
        ({"data": {"kind": "synthetic", "count": "ten"}}, "count must be a whole number"),
        ({"protocol": {"target": "best"}}, "target must be 'predicted' or 'label'"),
        ({"protocol": []}, "protocol: expected lines of 'setting: value'"),
        ({"data": {"kind": "grid", "path": "x"}}, "protocol.target must be 'label' for mosaics"),
        (
            {
                "data": {"kind": "boxes", "layout": "voc", "path": "x"},
                "protocol": {"target": "predicted", "only_correct": False},
            },
            "set protocol.only_correct=true, or protocol.target=label",
        ),
        ({"metrics": []}, "metrics: expected a list of names"),
        ({"metrics": ["drop", "drop"]}, "'drop' stands twice; give one of them a label"),
        ({"metrics": [{"name": "drop", "option": {}}]}, "did you mean 'options'?"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(UserError) as caught:
        Config.from_mapping({**SMALL, **change})
    assert message in str(caught.value)


def test_wrongly_classified_boxes_can_be_explained_for_their_own_class():
    data = {"kind": "boxes", "layout": "voc", "path": "x"}
    protocol = {"target": "label", "only_correct": False}
    assert not Config.from_mapping(
        {**SMALL, "data": data, "protocol": protocol}
    ).protocol.only_correct


def test_an_unknown_configuration_is_answered_with_close_ones():
    with pytest.raises(UserError, match="did you mean 'quick'"):
        load_config("quik")


def test_an_override_needs_a_value():
    with pytest.raises(UserError, match=r"expected NAME=VALUE, such as data.count=8"):
        parse_overrides(["data.count"])


def test_an_override_cannot_go_below_a_value():
    with pytest.raises(UserError, match="'count' has no settings in it"):
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


def test_where_the_data_lie_changes_no_hash():
    here, there = (load_config("grid", {"data.path": p}).items_hash for p in ("here", "there"))
    assert here == there
