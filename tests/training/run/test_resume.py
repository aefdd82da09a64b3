"""A run that is killed, wherever, and resumed ends with the bits of an uninterrupted one."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.small_runs import METHODS, image_folder, in_child, killing, replace, same, settings

from captum_excon.training.run import checkpoints, runner
from captum_excon.training.run.config import TrainConfig

pytestmark = pytest.mark.slow  # each kills and repeats whole runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainConfig], Path]:
    """The folder of an uninterrupted run, made once for each settings."""
    done: dict[str, Path] = {}

    def run(config: TrainConfig) -> Path:
        key = json.dumps(config.model_dump())
        if key not in done:
            done[key] = tmp_path_factory.mktemp("whole")
            runner.train(config, done[key])
        return done[key]

    return run


def killed_while_training(config: TrainConfig, out: Path, at_step: int) -> None:
    torch.optim.SGD.step = killing(torch.optim.SGD.step, at_step)  # type: ignore[method-assign]
    runner.train(config, out, resume=True)


def killed_while_saving(config: TrainConfig, out: Path, function: str, at_call: int) -> None:
    setattr(os, function, killing(getattr(os, function), at_call))
    runner.train(config, out, resume=True)


def trained(checkpoint: Path) -> dict[str, Any]:
    """All of a checkpoint that training goes on from, and the figures, which the time is not."""
    loaded = torch.load(checkpoint, weights_only=True)
    history = loaded["callbacks"]["RunFolder"]["history"]
    timeless = [
        {name: value for name, value in row.items() if "seconds" not in name} for row in history
    ]
    names = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    return {**{name: loaded[name] for name in names}, "history": timeless}


def assert_equal_runs(one: Path, other: Path) -> None:
    for name in (checkpoints.LAST, checkpoints.BEST):
        assert same(trained(one / name), trained(other / name)), name
    first, second = (json.loads((out / runner.SUMMARY).read_text()) for out in (one, other))
    assert (first["best"], first["last"]) == (second["best"], second["last"])
    written = [(out / checkpoints.METRICS).read_text().splitlines() for out in (one, other)]
    assert len(written[0]) == len(written[1])
    assert written[0][0] == written[1][0]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_in_the_middle_of_an_epoch_that_is_explained(
    method: str, data: Path, tmp_path: Path, whole: Callable[[TrainConfig], Path]
) -> None:
    config = settings(data, method)
    # Each of Lightning's epochs has six steps; the first two of the third are done.
    killed = tmp_path / "killed"
    assert in_child(killed_while_training, config, killed, 15) == -signal.SIGKILL
    assert len(checkpoints.run_state(killed / checkpoints.LAST)["history"]) == 2
    runner.train(config, killed, resume=True)
    assert_equal_runs(whole(config), killed)


@pytest.mark.slow
def test_killed_again_and_again(
    data: Path, tmp_path: Path, whole: Callable[[TrainConfig], Path]
) -> None:
    """Before the first checkpoint; in the middle of an epoch; at the last step of one.

    With dropout, which draws from the global generator, and workers, which run ahead.
    """
    dropout = {**settings(data).encoder_args, "drop_rate": 0.2}
    config = settings(data, "exconb", epochs=2, encoder_args=dropout, num_workers=1)
    killed = tmp_path / "killed"
    for at_step in (4, 15, 6):
        assert in_child(killed_while_training, config, killed, at_step) == -signal.SIGKILL
    # The number of workers may change.
    runner.train(replace(config, num_workers=0), killed, resume=True)
    assert_equal_runs(whole(config), killed)


@pytest.mark.parametrize(("function", "at_call"), [("fsync", 3), ("replace", 5)])
def test_killed_while_a_checkpoint_is_written_leaves_the_earlier_ones_whole(
    function: str, at_call: int, data: Path, tmp_path: Path, whole: Callable[[TrainConfig], Path]
) -> None:
    config = settings(data, "edda")
    killed = tmp_path / "killed"
    assert in_child(killed_while_saving, config, killed, function, at_call) == -signal.SIGKILL
    assert list(killed.glob("*.partial")) or list(killed.glob(".*.partial"))
    for name in (checkpoints.BEST, checkpoints.LAST):
        assert checkpoints.run_state(killed / name)["history"]
    runner.train(config, killed, resume=True)
    assert_equal_runs(whole(config), killed)
    assert not list(killed.glob(".*"))


def test_a_killed_run_may_be_moved_to_another_disk(
    data: Path, tmp_path: Path, whole: Callable[[TrainConfig], Path]
) -> None:
    config, killed = settings(data, "edda"), tmp_path / "killed"
    assert in_child(killed_while_training, config, killed, 15) == -signal.SIGKILL
    moved = killed.rename(tmp_path / "moved")
    runner.train(config, moved, resume=True)
    assert_equal_runs(whole(config), moved)
