"""Our version of Captum's cross-cutting suites.

Captum's own suites run every algorithm of a configuration list on its test models: `test_targets`
(a batch equals its examples) and `test_hook_removal` (no hook survives a call, whether it succeeds,
gets a wrong target, or meets a failing module). The list here names our classes.
"""

from typing import Any

import pytest
import torch
from helpers.toys import METHODS, images, seeded, state
from torch import Tensor, nn

from captum_excon.attr import RISE, AdaptiveHybridCAM, IntegratedGradCAM, MultiLayerSISE, ScoreCAM

models = pytest.importorskip(
    "captum.testing.helpers.basic_models", reason="captum.testing comes with Captum 0.9"
)

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")


def conv_net() -> nn.Module:
    """Captum's model with other weights: its own give all classes the same gradient."""
    return seeded(models.BasicModel_ConvNet(), gain=3.0)


EVERY = [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM, IntegratedGradCAM]
CONFIG: list[dict[str, Any]] = [
    {
        "name": "conv_net_with_single_target",
        "algorithms": EVERY,
        "model": conv_net,
        "layer": "relu1",
        "attribute_args": {"inputs": images(4, 1, 10, 10), "target": 1},
    },
    {
        "name": "conv_net_with_list_of_targets",
        "algorithms": EVERY,
        "model": conv_net,
        "layer": "pool1",
        "attribute_args": {"inputs": images(4, 1, 10, 10), "target": [0, 3, 7, 9]},
    },
    {
        "name": "conv_net_with_tensor_of_targets_and_baselines",
        "algorithms": EVERY,
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
        "algorithms": EVERY,
        "model": models.BasicModel_ConvNet_One_Conv,
        "layer": "relu1",
        "attribute_args": {
            "inputs": (100 * images(3, 1, 4, 4).abs(), 40 * images(3, 1, 4, 4, seed=5).abs()),
            "target": [0, 1, 3],
        },
    },
    {
        "name": "one_conv_with_additional_argument",
        "algorithms": EVERY,
        "model": lambda: models.BasicModel_ConvNet_One_Conv(inplace=True),
        "layer": "conv1",
        "attribute_args": {
            "inputs": 100 * images(3, 1, 4, 4).abs(),
            "additional_forward_args": 40 * images(3, 1, 4, 4, seed=5).abs(),
            "target": torch.tensor([0, 1, 3]),
        },
    },
    {
        "name": "max_pool_1d",
        "algorithms": EVERY,
        "model": lambda: seeded(models.BasicModel_ConvNet_MaxPool1d(), gain=3.0),
        "layer": "relu1",
        "attribute_args": {"inputs": images(4, 1, 10), "target": [0, 3, 7, 9]},
    },
    {
        "name": "max_pool_3d",
        "algorithms": EVERY,
        "model": lambda: seeded(models.BasicModel_ConvNet_MaxPool3d(), gain=3.0),
        "layer": "relu1",
        "attribute_args": {"inputs": images(4, 1, 10, 10, 10), "target": [0, 3, 7, 9]},
    },
    {
        "name": "padding_and_dilation",
        "algorithms": EVERY,
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
