"""Captum's tools on our classes, and our version of its cross-cutting suites.

Captum's own suites run every algorithm of a configuration list on its test models: `test_targets`
(a batch equals its examples) and `test_hook_removal` (no hook survives a call, whether it succeeds,
gets a wrong target, or meets a failing module). The lists here name our classes.
"""

import inspect
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from captum.attr import visualization as viz
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn
from toys import METHODS, ConvNet, hook_count, images, seeded, state

from captum_excon.attr import RISE, AdaptiveHybridCAM, IntegratedGradCAM, MultiLayerSISE, ScoreCAM

models = pytest.importorskip(
    "captum.testing.helpers.basic_models", reason="captum.testing comes with Captum 0.9"
)

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


# Captum's tools


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


# Captum's suites


def conv_net() -> nn.Module:
    """Captum's model with other weights: its own give all classes the same gradient."""
    return seeded(models.BasicModel_ConvNet(), gain=3.0)


CHEAP_RISE = {"n_masks": 6, "grid": 3}
CONFIG: list[dict[str, Any]] = [
    {
        "name": "conv_net_with_single_target",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": conv_net,
        "layer": "relu1",
        "attribute_args": {"inputs": images(4, 1, 10, 10), "target": 1},
    },
    {
        "name": "conv_net_with_list_of_targets",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": conv_net,
        "layer": "pool1",
        "attribute_args": {"inputs": images(4, 1, 10, 10), "target": [0, 3, 7, 9]},
    },
    {
        "name": "conv_net_with_tensor_of_targets_and_baselines",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": conv_net,
        "layer": "conv1",
        "attribute_args": {
            "inputs": images(4, 1, 10, 10),
            "baselines": images(4, 1, 10, 10, seed=8),
            "target": torch.tensor([0, 3, 7, 9]),
        },
    },
    {
        "name": "conv_net_with_tuple_targets_and_small_batches",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM],
        "model": conv_net,
        "layer": "relu1",
        "attribute_args": {
            "inputs": images(4, 1, 10, 10),
            "target": [(0,), (3,), (7,), (9,)],
            "perturbations_per_eval": 3,
        },
    },
    {
        "name": "one_conv_with_two_inputs",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": models.BasicModel_ConvNet_One_Conv,
        "layer": "relu1",
        "attribute_args": {
            "inputs": (100 * torch.rand(3, 1, 4, 4), 40 * torch.rand(3, 1, 4, 4)),
            "target": [0, 1, 3],
        },
    },
    {
        "name": "one_conv_with_additional_argument",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": lambda: models.BasicModel_ConvNet_One_Conv(inplace=True),
        "layer": "conv1",
        "attribute_args": {
            "inputs": 100 * torch.rand(3, 1, 4, 4),
            "additional_forward_args": 40 * torch.rand(3, 1, 4, 4),
            "target": torch.tensor([0, 1, 3]),
        },
    },
    {
        "name": "max_pool_1d",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": lambda: seeded(models.BasicModel_ConvNet_MaxPool1d(), gain=3.0),
        "layer": "relu1",
        "attribute_args": {"inputs": images(4, 1, 10), "target": [0, 3, 7, 9]},
    },
    {
        "name": "max_pool_3d",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": lambda: seeded(models.BasicModel_ConvNet_MaxPool3d(), gain=3.0),
        "layer": "relu1",
        "attribute_args": {"inputs": images(4, 1, 10, 10, 10), "target": [0, 3, 7, 9]},
    },
    {
        "name": "padding_and_dilation",
        "algorithms": [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM],
        "model": lambda: seeded(models.BasicModel_ConvNetWithPaddingDilation(), gain=3.0),
        "layer": "relu1",
        "attribute_args": {"inputs": images(4, 1, 5, 5), "target": [0, 1, 5, 7]},
    },
]

CASES = [
    pytest.param(algorithm, config, id=f"{config['name']}-{algorithm.__name__}")
    for config in CONFIG
    for algorithm in config["algorithms"]
]


def run(algorithm: type, config: dict[str, Any], model: nn.Module, **changes: Any) -> Any:
    method = METHODS[algorithm.__name__]
    arguments = {**config["attribute_args"], **changes}
    return method(model, arguments.pop("inputs"), layers=[config["layer"]], **arguments)


def take(value: Any, i: int, rows: int) -> Any:
    """The i-th example of an argument, if it has one value for each."""
    if isinstance(value, tuple):
        return tuple(take(v, i, rows) for v in value)
    if isinstance(value, Tensor | list) and len(value) == rows:
        return value[i : i + 1]
    return value


def as_tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize(("algorithm", "config"), CASES)
def test_targets_a_batch_equals_its_examples(algorithm: type, config: dict[str, Any]) -> None:
    model, arguments = config["model"](), config["attribute_args"]
    attributions = as_tuple(run(algorithm, config, model))
    rows = len(as_tuple(arguments["inputs"])[0])
    for i in range(rows):
        example = {name: take(value, i, rows) for name, value in arguments.items()}
        singles = as_tuple(run(algorithm, config, model, **example))
        for attribution, single in zip(attributions, singles, strict=True):
            assert attribution.isfinite().all()
            torch.testing.assert_close(attribution[i : i + 1], single, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("algorithm", "config"), CASES)
@pytest.mark.parametrize("mode", ["normal", "wrong target", "failing module"])
def test_hook_removal(algorithm: type, config: dict[str, Any], mode: str) -> None:
    model = config["model"]()
    before = state(model)
    if mode == "normal":
        run(algorithm, config, model)
    elif mode == "wrong target":
        with pytest.raises((AssertionError, IndexError, RuntimeError)):
            run(algorithm, config, model, target=(9999,) * 20)
    else:

        def fail(*_: Any) -> None:
            raise NotImplementedError("a failing module")

        handle = model.fc1.register_forward_pre_hook(fail)
        with pytest.raises(NotImplementedError, match="a failing module"):
            run(algorithm, config, model)
        handle.remove()
    assert state(model) == before
