"""Options that cannot work, losses that are not finite, explainers that raise."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.training_toys import CLASSES, TinyEncoder, fit, module
from torch import Tensor, nn

from captum_excon.errors import ExplainerError
from captum_excon.training.modules.edda import EDDAModule
from captum_excon.training.modules.excon import ExConModule
from captum_excon.training.modules.factory import build_module


class Broken(L.Callback):
    """Ruins the weights in a given epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.epoch:
            pl_module.network.encoder.stem[0].weight.data.fill_(math.nan)


@pytest.mark.parametrize(
    ("method", "every"), [("excon", 1), ("excon", 50), ("supcon", 50), ("edda", 1), ("ce", 50)]
)
def test_a_loss_that_is_not_finite_stops_training_before_a_checkpoint_is_written(
    method: str, every: int, tmp_path: Path
) -> None:
    saving = L.pytorch.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1)
    with pytest.raises(FloatingPointError, match=r"NaN or infinite.*lower lr"):
        fit(
            module(method),
            tmp_path,
            epochs=4,
            log_every_n_steps=every,
            enable_checkpointing=True,
            callbacks=[saving, Broken(epoch=2)],
        )
    assert len(list(tmp_path.glob("*.ckpt"))) == 2
    assert all(load_again(path) for path in tmp_path.glob("*.ckpt"))


def test_a_checkpoint_in_the_middle_of_an_epoch_is_not_written_after_a_broken_loss(
    tmp_path: Path,
) -> None:
    saving = L.pytorch.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1)
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        fit(
            module("edda"),
            tmp_path,
            enable_checkpointing=True,
            callbacks=[saving, Broken(epoch=1)],
        )
    assert len(list(tmp_path.glob("*.ckpt"))) == 2
    assert all(load_again(path) for path in tmp_path.glob("*.ckpt"))


def load_again(path: Path) -> bool:
    state = torch.load(path, weights_only=True)["state_dict"]
    return all(bool(value.isfinite().all()) for value in state.values())


def test_an_explainer_that_raises_is_named_and_earlier_checkpoints_stay(tmp_path: Path) -> None:
    def fragile(model: nn.Module) -> Any:
        def explain(images: Tensor, targets: Tensor) -> Tensor:
            raise ZeroDivisionError("no maps today")

        return explain

    saving = L.pytorch.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1)
    with pytest.raises(ExplainerError, match=r"fragile failed in epoch 1 .*no maps today"):
        fit(
            module("edda", explainer=fragile, layer=None, start_epoch=1),
            tmp_path,
            enable_checkpointing=True,
            callbacks=[saving],
        )
    assert len(list(tmp_path.glob("*.ckpt"))) == 1


def test_a_trainer_that_never_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_epochs or max_steps"):
        fit(module("edda"), tmp_path, epochs=-1)


class LastRates(L.Callback):
    """Keeps the learning rates after the last step of each optimizer."""

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        self.steps = [schedule.scheduler.last_epoch for schedule in trainer.lr_scheduler_configs]


@pytest.mark.parametrize("method", ["excon", "edda"])
@pytest.mark.parametrize(
    ("epochs", "options", "steps"),
    [
        (4, {"max_steps": 5}, {"excon": [3, 2], "edda": [5]}),
        (100, {"max_steps": 6}, {"excon": [4, 2], "edda": [6]}),
        (-1, {"max_steps": 3}, {"excon": [2, 1], "edda": [3]}),
        (3, {"limit_train_batches": 1}, {"excon": [2, 1], "edda": [3]}),
        (2, {"overfit_batches": 1}, {"excon": [1, 1], "edda": [2]}),
    ],
)
def test_the_cosine_ends_with_the_training(
    method: str, epochs: int, options: dict[str, Any], steps: dict[str, list[int]], tmp_path: Path
) -> None:
    last = LastRates()
    fit(module(method), tmp_path, epochs, callbacks=[last], **options)
    assert last.steps == steps[method]
    assert last.rates == pytest.approx([0.0] * len(last.rates), abs=1e-12)


@pytest.mark.parametrize("method", ["excon", "edda"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "bodi"}, "no layer 'bodi'; did you mean 'body'"),
        ({"explainer": "layer-gradcam"}, "did you mean 'layer-grad-cam'"),
        ({"explainer": "saliency"}, "takes no layer"),
        ({"refresh": 0}, "refresh should be"),
        ({"refresh": "never"}, "refresh should be"),
        ({"teacher": nn.Flatten()}, 'only with refresh="teacher"'),
        ({"start_epoch": -1}, "start_epoch should be greater than or equal to 0"),
        ({"gradient_clip": 0.0}, "gradient_clip should be greater than 0"),
        ({"explain_mode": "test"}, "explain_mode should be 'eval' or 'train'"),
        ({"cache": "maps"}, "maps of fixed weights"),
        ({"cache": "maps", "refresh": 2, "explain_mode": "train"}, "maps of fixed weights"),
        ({"std": (1.0, 1.0, 0.0)}, "std positive"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(method, **(options | ({"view": "standard"} if method == "edda" else {})))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("edda", {"cache": "maps", "refresh": 2}, 'set view="standard"'),
        ("edda", {"drop_target": "nothing"}, "drop_target should be 'uniform'"),
        ("edda", {"view": "view2"}, "view should be"),
        ("edda", {"keep_weight": -1.0}, "keep_weight should be greater than or equal to 0"),
        ("excon", {"classifier_schedule": "never"}, "classifier_schedule should be"),
        ("exconb", {"background": "exclude"}, "background should be"),
        ("exconn", {}, "did you mean 'excon"),
    ],
)
def test_options_of_one_class_are_checked_too(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        module(method, **options)


def test_an_option_that_no_method_has_is_refused_with_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"'temprature'; did you mean 'temperature'"):
        build_module("ce", TinyEncoder(), CLASSES, temprature=0.1)


def test_a_method_of_the_other_class_is_refused() -> None:
    with pytest.raises(ValueError, match="build_module knows the others"):
        ExConModule(TinyEncoder(), CLASSES, method="edda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="build_module knows the others"):
        EDDAModule(TinyEncoder(), CLASSES, method="excon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="either an encoder or a classifier"):
        EDDAModule(None, CLASSES)
