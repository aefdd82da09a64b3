"""Runs from their settings to their summary: what is left in the folder, and what is refused."""

import csv
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from helpers.small_runs import CLASSES, image_folder, replace, same, settings, weights
from PIL import Image
from torch import nn

from captum_excon._settings import validated
from captum_excon.errors import UserError
from captum_excon.training.modules.edda import EDDAModule
from captum_excon.training.modules.excon import ExConModule
from captum_excon.training.run import runner
from captum_excon.training.run.checkpoints import read_checkpoint, run_state
from captum_excon.training.run.config import TrainConfig
from captum_excon.training.run.defaults import completed

FILES = {"best.ckpt", "config.yaml", "last.ckpt", "metrics.csv", "summary.json", "tensorboard"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """An EDDA run with a learning rate at which its accuracy varies; not to be changed."""
    config, out = settings(data, "edda", epochs=4, lr=0.2), tmp_path_factory.mktemp("runs") / "one"
    with pytest.MonkeyPatch.context() as patch:
        # Whatever runs the tests has a command line of its own.
        patch.setattr("sys.argv", ["/usr/bin/captum-excon", "train", "--data", "my flowers"])
        runner.train(config, out)
    return config, out


def history(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run_state(out / "last.ckpt")["history"]
    return rows


@torch.no_grad()
def accuracy(module: nn.Module, loader: Any) -> float:
    batches = list(loader)
    right = sum(int((module(b.standard).argmax(1) == b.labels).sum()) for b in batches)
    return right / sum(len(b.labels) for b in batches)


def test_the_summary_says_what_was_done_and_where(finished: tuple[TrainConfig, Path]) -> None:
    config, out = finished
    assert {path.name for path in out.iterdir()} == FILES
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["seed"], summary["epochs"]) == ("edda", 0, 4)
    assert validated(TrainConfig, summary["config"]) == config
    assert TrainConfig.load(out / "config.yaml", {}) == config
    assert 0 < summary["explain_seconds"] < summary["seconds"]
    assert summary["versions"]["lightning"] == lightning.__version__
    assert summary["hardware"]["devices"] == 1
    assert summary["command"] == "captum-excon train --data 'my flowers'"


def test_the_best_checkpoint_is_chosen_on_validation_images_and_tested_on_others(
    finished: tuple[TrainConfig, Path],
) -> None:
    _, out = finished
    summary = json.loads((out / "summary.json").read_text())
    accuracies = [row["val/accuracy"] for row in history(out)]
    assert summary["best"]["val_accuracy"] == max(accuracies)
    assert summary["best"]["epoch"] == accuracies.index(max(accuracies)) + 1
    assert summary["last"] == {**summary["last"], "epoch": 4, "val_accuracy": accuracies[-1]}
    for name in ("best", "last"):
        module, datamodule, _ = runner.load_run(out / f"{name}.ckpt")
        for split, loader in (
            ("val", datamodule.val_dataloader()),
            ("test", datamodule.test_dataloader()),
        ):
            assert accuracy(module, loader) == pytest.approx(summary[name][f"{split}_accuracy"])
    names = {split: set(map(datamodule.images(split).name, range(3))) for split in ("val", "test")}
    assert not names["val"] & names["test"]


def test_a_checkpoint_loads_without_running_code_and_gives_the_module_back(
    finished: tuple[TrainConfig, Path],
) -> None:
    config, out = finished
    module, datamodule, loaded = runner.load_run(out / "last.ckpt")
    assert isinstance(module, EDDAModule)
    assert loaded == config
    assert not module.training
    assert datamodule.class_names == CLASSES
    assert same(dict(module.state_dict()), dict(weights(out / "last.ckpt")))


def test_loading_a_run_reads_no_images(finished: tuple[TrainConfig, Path]) -> None:
    _, out = finished
    _, datamodule, config = runner.load_run(out / "best.ckpt", data="moved/away")
    assert (config.data, datamodule.source) == ("moved/away", "moved/away")
    assert len(datamodule.mean) == 3


def test_the_figures_of_each_epoch_are_a_row(finished: tuple[TrainConfig, Path]) -> None:
    _, out = finished
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["step"] for row in rows] == ["6", "12", "18", "24"]
    # Explanations start in the second epoch.
    assert [bool(row["train/kept_area"]) for row in rows] == [False, True, True, True]
    assert {"train/loss", "train/explain_seconds", "val/loss", "val/accuracy"} <= rows[0].keys()
    assert list((out / "tensorboard").glob("events.*"))


def test_encoder_and_classifier_epochs_have_figures_of_their_own(
    data: Path, tmp_path: Path
) -> None:
    summary = runner.train(settings(data, "excon", epochs=2), tmp_path)
    rows = history(tmp_path)
    assert ["train/loss" in row for row in rows] == [True, False, True, False]
    assert ["val/accuracy" in row for row in rows] == [False, True, False, True]
    assert (summary["epochs"], summary["last"]["epoch"]) == (2, 2)
    module, _, _ = runner.load_run(tmp_path / "last.ckpt")
    assert isinstance(module, ExConModule)


