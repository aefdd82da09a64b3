"""Settings: their file, the flags on top, and what is refused."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_excon.errors import UserError
from captum_excon.training.run.config import TrainConfig

CONFIGS = Path(__file__).parents[3] / "benchmarks" / "training"


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_flags_come_before_the_methods_section_and_that_before_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "data: flowers\nmethod: ce\nlr: 0.5\nmomentum: 0.8\nepochs: 7\n"
        "per_method:\n  ce: {lr: 0.2, momentum: 0.7}\n  edda: {lr: 0.3}\n",
    )
    config = TrainConfig.load(path, {"momentum": 0.6})
    assert (config.lr, config.momentum, config.epochs) == (0.2, 0.6, 7)
    assert TrainConfig.load(path, {"method": "edda"}).lr == 0.3
    assert TrainConfig.load(path, {"method": "excon"}).lr == 0.5


def test_numbers_without_a_dot_which_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, "data: flowers\nweight_decay: 1e-4\nlr: 1\n")
    config = TrainConfig.load(path, {})
    assert config.weight_decay == 1e-4
    assert isinstance(config.lr, float)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: x\nlearning_rte: 1", "unknown setting 'learning_rte'"),
        ("data: x\nbatchsize: 1", "did you mean 'batch_size'"),
        ("data: x\nper_method: {ce: {epoch: 2}}", "did you mean 'epochs'"),
        ("data: x\nper_method: {resnet: {epochs: 2}}", "per_method maps methods"),
        ("data: x\nmethod: exkon", "method: there is no method 'exkon'; did you mean 'excon'"),
        ("data: x\nepochs: many", "epochs should be a valid integer, but found 'many'"),
        ("data: x\nepochs: 2.5", "epochs should be a valid integer, but found 2.5"),
        ("data: x\nepochs: true", "epochs should be a valid integer, but found True"),
        ("data: x\nepochs: 0", "epochs should be greater than or equal to 1, but found 0"),
        ("data: x\nval_fraction: 0", "val_fraction should be greater than 0, but found 0"),
        (
            "data: x\nclasses: [1, 2]",
            "a valid integer or for classes.0 a valid string",
        ),
        ("epochs: 3", "the setting 'data' is missing: A folder with"),
        ("just words", "expected lines of 'setting: value'"),
        ("a: [", "not valid YAML"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        TrainConfig.load(written(tmp_path, text), {})
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read \(No such file"):
        TrainConfig.load(tmp_path / "nowhere.yaml", {})


@settings(deadline=None)  # a disk may be slow
@given(
    lr=st.floats(1e-9, 1e3),
    seed=st.integers(0, 2**40),
    classes=st.none() | st.integers(1, 100) | st.lists(st.text(min_size=1), min_size=1),
    data=st.text(min_size=1),
)
def test_what_is_saved_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    lr: float,
    seed: int,
    classes: int | list[str] | None,
    data: str,
) -> None:
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    config = TrainConfig(data=data, lr=lr, seed=seed, classes=classes, encoder_args={"a": [1, 2]})
    config.save(path)
    assert TrainConfig.load(path, {}) == config


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("method", ["ce", "supcon", "excon", "exconb", "edda", "random-occlusion"])
def test_the_projects_own_files_are_valid_for_every_method(path: Path, method: str) -> None:
    config = TrainConfig.load(path, {"data": "somewhere", "method": method})
    assert config.method == method
    assert yaml.safe_load(path.read_text()).get("seed", 0) == 0
