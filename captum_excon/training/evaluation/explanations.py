"""Drop and Increase of explainers, and of the random maps that they are compared with."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from captum.attr import Attribution
from torch import Tensor, nn

from captum_excon.metrics import drop_increase
from captum_excon.transforms._undisturbed import Explainer, explain

RANDOM = "random"


class ExplanationMetrics:
    """Accumulates Drop and Increase of explainers, by name, and of random maps as a control.

    They keep ``fraction`` of the pixels. The name ``"random"`` raises ValueError.
    """

    def __init__(self, explainers: Mapping[str, Explainer], fraction: float, seed: int) -> None:
        if RANDOM in explainers:
            raise ValueError(f"the explainer name {RANDOM!r} is taken by the control")
        self.explainers = {**explainers, RANDOM: _random_maps(seed)}
        self.fraction = fraction
        self._scores: dict[str, list[tuple[Tensor, Tensor]]] = {n: [] for n in self.explainers}

    def update(self, model: nn.Module, inputs: Tensor, predicted: Tensor) -> None:
        """Adds a batch of normalised images (N, C, H, W) and their predicted classes (N,)."""
        for name, explainer in self.explainers.items():
            maps = explain(_bounded(explainer, len(inputs)), inputs, predicted)
            scores = drop_increase(model, inputs, maps, fraction=self.fraction, target=predicted)
            self._scores[name].append((scores.drop.cpu(), scores.increase.cpu()))

    def compute(self) -> dict[str, dict[str, float | None]]:
        """Returns the mean ``drop`` and ``increase`` for each name, None without a usable map.

        ``undefined`` is the share of images whose map is degenerate; the means leave them out.
        """
        return {
            name: _means(*map(torch.cat, zip(*scores, strict=True)))
            for name, scores in self._scores.items()
        }


def _means(drop: Tensor, increase: Tensor) -> dict[str, float | None]:
    defined = ~drop.isnan()
    some = bool(defined.any())
    return {
        "drop": float(drop[defined].double().mean()) if some else None,
        "increase": float(increase[defined].double().mean()) if some else None,
        "undefined": float((~defined).double().mean()),
    }


def _random_maps(seed: int) -> Explainer:
    generator = torch.Generator().manual_seed(seed)

    def maps(images: Tensor, targets: Tensor) -> Tensor:
        # Image by image, so that maps do not depend on the batch size.
        noise = [torch.rand(1, *images.shape[2:], generator=generator) for _ in images]
        return torch.stack(noise).to(images.device)

    return maps


def _bounded(explainer: Explainer, rows: int) -> Explainer:
    """Keeps a method that repeats each image, as Integrated Gradients does, to small batches."""
    if not isinstance(explainer, Attribution):
        return explainer
    attribute = explainer.attribute
    if "internal_batch_size" not in inspect.signature(attribute).parameters:
        return explainer
    return lambda x, targets: attribute(x, target=targets, internal_batch_size=max(rows, 64))
