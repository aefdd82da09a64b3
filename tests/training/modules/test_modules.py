"""What each epoch trains, what each step computes, which weights explain, what is logged."""

import copy
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from helpers.training_toys import CLASSES, Counted, TinyEncoder, changed, fit, module, weights
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from captum_excon.training.modules.excon import ExConModule
from captum_excon.training.modules.factory import METHODS


class Watch(L.Callback):
    """Calls a function at the end of each training epoch."""

    def __init__(self, note: Any) -> None:
        self.note = note

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.note(trainer.current_epoch, pl_module)


@pytest.mark.filterwarnings("ignore:training diverges")  # the classifier's rate is high
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_classes_that_differ_in_colour(method: str, tmp_path: Path) -> None:
    model = module(method, keep_ratio=0.5, drop_weight=0.2, lr=0.3, classifier_lr=3.0)
    done = fit(model, tmp_path, epochs=16, check_val_every_n_epoch=16)
    assert done.callback_metrics["val/accuracy"] > 0.8
    assert all(math.isfinite(value) for value in done.callback_metrics.values())


def test_alternating_epochs_train_either_the_encoder_or_the_classifier(tmp_path: Path) -> None:
    model = module("excon")
    seen = [weights(model)]
    modes = []

    def note(epoch: int, pl_module: ExConModule) -> None:
        seen.append(weights(pl_module))
        modes.append((pl_module.network.encoder.training, pl_module.network.head.training))

    fit(model, tmp_path, epochs=4, callbacks=[Watch(note)])
    for epoch in range(4):
        names = changed(seen[epoch], seen[epoch + 1])
        if epoch % 2 == 0:
            assert "network.encoder.stem.0.weight" in names
            assert "network.encoder.stem.1.running_mean" in names
            assert "projection.output.weight" in names
            assert not any(name.startswith("network.head") for name in names)
        else:
            assert names == {"network.head.weight", "network.head.bias"}
    assert modes == [(True, True), (False, True)] * 2