def test_a_run_is_quiet(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        runner.train(settings(data, "ce", epochs=1), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_global_random_state_is_as_before(data: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    runner.train(settings(data, "ce", epochs=1), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_decides_the_weights(data: Path, tmp_path: Path) -> None:
    config = settings(data, "ce", epochs=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(hash(name))
        runner.train(replace(config, seed=seed), tmp_path / name)
    a, b, c = (weights(tmp_path / name / "last.ckpt") for name in "abc")
    assert same(a, b)
    assert not same(a, c)


def test_a_used_folder_is_refused_and_left_as_it_is(
    finished: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, out = finished
    with pytest.raises(UserError, match="is not empty: continue the run in it with --resume"):
        runner.train(config, out)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        runner.train(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_finished_run_is_not_repeated(finished: tuple[TrainConfig, Path]) -> None:
    config, out = finished
    before = (out / "last.ckpt").stat().st_mtime_ns
    summary = runner.train(config, out, resume=True)
    assert summary == json.loads((out / "summary.json").read_text())
    assert (out / "last.ckpt").stat().st_mtime_ns == before


def test_resuming_with_other_settings_is_refused(finished: tuple[TrainConfig, Path]) -> None:
    config, out = finished
    with pytest.raises(UserError, match=r"other settings \(lr was 0.2, now 0.1\)"):
        runner.train(replace(config, lr=0.1), out, resume=True)


def test_overwriting_removes_the_run_and_nothing_else(data: Path, tmp_path: Path) -> None:
    config = settings(data, "ce", epochs=1)
    runner.train(config, tmp_path)
    before = set((tmp_path / "tensorboard").iterdir())
    (tmp_path / "notes.txt").write_text("mine")
    summary = runner.train(replace(config, seed=1), tmp_path, overwrite=True)
    assert summary["seed"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "notes.txt"}
    left = before & set((tmp_path / "tensorboard").glob("events.*"))
    assert not left


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), (b"not a checkpoint", "not a checkpoint of captum-excon train")],
)
def test_another_file_is_no_checkpoint(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)


def test_a_state_dict_alone_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="not a checkpoint of captum-excon train"):
        read_checkpoint(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "timm:resnet10tt"}, "timm has no model"),
        ({"layer": "layer2.0.conv9"}, "layer2.0.conv9"),
        ({"explainer": "grad-kam"}, "unknown method 'grad-kam'; did you mean 'grad-cam'"),
        ({"explainer": "saliency", "layer": "layer1"}, "takes no layer"),
        ({"data": "/nowhere"}, "/nowhere"),
        ({"classes": ["blue", "gren"]}, "no class 'gren'; did you mean 'green'"),
        ({"precision": "12-mixed"}, "12-mixed"),
        ({"accelerator": "abacus"}, "abacus"),
    ],
)
def test_settings_that_do_not_do_are_one_line(
    changes: dict[str, Any], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        runner.train(replace(settings(data), **changes), tmp_path)
    assert "\n" not in str(raised.value)
    # So that the mended command does not find the folder in use.
    assert not list(tmp_path.iterdir())


def large_folder(root: Path, sides: list[int]) -> Path:
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number, side in enumerate(sides):
            Image.new("RGB", (side, 2 * side), (number, 9, 9)).save(root / label / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("sides", "changes", "size", "stem"),
    [
        ([20, 40, 60], {}, 40, True),
        ([300, 400, 500], {}, 224, False),
        ([300, 400, 500], {"image_size": 32}, 32, True),
        ([20, 40, 60], {"encoder": "demo"}, 224, False),
        ([20, 40, 60], {"pretrained": True}, 224, False),
        ([20, 40, 60], {"encoder": "timm:resnetv2_50"}, 40, False),
        ([20, 40, 60], {"cifar_stem": False}, 40, False),
    ],
)
def test_size_and_stem_follow_from_the_images_and_the_encoder(
    sides: list[int], changes: dict[str, Any], size: int, stem: bool, tmp_path: Path
) -> None:
    config = TrainConfig(data=str(large_folder(tmp_path / "images", sides * 4)), **changes)
    found = completed(config)
    assert (found.image_size, found.cifar_stem) == (size, stem)


def test_a_run_that_leaves_the_size_open_is_resumed_and_loaded(data: Path, tmp_path: Path) -> None:
    config = settings(data, "ce", epochs=1, image_size=None, cifar_stem="auto")
    runner.train(config, tmp_path)
    (tmp_path / "summary.json").unlink()
    runner.train(config, tmp_path, resume=True)
    module, datamodule, loaded = runner.load_run(tmp_path / "last.ckpt")
    assert (loaded.image_size, loaded.cifar_stem) == (12, True)
    assert datamodule.image_size == 12
    assert isinstance(module.network.encoder.maxpool, nn.Identity)


def test_the_defaults_do_not_diverge_where_the_rate_without_clipping_does(
    data: Path, tmp_path: Path
) -> None:
    safe = settings(data, "ce", lr=None, warmup_epochs=1, gradient_clip=1.0, image_size=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runner.train(safe, tmp_path / "safe")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        runner.train(replace(safe, lr=3.0, gradient_clip=None), tmp_path / "wild")
    texts = [str(warning.message) for warning in told]
    assert sum("training diverges, train/loss rose to" in text for text in texts) == 1
    assert sum("training diverges, val/loss is" in text for text in texts) == 1
    assert max(row["val/loss"] for row in history(tmp_path / "safe")) < 3
    assert max(row["val/loss"] for row in history(tmp_path / "wild")) > 10
