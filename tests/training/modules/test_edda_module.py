"""EDDA's loss, its regions, its heads, and its control."""

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from helpers.training_toys import CLASSES, TinyEncoder, Views, changed, fit, module, weights
from torch import Tensor, nn

from captum_excon.training.modules.edda import CopiesBatch, EDDAModule


class Recorded(L.Callback):
    """Keeps the batch that training sees, and the loss that it returns."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batch, self.loss = batch, outputs["loss"]


def first_step(model: Any, folder: Path) -> tuple[CopiesBatch, Tensor, Tensor]:
    """The first training batch, its logits before the step, and the loss."""
    twin = copy.deepcopy(model)
    record = Recorded()
    fit(model, folder, 1, limit_train_batches=1, limit_val_batches=0, callbacks=[record])
    logits = twin.train().network.head(twin.network.encoder(record.batch.images))
    return record.batch, logits, record.loss


@pytest.mark.parametrize("drop_target", ["uniform", "background", "hinge", "suppress"])
def test_eddas_loss_is_the_sum_of_its_three_terms(drop_target: str, tmp_path: Path) -> None:
    model = module(
        "edda",
        TinyEncoder(dropout=0.0),
        drop_target=drop_target,
        keep_weight=0.5,
        drop_weight=2.0,
        margin=0.3,
    )
    batch, logits, loss = first_step(model, tmp_path)
    labels, explained = batch.labels, batch.explained
    x, keep, drop = logits.chunk(3)
    assert bool(batch.counts.all())
    p_drop = drop.softmax(1)[range(8), explained]
    p_x = x.softmax(1)[range(8), explained]
    terms = {
        "uniform": lambda: -drop.log_softmax(1).mean(1),
        "background": lambda: -drop.log_softmax(1)[:, CLASSES],
        "hinge": lambda: (p_drop - p_x + 0.3).clamp(min=0),
        "suppress": lambda: -torch.log(1 - p_drop),
    }
    expected = (
        F.cross_entropy(x, labels)
        + 0.5 * F.cross_entropy(keep, labels)
        + 2.0 * terms[drop_target]().mean()
    )
    torch.testing.assert_close(loss, expected.detach())


def test_eddas_regions_are_those_of_the_map_for_the_predicted_class(tmp_path: Path) -> None:
    def corner(model: nn.Module) -> Any:
        def explain(images: Tensor, targets: Tensor) -> Tensor:
            rows = torch.zeros(len(images), 1, 2, 2)
            rows[:, :, 0, 0] = 1.0 + targets[:, None]
            return rows

        return explain

    model = module("edda", explainer=corner, layer=None, keep_ratio=0.25, fill=0.0)
    images, keep, drop = first_step(model, tmp_path)[0].images.chunk(3)
    assert torch.equal(keep + drop, images)
    assert (keep[:, :, :5, :5] == images[:, :, :5, :5]).all()
    assert (keep[:, :, 7:, :] == 0).all()
    assert ((keep[:, 0] != 0).float().flatten(1).mean(1) - 0.25).abs().max() < 0.01


@pytest.mark.parametrize("target", ["predicted", "label"])
def test_edda_explains_the_class_that_it_is_told_to(target: str, tmp_path: Path) -> None:
    model = module("edda", TinyEncoder(dropout=0.0), target=target)
    twin = copy.deepcopy(model).eval()
    batch, _, _ = first_step(model, tmp_path)
    predicted = twin.network(batch.images[:8]).argmax(1)
    assert bool((predicted != batch.labels).any())
    assert torch.equal(batch.explained, predicted if target == "predicted" else batch.labels)


def test_copies_of_images_that_are_classified_wrong_do_not_count_with_only_correct(
    tmp_path: Path,
) -> None:
    model = module("edda", TinyEncoder(dropout=0.0), only_correct=True)
    twin = copy.deepcopy(model).eval()
    batch, logits, loss = first_step(model, tmp_path)
    correct = twin.network(batch.images[:8]).argmax(1) == batch.labels
    assert torch.equal(batch.counts, correct)
    assert 0 < int(correct.sum()) < 8
    x, keep, drop = logits.chunk(3)
    copies = F.cross_entropy(keep, batch.labels, reduction="none")
    copies = copies - drop.log_softmax(1).mean(1)
    expected = F.cross_entropy(x, batch.labels) + copies[correct].sum() / 8
    torch.testing.assert_close(loss, expected.detach())


def constant(model: nn.Module) -> Any:
    return lambda images, targets: torch.ones(len(images), 1, 3, 3)


def test_constant_maps_leave_plain_cross_entropy_and_are_counted(tmp_path: Path) -> None:
    model = module("edda", TinyEncoder(dropout=0.0), explainer=constant, layer=None)
    batch, logits, loss = first_step(model, tmp_path)
    assert not bool(batch.counts.any())
    torch.testing.assert_close(loss, F.cross_entropy(logits[:8], batch.labels).detach())
    done = fit(module("excon", explainer=constant, layer=None), tmp_path, epochs=1)
    assert done.callback_metrics["train/constant_maps"] == 16
    assert done.callback_metrics["train/acceptance_rate"] == 0


def test_a_background_output_is_no_class_of_the_module(tmp_path: Path) -> None:
    model = module("edda", drop_target="background")
    images = Views().images[:4]
    assert model.network.head.out_features == CLASSES + 1
    assert model(images).shape == model.explainable(images).shape == (4, CLASSES)
    assert module("ce", drop_target="background").network.head.out_features == CLASSES


def test_the_random_control_occludes_the_same_area_elsewhere(tmp_path: Path) -> None:
    areas, regions = [], []
    for method in ("edda", "random-occlusion"):
        batch, _, _ = first_step(module(method, fill=0.0), tmp_path)
        kept = batch.images[8:16, 0] != 0
        areas.append(kept.flatten(1).sum(1))
        regions.append(kept)
    assert torch.equal(*areas)
    assert not torch.equal(*regions)


@pytest.mark.parametrize("outputs", [CLASSES, CLASSES + 1])
def test_any_classifier_can_be_trained_with_edda(outputs: int, tmp_path: Path) -> None:
    classifier = nn.Sequential(TinyEncoder(), nn.Linear(6, outputs))
    drop_target = "background" if outputs > CLASSES else "uniform"
    model = EDDAModule(
        None, CLASSES, classifier=classifier, layer="0.body", drop_target=drop_target
    )
    before = weights(model)
    fit(model, tmp_path, epochs=1)
    assert "network.encoder.1.weight" in changed(before, weights(model))
    assert model(Views().images).shape == (16, CLASSES)


def test_a_classifier_with_the_wrong_number_of_outputs_is_refused(tmp_path: Path) -> None:
    classifier = nn.Sequential(TinyEncoder(), nn.Linear(6, CLASSES))
    model = EDDAModule(None, CLASSES, classifier=classifier, drop_target="background")
    with pytest.raises(ValueError, match="has 3 outputs, where 4 are needed"):
        fit(model, tmp_path, epochs=1)
