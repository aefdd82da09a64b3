"""Measures a trained classifier: accuracy, explanations, attacks, calibration under shift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from captum_excon.training.evaluation.calibration import ClassificationMetrics
from captum_excon.training.evaluation.explanations import ExplanationMetrics
from captum_excon.training.evaluation.robustness import ATTACKS, attacked
from captum_excon.training.evaluation.shift import SEVERITIES, SHIFTS, shifted
from captum_excon.training.methods._settings import EvaluationSettings
from captum_excon.transforms._undisturbed import Explainer, undisturbed


class Evaluable(Protocol):
    """What is evaluated: a module of `captum_excon.training`, or anything with these parts."""

    normalize: Callable[[Tensor], Tensor]  # pixels in [0, 1] to what `explainable` takes

    @property
    def explainable(self) -> nn.Module:
        """From normalised images to logits (N, classes)."""

    def __call__(self, images: Tensor) -> Tensor:
        """From pixels in [0, 1] to logits (N, classes)."""


def evaluate(
    module: Evaluable,
    loader: DataLoader[Any],
    explainers: Mapping[str, Explainer],
    settings: EvaluationSettings | None = None,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    r"""Measures a classifier on held-out images, in one pass over them.

    - Accuracy and calibration as `ClassificationMetrics` defines them, clean and for every shift
      and severity of `shifted`.
    - For each explainer Drop and Increase (`captum_excon.metrics.drop_increase`) of the predicted
      class, masked with 0 in normalised space, the mean colour. The control ``"random"`` keeps as
      many pixels at random: training on masked images makes a model more robust to *any* masking,
      and only a difference from the control is evidence for the explanations.
    - Accuracy under `attacked`'s FGSM and PGD.

    The figures select nothing and do not depend on the batch size (except for PGD's starts on a
    GPU). The module, its modes and the random state are left as they were.

    Args:
        module: The classifier, on the device to compute on.
        loader: Batches of the type `captum_excon.training.data.views.ViewBatch`, always in the
            same order; ``indices`` number the images of ``loader.dataset``.
        explainers: Attributions on ``module.explainable``, or functions of normalised images and
            classes, by name.
        settings: How to measure.
        progress: Show a bar over images, unless standard error is not a terminal.

    Returns:
        Plain numbers that JSON can hold: ``images`` and ``subset``, their counts; ``clean``, with
        ``top1``, ``top5``, ``ece10``, ``ece15``; ``reliability`` of 15 bins; ``explanations``, for
        each name ``drop``, ``increase`` and the share of ``undefined`` images, whose map is
        degenerate (a mean of none is None); ``attacks``, the ``clean`` accuracy on the subset and
        for each attack that at each ``epsilons``; ``shifts``, for each kind the figures at
        severities 1 to 5; ``settings``.

    Raises:
        ValueError: There are no images, or the module's outputs are not finite.
    """
    settings = settings or EvaluationSettings()
    run = _Run(module, explainers, settings)
    chosen = subset(len(cast(Sized, loader.dataset)), settings.limit, settings.seed)
    device = _device(module)
    count = 0
    with undisturbed(cast(nn.Module, module)), _bar(loader, progress) as bar:
        for batch in loader:
            images, labels = batch.standard.to(device), batch.labels.to(device)
            run.step(images, labels, chosen[batch.indices].to(device))
            count += len(images)
            bar.update(len(images))
    return {
        "images": count,
        "subset": int(chosen.sum()),
        **run.results(),
        "settings": settings.model_dump(),
    }


def evaluate_corrupted(
    module: Evaluable, loader: DataLoader[Any], *, progress: bool = False
) -> dict[str, float]:
    """Returns `evaluate`'s accuracy and calibration alone, of images that are corrupted already."""
    metrics, device = ClassificationMetrics(), _device(module)
    with undisturbed(cast(nn.Module, module)), torch.no_grad(), _bar(loader, progress) as bar:
        for batch in loader:
            metrics.update(module(batch.standard.to(device)), batch.labels.to(device))
            bar.update(len(batch.labels))
    return metrics.compute()


def subset(count: int, limit: int | None, seed: int = 0) -> Tensor:
    """Chooses the images that explanations and attacks are measured on, at most ``limit``.

    (count,) bool, from the arguments alone, so that all models are measured on the same images.
    """
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit]] = True
    return chosen


class _Run:
    """The sums of one pass over the images."""

    def __init__(
        self, module: Evaluable, explainers: Mapping[str, Explainer], settings: EvaluationSettings
    ) -> None:
        self.module, self.settings = module, settings
        self.explanations = ExplanationMetrics(explainers, settings.fraction, settings.seed)
        self.clean = ClassificationMetrics()
        self.shifts = {(shift, s): ClassificationMetrics() for shift in SHIFTS for s in SEVERITIES}
        self.hits: dict[tuple[str, int], list[Tensor]] = {("clean", 0): []}
        self.hits |= {(attack, e): [] for attack in ATTACKS for e in settings.epsilons}
        device = _device(module)
        # One for each, all with one seed: the same noise at every severity, and no figure changes
        # when another is left out.
        self.generators = {
            key: torch.Generator(device).manual_seed(settings.seed)
            for key in (*self.shifts, *self.hits)
        }

    def step(self, images: Tensor, labels: Tensor, chosen: Tensor) -> None:
        with torch.no_grad():
            logits = self.module(images)
            self.clean.update(logits, labels)
            for (shift, s), metrics in self.shifts.items():
                moved = shifted(images, shift, s, generator=self.generators[shift, s])
                metrics.update(self.module(moved), labels)
        if chosen.any():
            predicted = logits.argmax(1)[chosen]
            self._attack(images[chosen], labels[chosen], predicted)
            inputs = self.module.normalize(images[chosen])
            self.explanations.update(self.module.explainable, inputs, predicted)

    def _attack(self, images: Tensor, labels: Tensor, predicted: Tensor) -> None:
        for (attack, epsilon), hits in self.hits.items():
            if attack != "clean":
                perturbed = attacked(
                    self.module,
                    images,
                    labels,
                    attack,  # type: ignore[arg-type]
                    epsilon / 255,
                    steps=self.settings.pgd_steps,
                    generator=self.generators[attack, epsilon],
                )
                with torch.no_grad():
                    predicted = self.module(perturbed).argmax(1)
            hits.append((predicted == labels).cpu())

    def results(self) -> dict[str, Any]:
        clean = self.clean.compute()  # before the rest, since it says so if there are no images
        accuracy = {key: float(torch.cat(hits).double().mean()) for key, hits in self.hits.items()}
        epsilons = self.settings.epsilons
        return {
            "clean": clean,
            "reliability": self.clean.reliability(),
            "explanations": self.explanations.compute(),
            "attacks": {
                "epsilons": list(epsilons),
                "clean": accuracy["clean", 0],
                **{attack: [accuracy[attack, e] for e in epsilons] for attack in ATTACKS},
            },
            "shifts": {
                shift: [self.shifts[shift, s].compute() for s in SEVERITIES] for shift in SHIFTS
            },
        }


def _device(module: Evaluable) -> torch.device:
    return next(cast(nn.Module, module).parameters()).device


def _bar(loader: DataLoader[Any], progress: bool) -> Any:
    # None hides the bar where standard error is not a terminal.
    return tqdm(
        total=len(cast(Sized, loader.dataset)), unit="image", disable=None if progress else True
    )
