"""Checkpoints: resumed exactly, loaded without running code."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers import training_toys as toys

from captum_excon.training.modules.factory import METHODS, load_module


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    method: str, tmp_path: Path
) -> None:
    options = {"refresh": 2, "fill": "noise"} if method in toys.EXPLAINED else {}
    whole = toys.module(method, **options)
    toys.fit(whole, tmp_path, epochs=4)

    first = toys.module(method, **options)
    half = toys.trainer(tmp_path, 4, callbacks=[Stop(after=3)])
    half.fit(first, toys.loader(), toys.loader(8))
    half.save_checkpoint(tmp_path / "half.ckpt")
    torch.manual_seed(99)
    resumed = toys.module(method, toys.TinyEncoder(), **options)
    toys.trainer(tmp_path, 4).fit(
        resumed, toys.loader(), toys.loader(8), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert toys.changed(toys.weights(whole), toys.weights(resumed)) == set()
    assert toys.changed(toys.weights(first), toys.weights(resumed)) != set()


class Stop(L.Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 == self.after


@pytest.mark.parametrize("method", ["exconb", "edda"])
def test_a_checkpoint_is_loaded_without_running_code(method: str, tmp_path: Path) -> None:
    options = {"mean": (0.4, 0.5, 0.6), "refresh": "teacher"}
    model = toys.module(method, "torchvision:resnet18", layer="layer1", **options)
    done = toys.trainer(tmp_path)
    done.strategy.connect(model)
    done.save_checkpoint(tmp_path / "end.ckpt", weights_only=True)
    again = load_module(tmp_path / "end.ckpt")
    images = torch.rand(2, 3, 32, 32)
    assert type(again) is type(model)
    assert torch.equal(model.eval()(images), again(images))
    assert again.settings.layer == "layer1"


def test_an_encoder_that_was_a_module_is_given_again(tmp_path: Path) -> None:
    model = toys.module("excon", threshold=0.7)
    toys.fit(model, tmp_path, epochs=1).save_checkpoint(tmp_path / "end.ckpt")
    again = load_module(tmp_path / "end.ckpt", encoder=toys.TinyEncoder())
    assert toys.changed(toys.weights(model), toys.weights(again)) == set()
    assert again.settings.threshold == 0.7


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of a training module"):
        load_module(tmp_path / "other.ckpt")