def test_parts_that_their_owner_froze_stay_so_after_a_classifier_epoch(tmp_path: Path) -> None:
    model = module("supcon")
    modes = []

    class Freeze(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            pl_module.network.encoder.stem[1].eval()

        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            encoder = pl_module.network.encoder
            modes.append((encoder.training, encoder.stem[1].training))

    fit(model, tmp_path, epochs=3, callbacks=[Freeze()])
    assert modes == [(True, False), (False, False), (True, False)]


def test_with_the_step_schedule_both_learn_in_every_epoch(tmp_path: Path) -> None:
    model = module("exconb", classifier_schedule="step")
    before = weights(model)
    done = fit(model, tmp_path, epochs=1)
    names = changed(before, weights(model))
    assert {"network.head.weight", "projection.output.weight"} <= names
    assert "network.encoder.body.0.weight" in names
    assert done.callback_metrics["train/classifier_loss"] > 0
    assert done.global_step == 2


def test_the_classifier_does_not_move_the_encoder_in_the_step_schedule(tmp_path: Path) -> None:
    ends = []
    for classifier_lr in (0.1, 10.0):
        model = module("supcon", classifier_schedule="step", classifier_lr=classifier_lr)
        fit(model, tmp_path, epochs=1)
        ends.append(weights(model))
    assert changed(*ends) == {"network.head.weight", "network.head.bias"}


@pytest.mark.parametrize(
    ("method", "epochs", "expected"),
    [("excon", 6, [2, 2]), ("edda", 4, [2, 2, 2]), ("supcon", 4, []), ("ce", 2, [])],
)
def test_explanations_begin_after_the_warm_up_and_cost_one_call_a_batch(
    method: str, epochs: int, expected: list[int], tmp_path: Path
) -> None:
    explainer = Counted()
    calls = []
    fit(
        module(method, explainer=explainer, layer=None, start_epoch=1),
        tmp_path,
        epochs,
        callbacks=[Watch(lambda epoch, _: calls.append(explainer.calls))],
    )
    per_epoch = [b - a for a, b in zip([0, *calls], calls, strict=False)]
    assert [count for count in per_epoch if count] == expected
    # Rounds of ExCon are pairs of epochs, and the classifier's epochs explain nothing.
    first = {"excon": 2, "edda": 1}.get(method)
    assert first is None or per_epoch.index(2) == first
    assert method != "excon" or per_epoch == [0, 0, 2, 0, 2, 0]


@pytest.mark.parametrize("method", ["supcon", "excon"])
def test_in_the_warm_up_excon_is_supcon(method: str, tmp_path: Path) -> None:
    model = module(method, start_epoch=5)
    fit(model, tmp_path, epochs=2)
    plain = module("supcon")
    fit(plain, tmp_path, epochs=2)
    assert changed(weights(model), weights(plain)) == set()


def test_an_encoder_step_runs_the_encoder_once_each_for_map_acceptance_and_loss(
    tmp_path: Path,
) -> None:
    model = module("excon", explainer="layer-grad-cam")
    rows: list[tuple[int, bool, bool]] = []
    model.network.encoder.register_forward_hook(
        lambda encoder, args, output: rows.append(
            (len(args[0]), output.requires_grad, encoder.training)
        )
    )
    fit(model, tmp_path, epochs=1, limit_train_batches=1, limit_val_batches=0)
    assert rows == [(8, True, False), (8, False, False), (16, True, True)]


def test_exconbs_backgrounds_and_excons_acceptance_are_logged(tmp_path: Path) -> None:
    metrics = fit(module("exconb"), tmp_path, epochs=1).callback_metrics
    assert metrics["train/backgrounds"] == 16 * (1 - metrics["train/acceptance_rate"])
    assert metrics["train/backgrounds"] > 0
    assert metrics["train/kept_area"] == pytest.approx(0.25)
    assert metrics["train/constant_maps"] == 0
    assert metrics["train/explain_seconds"] > 0


@pytest.mark.parametrize("method", ["excon", "edda"])
def test_a_frozen_teacher_is_the_network_as_it_was_when_explanations_began(
    method: str, tmp_path: Path
) -> None:
    explainer = Counted()
    model = module(method, explainer=explainer, layer=None, refresh="teacher", start_epoch=1)
    seen: list[dict[str, Tensor]] = []
    pair = 2 if method == "excon" else 1
    fit(
        model,
        tmp_path,
        epochs=3 * pair,
        callbacks=[Watch(lambda epoch, pl_module: seen.append(weights(pl_module.network)))],
    )
    assert changed(seen[pair - 1], weights(model.teacher)) == set()
    assert changed(seen[-1], weights(model.teacher)) != set()
    assert set(map(id, explainer.models)) == {id(model.teacher)}


def test_a_copy_that_explains_is_renewed_every_n_rounds(tmp_path: Path) -> None:
    model = module("edda", refresh=2)
    networks = [weights(model.network)]
    teachers: list[dict[str, Tensor]] = []

    def note(epoch: int, pl_module: Any) -> None:
        networks.append(weights(pl_module.network))
        teachers.append(weights(pl_module.teacher))

    fit(model, tmp_path, epochs=4, callbacks=[Watch(note)])
    # The teacher of epochs 0 and 1 has the weights before epoch 0; of 2 and 3, those before 2.
    for epoch, teacher in enumerate(teachers):
        assert changed(networks[epoch // 2 * 2], teacher) == set()


def test_a_teacher_that_is_given_explains_from_the_start_and_is_not_changed(
    tmp_path: Path,
) -> None:
    teacher = nn.Sequential(TinyEncoder(), nn.Linear(6, CLASSES))
    before = weights(teacher)
    model = module("edda", teacher=teacher, refresh="teacher", layer=None)
    fit(model, tmp_path, epochs=2)
    assert changed(before, weights(teacher)) == set()


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("method", ["excon", "edda"])
def test_gradients_are_clipped_after_the_loss_scale_is_taken_away(
    method: str, scaled: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {}
    if scaled:
        # Lightning refuses the name "16-mixed" on a CPU, where torch has had it for some time.
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler=scaler)]
    model = module(method, gradient_clip=1e-3, lr=1.0, momentum=0.0, weight_decay=0.0)
    before = dict(copy.deepcopy(model).named_parameters())
    fit(model, tmp_path, epochs=1, limit_train_batches=1, **options)
    steps = [(after - before[name]).detach().norm() for name, after in model.named_parameters()]
    # The first learning rate of a cosine is 1.
    assert float(torch.stack(steps).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_one_loss_scale_serves_encoder_and_classifier_in_one_step(tmp_path: Path) -> None:
    """A scale that changes between two optimizers of one backward pass would falsify the second."""
    ends = []
    for interval in (1, 1000):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=interval)
        model = module("supcon", classifier_schedule="step")
        plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        fit(model, tmp_path, epochs=1, limit_train_batches=1, plugins=[plugin])
        ends.append(weights(model))
    assert changed(*ends) == set()


def test_lightnings_own_clipping_is_refused_where_it_would_not_happen(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="gradient clipping is not supported for manual"):
        fit(module("excon"), tmp_path, gradient_clip_val=1.0)


@pytest.mark.filterwarnings("ignore:training diverges")  # a rate of 1 is high
def test_the_learning_rate_warms_up_and_ends_at_zero(tmp_path: Path) -> None:
    rates: list[float] = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            rates.append(round(trainer.optimizers[0].param_groups[0]["lr"], 4))

    fit(module("supcon", lr=1.0, warmup_epochs=1), tmp_path, epochs=5, callbacks=[Rates()])
    # Two steps an epoch; the encoder trains in epochs 0, 2 and 4.
    encoder = [rates[i] for i in (0, 1, 4, 5, 8, 9)]
    assert encoder == [0.5, 1.0, 1.0, 0.8536, 0.5, 0.1464]
