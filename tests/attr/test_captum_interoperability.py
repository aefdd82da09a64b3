"""Captum's tools on our classes: NoiseTunnel, the metrics, and the pictures."""

import inspect
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max
from helpers.toys import METHODS, ConvNet, hook_count, images
from torch import Tensor

from captum_excon.attr import IntegratedGradCAM

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
def test_attribute_can_be_unwrapped_as_captums_tools_expect(method: Any) -> None:
    unwrapped = method.cls.attribute.__wrapped__
    assert "inputs" in inspect.signature(unwrapped).parameters


@every_method
@pytest.mark.parametrize("samples_at_once", [None, 2])
def test_noise_tunnel_without_noise_changes_nothing(
    method: Any, samples_at_once: int | None
) -> None:
    model, inputs = ConvNet(seed=1).double(), images(2, 1, 12, 10, dtype=torch.float64)
    for target in (1, [2, 0], torch.tensor([2, 0])):
        attribution = NoiseTunnel(method.build(model)).attribute(
            inputs,
            nt_type="smoothgrad",
            nt_samples=3,
            nt_samples_batch_size=samples_at_once,
            stdevs=0.0,
            target=target,
            **method.options,
        )
        expected = method(model, inputs, target=target)
        torch.testing.assert_close(attribution, expected, rtol=1e-7, atol=1e-10)


@every_method
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_with_noise_is_finite_and_keeps_the_shape(method: Any, kind: str) -> None:
    model, inputs = ConvNet(seed=1), images(2, 1, 12, 10)
    attribution = NoiseTunnel(method.build(model)).attribute(
        inputs, nt_type=kind, nt_samples=4, stdevs=0.2, target=1, **method.options
    )
    assert attribution.shape == method(model, inputs, target=1).shape
    assert attribution.isfinite().all()
    assert hook_count(model) == 0


@every_method
def test_noise_tunnel_draws_baselines_and_arguments_with_the_samples(method: Any) -> None:
    model, inputs = ConvNet(seed=1).double(), images(2, 1, 12, 10, dtype=torch.float64)
    baselines = images(2, 1, 12, 10, seed=9, dtype=torch.float64)
    attribution = NoiseTunnel(method.build(model)).attribute(
        inputs, nt_samples=2, stdevs=0.0, target=1, baselines=baselines, **method.options
    )
    expected = method(model, inputs, target=1, baselines=baselines)
    torch.testing.assert_close(attribution, expected, rtol=1e-7, atol=1e-10)


@every_method
def test_infidelity_takes_the_attributions(method: Any) -> None:
    model, inputs = ConvNet(seed=1), images(3, 1, 12, 10)
    attribution = method(model, inputs, target=1)
    if method.cls is IntegratedGradCAM:
        attribution = LayerAttribution.interpolate(attribution, (12, 10), "bilinear")

    def perturb(x: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.randn_like(x)
        return noise, x - noise

    score = infidelity(model, perturb, inputs, attribution, target=1, n_perturb_samples=5)
    assert score.shape == (3,)
    assert score.isfinite().all()


@every_method
def test_sensitivity_max_calls_attribute(method: Any) -> None:
    model, inputs = ConvNet(seed=1).double(), images(2, 1, 12, 10, dtype=torch.float64)
    explainer = method.build(model)
    score = sensitivity_max(
        explainer.attribute, inputs, target=[0, 1], n_perturb_samples=2, **method.options
    )
    assert score.shape == (2,)
    assert score.isfinite().all()
    still = sensitivity_max(
        explainer.attribute,
        inputs,
        perturb_func=lambda x: x.clone(),
        target=[0, 1],
        n_perturb_samples=2,
        **method.options,
    )
    torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=1e-7)


@every_method
def test_visualize_image_attr_draws_the_attributions(method: Any) -> None:
    model, inputs = ConvNet(in_channels=3, seed=1), images(1, 3, 12, 10)
    attribution = method(model, inputs, target=1)
    assert attribution.any()
    if method.cls is IntegratedGradCAM:
        attribution = LayerAttribution.interpolate(attribution, (12, 10), "bilinear")
    figure, _ = viz.visualize_image_attr(
        attribution[0].permute(1, 2, 0).numpy(),
        torch.rand(12, 10, 3).numpy(),
        method="blended_heat_map",
        sign="positive",
        use_pyplot=False,
    )
    assert figure.axes[0].images
    plt.close(figure)
