import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

from captum_excon.training.evaluation.calibration import ClassificationMetrics


def logits_of(*confidences: float) -> Tensor:
    """Two-class logits that predict class 0 with the given softmax."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([(p / (1 - p)).log(), torch.zeros_like(p)], dim=1)


def test_calibration_error_of_four_images_by_hand() -> None:
    metrics = ClassificationMetrics()
    # Ten bins: (0.62, 0.68) right and wrong, (0.93) right, (0.97) wrong.
    metrics.update(logits_of(0.62, 0.68, 0.93, 0.97), torch.tensor([0, 1, 0, 1]))
    # |0.5 - 0.65| / 2 + |0.5 - 0.95| / 2
    assert metrics.compute()["ece10"] == pytest.approx(0.3, abs=1e-6)
    # Fifteen bins part them all: (0.38 + 0.68 + 0.07 + 0.97) / 4
    assert metrics.compute()["ece15"] == pytest.approx(0.525, abs=1e-6)


def test_a_confidence_that_rounds_to_1_counts_in_the_last_bin() -> None:
    metrics = ClassificationMetrics()
    metrics.update(torch.tensor([[99.0, 0.0]]), torch.tensor([0]))
    metrics.update(logits_of(0.98), torch.tensor([1]))
    # One bin: |0.5 - 0.99|. Two bins would give (0 + 0.98) / 2 = 0.49, so a third image tells.
    metrics.update(logits_of(0.96), torch.tensor([0]))
    assert metrics.compute()["ece10"] == pytest.approx(abs(2 / 3 - 0.98), abs=1e-6)


def test_batches_add_up_to_what_torchmetrics_gives_for_all() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 12, generator=generator)
    labels = torch.randint(12, (200,), generator=generator)
    metrics = ClassificationMetrics()
    for part, classes in zip(logits.split(64), labels.split(64), strict=True):
        metrics.update(part, classes)
    figures = metrics.compute()
    for k in (1, 5):
        expected = multiclass_accuracy(logits, labels, 12, average="micro", top_k=k)
        assert figures[f"top{k}"] == pytest.approx(float(expected))
    for bins in (10, 15):
        expected = multiclass_calibration_error(logits.softmax(1), labels, 12, n_bins=bins)
        assert figures[f"ece{bins}"] == pytest.approx(float(expected), abs=1e-6)


def test_the_reliability_bins_give_the_calibration_error_again() -> None:
    metrics = ClassificationMetrics()
    generator = torch.Generator().manual_seed(1)
    metrics.update(
        2 * torch.randn(300, 4, generator=generator),
        torch.randint(4, (300,), generator=generator),
    )
    bins = metrics.reliability(15)
    assert len(bins["count"]) == 15
    assert sum(bins["count"]) == 300
    assert bins["confidence"][0] is None  # four classes: never less than a quarter
    gaps = [
        n / 300 * abs(a - c)
        for n, a, c in zip(bins["count"], bins["accuracy"], bins["confidence"], strict=True)
        if n
    ]
    assert sum(gaps) == pytest.approx(metrics.compute()["ece15"], abs=1e-6)


def test_constant_outputs_are_not_counted_as_hits_of_every_class() -> None:
    metrics = ClassificationMetrics()
    metrics.update(torch.zeros(4, 4), torch.arange(4))
    assert metrics.compute()["top1"] == 0.25


def test_outputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        ClassificationMetrics().update(torch.tensor([[0.0, torch.nan]]), torch.tensor([0]))


def test_no_images_are_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match="no images"):
        ClassificationMetrics().compute()
