"""Accuracy and calibration of a classifier's outputs, updated batch by batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

BINS = (10, 15)


class ClassificationMetrics:
    r"""Accumulates a classifier's outputs and computes accuracies and calibration errors.

    Top-k accuracy is the share of images whose class is among the k largest logits; with fewer
    than k classes it is 1. The expected calibration error over equal-width bins of the confidence
    (the softmax of the predicted class) is
    :math:`\sum_b \frac{n_b}{n} |\mathrm{accuracy}_b - \mathrm{confidence}_b|`, with 10 bins as in
    ExCon's official code and with 15.

    Example:
        >>> metrics = ClassificationMetrics()
        >>> metrics.update(torch.tensor([[0.0, 3.0], [0.0, 1.0]]), torch.tensor([1, 0]))
        >>> {name: round(value, 3) for name, value in metrics.compute().items()}
        {'top1': 0.5, 'top5': 1.0, 'ece10': 0.389, 'ece15': 0.389}
    """

    def __init__(self) -> None:
        self._confidence: list[Tensor] = []
        self._top1: list[Tensor] = []
        self._top5: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch of logits (N, classes) and labels (N,); ValueError if any is not finite."""
        logits = logits.detach().float()
        if not logits.isfinite().all():
            raise ValueError(
                "the model's outputs are NaN or infinite, so there is nothing to measure: evaluate "
                "an earlier checkpoint"
            )
        hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        self._top1.append(hits[:, 0].cpu())
        self._top5.append(hits.any(1).cpu())
        self._confidence.append(logits.softmax(1).amax(1).cpu())

    def compute(self) -> dict[str, float]:
        """Returns ``top1``, ``top5``, ``ece10`` and ``ece15`` in [0, 1]; ValueError if empty."""
        confidence, top1 = self._gathered()
        # A confidence of 1 counts in the last bin; torchmetrics would give it a bin of its own.
        below_1 = confidence.clamp(max=1 - torch.finfo(confidence.dtype).eps)
        found = {"top1": top1.double().mean(), "top5": torch.cat(self._top5).double().mean()}
        for bins in BINS:
            found[f"ece{bins}"] = binary_calibration_error(below_1, top1.int(), n_bins=bins)
        return {name: float(value) for name, value in found.items()}

    def reliability(self, bins: int = BINS[-1]) -> dict[str, list[Any]]:
        """Returns each bin's ``count``, mean ``confidence`` and ``accuracy``; None if empty."""
        confidence, top1 = self._gathered()
        bin_of = (confidence * bins).long().clamp(max=bins - 1)
        counts = bin_of.bincount(minlength=bins)

        def means(values: Tensor) -> list[float | None]:
            sums = bin_of.bincount(values.double(), minlength=bins)
            pairs = zip(sums.tolist(), counts.tolist(), strict=True)
            return [total / count if count else None for total, count in pairs]

        means_of = {"confidence": means(confidence), "accuracy": means(top1)}
        return {"count": counts.tolist(), **means_of}

    def _gathered(self) -> tuple[Tensor, Tensor]:
        if not sum(map(len, self._top1)):
            raise ValueError("there are no images to evaluate")
        return torch.cat(self._confidence), torch.cat(self._top1)
