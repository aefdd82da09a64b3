"""Self-tests of Quantus on tiny RGB images whose right results are known."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn

from captum_excon.metrics.quantus.explain_func import as_explain_func

Check = Callable[[], bool]
Array = np.ndarray[Any, np.dtype[Any]]

_CLASSES = np.array([0, 0, 1, 1])


class _Linear(nn.Module):
    """Two classes, linear in the image, or curved (s · sigmoid(s) of the linear score s)."""

    def __init__(self, weight: Tensor, bias: Tensor, *, curved: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(weight.shape[1], 2)
        self.linear.weight.data, self.linear.bias.data = weight, bias
        self.curved = curved

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(x.flatten(1))
        return scores.sigmoid() * scores if self.curved else scores


def _check(body: Callable[[Any], bool]) -> Check:
    """A self-test that is quiet, leaves random states alone, and fails where Quantus raises."""

    @functools.wraps(body)
    def run() -> bool:
        try:
            quantus = importlib.import_module("quantus")
        except ImportError as error:
            raise ImportError(
                "the self-tests of Quantus need it: pip install 'captum-excon[bench]'"
            ) from error
        state = np.random.get_state()  # noqa: NPY002 - the generator that Quantus draws from
        try:
            with (
                torch.random.fork_rng(devices=[]),
                warnings.catch_warnings(),
                np.errstate(all="ignore"),
                contextlib.redirect_stdout(io.StringIO()),
            ):
                warnings.simplefilter("ignore")
                np.random.seed(0)  # noqa: NPY002
                return bool(body(quantus))
        except Exception:
            # Whatever a broken metric raises is its answer.
            return False
        finally:
            np.random.set_state(state)  # noqa: NPY002

    return run


def _numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def _images() -> Array:
    return _numbers(4, 3, 8, 8)


def _maps() -> Array:
    return _numbers(4, 1, 8, 8, seed=1)


def _masks() -> Array:
    masks = np.zeros((4, 1, 8, 8), bool)
    masks[:, :, 2:6, :5] = True
    return masks


def _model(*, curved: bool = False) -> nn.Module:
    weight = torch.from_numpy(_numbers(2, 192, seed=2) - 0.5)
    return _Linear(weight, torch.zeros(2), curved=curved).eval()


def _certain_model() -> nn.Module:
    """Always says class 0, whatever the image."""
    return _Linear(torch.zeros(2, 192), torch.tensor([5.0, 0.0])).eval()


def _scores(metric: Any, model: nn.Module, batch_size: int = 4, **given: Any) -> Any:
    arguments = {"x_batch": _images(), "y_batch": _CLASSES, "a_batch": _maps(), **given}
    return metric(model=model, batch_size=batch_size, **arguments)


@_check
def road_works(quantus: Any) -> bool:
    """Half of the labels are wrong, and no removal changes that: 0.5 at every percentage."""
    metric = quantus.ROAD(percentages=[20, 50], disable_warnings=True)
    return set(_scores(metric, _certain_model(), batch_size=2).values()) == {0.5}


@_check
def irof_works(quantus: Any) -> bool:
    """Removing segments from images whose class is certain costs nothing: finite and equal."""
    metric = quantus.IROF(disable_warnings=True)
    values = np.asarray(_scores(metric, _certain_model(), y_batch=np.zeros(4, int)))
    return values.shape == (4,) and bool(np.isfinite(values).all())


@_check
def auc_works(quantus: Any) -> bool:
    """The area under a line from 0 to 1."""
    return bool(quantus.calculate_auc(np.array([0.0, 1.0])) == 0.5)


@_check
def monotonicity_works(quantus: Any) -> bool:
    """Revealing pixels of a linear model with weights of both signs is not monotonic."""
    metric = quantus.Monotonicity(features_in_step=16, disable_warnings=True)
    return not any(_scores(metric, _model()))


@_check
def pointing_game_works(quantus: Any) -> bool:
    """Neither a constant map nor an empty mask is a hit; a map with one peak inside is one."""
    maps, masks = _maps(), _masks()
    maps[0], masks[1], maps[2, 0, 3, 3] = 0.5, False, 2.0
    metric = quantus.PointingGame(disable_warnings=True)
    constant, empty, inside, _ = _scores(metric, _model(), a_batch=maps, s_batch=masks)
    return bool(constant != 1 and empty != 1 and inside == 1)


@_check
def attribution_localisation_works(quantus: Any) -> bool:
    """The weighted metric is finite and the same from any batch size."""
    metric = quantus.AttributionLocalisation(weighted=True, disable_warnings=True)
    values = [
        np.asarray(_scores(metric, _model(), batch_size=size, s_batch=_masks())) for size in (1, 4)
    ]
    return bool(np.isfinite(values[0]).all()) and np.allclose(values[0], values[1])


@_check
def sensitivity_n_works(quantus: Any) -> bool:
    """The same from any batch size."""
    metric = quantus.SensitivityN(features_in_step=8, return_aggregate=False, disable_warnings=True)
    values = [np.asarray(_scores(metric, _model(), batch_size=size)) for size in (2, 4)]
    return values[0].shape == values[1].shape and np.allclose(values[0], values[1])


@_check
def infidelity_works(quantus: Any) -> bool:
    """More samples of a random perturbation give another estimate."""
    values = []
    for samples in (1, 3):
        metric = quantus.Infidelity(
            n_perturb_samples=samples, perturb_patch_sizes=[2], disable_warnings=True
        )
        np.random.seed(0)  # noqa: NPY002
        values.append(np.asarray(_scores(metric, _model())))
    return not np.allclose(values[0], values[1])


@_check
def non_sensitivity_works(quantus: Any) -> bool:
    """A linear model depends on every feature, and maps that say so have no violations."""
    metric = quantus.NonSensitivity(disable_warnings=True)
    maps = np.ones((4, 3, 8, 8), np.float32)
    return not any(_scores(metric, _model(), a_batch=maps, softmax=False))


@_check
def continuity_works(quantus: Any) -> bool:
    """Shifting in white changes the images, and so the value, otherwise than shifting in black."""
    values = []
    for baseline in ("black", "white"):
        metric = quantus.Continuity(perturb_baseline=baseline, disable_warnings=True)
        explain = as_explain_func(Saliency)
        values.append(np.asarray(_scores(metric, _model(curved=True), explain_func=explain)))
    return not np.allclose(values[0], values[1])


@_check
def evaluate_works(quantus: Any) -> bool:
    """Two methods give two maps, and a failing metric costs only its own results."""
    methods = {"IntegratedGradients": {"xai_lib": "captum"}, "Saliency": {"xai_lib": "captum"}}
    metrics = {"map": lambda **given: given["a_batch"], "failing": lambda **given: 1 / 0}
    results = quantus.evaluate(metrics, methods, _model(), _images(), _CLASSES)
    first, second = (results[method]["map"] for method in methods)
    return not np.allclose(first, second)


@_check
def explain_works(quantus: Any) -> bool:
    """IntegratedGradients with 50 steps equals Captum's."""
    model, images = _model(curved=True), torch.from_numpy(_images())
    classes = torch.from_numpy(_CLASSES)
    found = quantus.explain(
        model, images, classes, method="IntegratedGradients", n_steps=50, xai_lib="captum"
    )
    expected = IntegratedGradients(model).attribute(
        images, target=classes, n_steps=50, method="riemann_trapezoid"
    )
    return np.allclose(found, expected.sum(1, keepdim=True).detach(), atol=1e-6)
