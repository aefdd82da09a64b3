"""Malformed and borderline calls: a defined finite result, or an error that names the remedy.

Every case runs on every method that it makes sense for, and must leave the model as it was. Errors
that torch, Captum, or the user's own code raise are passed on as they are.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toys import (
    LAYERED,
    MASKING,
    METHODS,
    ConvNet,
    Dense,
    Normalised,
    TokenNet,
    TwoInputs,
    WithArguments,
    images,
    state,
    tokens_to_map,
)
from torch import Tensor, nn

EVERY = list(METHODS)
SISES = ["MultiLayerSISE", "AdaptiveHybridCAM"]
GRADIENTS = ["IntegratedGradCAM", *SISES]
NAN, INF = float("nan"), float("inf")
MISUSE = (TypeError, ValueError)


class TupleOutput(ConvNet):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class DictOutput(ConvNet):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x)}


class Detached(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Times(ConvNet):
    factor = NAN

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


class TimesInfinity(Times):
    factor = INF


class Faint(Times):
    factor = 1e-30


class OneNumber(ConvNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).sum()


class SidePath(ConvNet):
    """`unused` is never called; `side` is called, and its result thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(1, 2, 3)
        self.side = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        self.side(x)
        return super().forward(x)


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x, x


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.split, self.head = nn.Conv2d(1, 2, 3), TwoOutputs(), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.split(self.conv(x))[0].mean((2, 3)))


class TwoViews(Branches):
    """Runs its convolution on twice the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(torch.cat([x, -x]))[: len(x)].mean((2, 3)))


def flat_model() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(120, 3)).eval()


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace is deprecated, and still in use
        return torch.jit.trace(ConvNet(), images(2, 1, 12, 10))


def with_values(value: float) -> Tensor:
    inputs = images(2, 1, 12, 10)
    inputs[1, 0, 3, 3] = value
    return inputs


def call(method: Any, options: dict[str, Any]) -> Any:
    """Runs a case: `model`, `inputs`, `layers`, `reshape`, `batch_size`, and attribute's own."""
    options = {"model": ConvNet, "inputs": None, "target": 1, **method.options, **options}
    model = options.pop("model")()
    inputs = options.pop("inputs")
    inputs = images(2, 1, 12, 10) if inputs is None else inputs
    inputs = inputs() if callable(inputs) else inputs
    layers, reshape = options.pop("layers", None), options.pop("reshape", None)
    layers = layers() if callable(layers) else layers
    if "batch_size" in options:
        options[method.batch_size_option] = options.pop("batch_size")
    build = {} if reshape is None else {"reshape_transform": reshape}
    explainer = method.cls(model) if layers == "auto" else method.build(model, layers, **build)
    before = state(model) if isinstance(model, nn.Module) else None
    try:
        return explainer.attribute(inputs, **options)
    finally:
        if before is not None:
            assert state(model) == before


# name: (methods, options, exceptions, what the message says)
ERRORS: dict[str, tuple[list[str], dict[str, Any], Any, str]] = {
    # inputs
    "a NaN in the image": (EVERY, {"inputs": with_values(NAN)}, ValueError, "nan_to_num"),
    "an infinity in the image": (EVERY, {"inputs": with_values(INF)}, ValueError, "nan_to_num"),
    "a negative infinity": (EVERY, {"inputs": with_values(-INF)}, ValueError, "nan_to_num"),
    "nothing but NaN": (EVERY, {"inputs": torch.full((2, 1, 12, 10), NAN)}, ValueError, "NaN"),
    "a matrix": (MASKING, {"inputs": torch.rand(2, 12)}, ValueError, "unsqueeze"),
    "a number": (EVERY, {"inputs": torch.tensor(1.0)}, ValueError, "shape"),
    "four spatial dimensions": (
        MASKING,
        {"inputs": torch.rand(1, 1, 2, 2, 12, 10)},
        ValueError,
        "shape",
    ),
    "one spatial dimension too many": (
        EVERY,
        {"inputs": torch.rand(1, 1, 1, 12, 10)},
        (RuntimeError, ValueError),
        r"conv2d|shape",
    ),
    "other channels than the model's": (
        EVERY,
        {"inputs": torch.rand(2, 3, 12, 10)},
        RuntimeError,
        "channels",
    ),
    "an image without rows": (EVERY, {"inputs": torch.rand(2, 1, 0, 10)}, ValueError, "shape"),
    "a numpy array": (
        EVERY,
        {"inputs": np.zeros((2, 1, 12, 10))},
        (AssertionError, TypeError),
        "Tensor",
    ),
    "a list": (EVERY, {"inputs": [images(2, 1, 12, 10)]}, (AssertionError, TypeError), "tuple"),
    "an empty tuple": (EVERY, {"inputs": ()}, ValueError, "at least one"),
    "integers": (
        EVERY,
        {"inputs": torch.ones(2, 1, 12, 10, dtype=torch.long)},
        TypeError,
        "ToDtype",
    ),
    "bytes": (EVERY, {"inputs": torch.ones(2, 1, 12, 10, dtype=torch.uint8)}, TypeError, "ToDtype"),
    "booleans": (
        EVERY,
        {"inputs": torch.ones(2, 1, 12, 10, dtype=torch.bool)},
        TypeError,
        "floating",
    ),
    "complex numbers": (EVERY, {"inputs": torch.ones(2, 1, 12, 10) + 0j}, TypeError, "floating"),
    "another dtype than the model's": (
        EVERY,
        {"inputs": images(2, 1, 12, 10).double()},
        RuntimeError,
        "type",
    ),
    "inputs with different numbers of rows": (
        EVERY,
        {"model": TwoInputs, "inputs": (torch.rand(2, 1, 12, 10), torch.rand(1, 1, 12, 10))},
        ValueError,
        "same number of rows",
    ),
    "an image that is too small for the model": (
        EVERY,
        {"inputs": torch.rand(2, 1, 1, 1)},
        RuntimeError,
        "too small",
    ),
    # baselines
    "a baseline of another size": (
        EVERY,
        {"baselines": torch.rand(2, 1, 5, 5)},
        (AssertionError, ValueError),
        "shape",
    ),
    "a baseline with other rows": (
        EVERY,
        {"baselines": torch.rand(3, 1, 12, 10)},
        (AssertionError, ValueError),
        "shape",
    ),
    "a word as baseline": (EVERY, {"baselines": "black"}, (AssertionError, TypeError), "number"),
    "a function as baseline": (
        EVERY,
        {"baselines": torch.zeros},
        (AssertionError, TypeError),
        "number",
    ),
    "a list as baseline": (EVERY, {"baselines": [0.0]}, (AssertionError, TypeError), "number"),
    "too many baselines": (EVERY, {"baselines": (0, 0)}, (AssertionError, ValueError), "baseline"),
    "NaN as baseline": (EVERY, {"baselines": NAN}, ValueError, "finite"),
    "infinity as baseline": (EVERY, {"baselines": INF}, ValueError, "finite"),
    "NaN in a baseline": (EVERY, {"baselines": with_values(NAN)}, ValueError, "finite"),
    # targets
    "no target": (EVERY, {"target": None}, AssertionError, "pass a target"),
    "a target out of range": (EVERY, {"target": 3}, IndexError, "out of bounds|out of range"),
    "a list of targets that is too short": (
        EVERY,
        {"target": [0]},
        (AssertionError, ValueError),
        "target",
    ),
    "an empty list of targets": (EVERY, {"target": []}, (AssertionError, ValueError), "target"),
    "nested targets": (EVERY, {"target": [[0], [1]]}, (AssertionError, TypeError), "[Tt]arget"),
    "a word as target": (EVERY, {"target": "cat"}, (AssertionError, TypeError), "[Tt]arget"),
    "a dictionary as target": (EVERY, {"target": {}}, (AssertionError, TypeError), "[Tt]arget"),
    "fractions as targets": (
        EVERY,
        {"target": torch.tensor([0.0, 1.0])},
        (RuntimeError, TypeError),
        "dtype",
    ),
    "a target for one dimension of three": (
        EVERY,
        {"model": Dense, "target": 0},
        AssertionError,
        "every output dimension",
    ),
    "a slice of targets": (
        EVERY,
        {"model": Dense, "target": (0, slice(0, 2), 1)},
        AssertionError,
        "every output dimension",
    ),
    "a target with too many indices": (EVERY, {"target": (0, 0)}, AssertionError, "target"),
    # models
    "a model that returns a tuple": (EVERY, {"model": TupleOutput}, TypeError, "callable_targets"),
    "a model that returns a dictionary": (
        EVERY,
        {"model": DictOutput},
        TypeError,
        "callable_targets",
    ),
    "a model that returns one number": (EVERY, {"model": OneNumber}, ValueError, "row"),
    "a model that detaches its output": (GRADIENTS, {"model": Detached}, RuntimeError, "detach"),
    "a model that returns NaN": (EVERY, {"model": Times}, ValueError, "NaN"),
    "a model that returns infinities": (EVERY, {"model": TimesInfinity}, ValueError, "infinite"),
    "a scripted model": (
        LAYERED,
        {"model": scripted, "layers": ["stem", "body"]},
        ValueError,
        "original module",
    ),
    "a scripted model, layers left out": (
        LAYERED,
        {"model": scripted, "layers": "auto"},
        MISUSE,
        "[Ss]cript",
    ),
    "a function without layers": (
        LAYERED,
        {"model": lambda: lambda x: x, "layers": "auto"},
        ValueError,
        "pass the layers",
    ),
    "a function and a layer's name": (
        LAYERED,
        {"model": lambda: lambda x: x},
        ValueError,
        "pass the module itself",
    ),
    "no model": (EVERY, {"model": lambda: None}, MISUSE, "callable|Module"),
    "a model without feature maps": (
        LAYERED,
        {"model": flat_model, "layers": "auto"},
        ValueError,
        r"layers=\[",
    ),
    "a token model, layers left out": (
        LAYERED,
        {"model": TokenNet, "inputs": torch.rand(2, 1, 16, 24), "layers": "auto"},
        ValueError,
        "reshape_transform",
    ),
    # layers
    "an unknown layer": (LAYERED, {"layers": ["nope"]}, ValueError, "select_layers"),
    "a parameter as layer": (LAYERED, {"layers": ["stem.0.weight"]}, ValueError, "select_layers"),
    "a number as layer": (LAYERED, {"layers": [3]}, TypeError, "torch.nn.Module"),
    "no layer": (SISES, {"layers": []}, ValueError, "at least one"),
    "a layer of another model": (
        LAYERED,
        {"layers": lambda: [ConvNet().stem]},
        ValueError,
        "another model",
    ),
    "a layer of a copy": (
        LAYERED,
        {"layers": lambda: [copy.deepcopy(ConvNet().body)]},
        ValueError,
        "a copy",
    ),
    "a layer that is never called": (
        LAYERED,
        {"model": SidePath, "layers": ["unused"]},
        ValueError,
        "forward pass",
    ),
    "a layer whose result is thrown away": (
        GRADIENTS,
        {"model": SidePath, "layers": ["side"]},
        ValueError,
        "influence",
    ),
    "a layer that emits vectors": (
        ["MultiLayerSISE", "AdaptiveHybridCAM", "ScoreCAM"],
        {"layers": ["head"]},
        ValueError,
        "earlier layer",
    ),
    "a layer that emits a tuple": (
        LAYERED,
        {"model": Branches, "layers": ["split"]},
        TypeError,
        "submodules",
    ),
    "a layer that emits other rows": (
        LAYERED,
        {"model": TwoViews, "layers": ["conv"]},
        ValueError,
        "not a feature map",
    ),
    # reshape_transform
    "tokens without a reshape function": (
        LAYERED,
        {"model": TokenNet, "inputs": torch.rand(2, 1, 16, 24), "layers": ["mixer"]},
        ValueError,
        "reshape_transform",
    ),
    # scores and fusions
    "an unknown score": (MASKING, {"score": "log"}, ValueError, "softmax"),
    "no score": (MASKING, {"score": False}, ValueError, "softmax"),
    "a score that sums over the rows": (MASKING, {"score": torch.sum}, MISUSE, "score"),
    "a score that returns nothing": (MASKING, {"score": lambda y: None}, MISUSE, "score"),
    "a score that returns NaN": (MASKING, {"score": lambda y: y * NAN}, ValueError, "NaN"),
    "a score that is constant": (SISES, {"score": torch.ones_like}, RuntimeError, "depend"),
    "a score that fails": (MASKING, {"score": lambda y: 1 / 0}, ZeroDivisionError, "zero"),
    "a softmax of one class": (
        ["MultiLayerSISE", "AdaptiveHybridCAM", "RISE"],
        {"model": lambda: ConvNet(classes=1), "target": 0},
        ValueError,
        "sigmoid",
    ),
    "an unknown fusion": (SISES, {"fusion": "max"}, ValueError, "soft_otsu"),
    "no fusion": (SISES, {"fusion": None}, ValueError, "soft_otsu"),
    "a fusion that drops a dimension": (
        SISES,
        {"fusion": lambda maps: maps[0][0]},
        ValueError,
        "one map",
    ),
    "a fusion that returns nothing": (SISES, {"fusion": lambda maps: None}, ValueError, "one map"),
    "a fusion that returns its list": (SISES, {"fusion": lambda maps: maps}, ValueError, "one map"),
    "a fusion that returns NaN": (SISES, {"fusion": lambda maps: maps[0] * NAN}, ValueError, "NaN"),
    # numbers
    "a batch size of zero": (EVERY, {"batch_size": 0}, ValueError, "positive integer"),
    "a negative batch size": (EVERY, {"batch_size": -1}, ValueError, "positive integer"),
    "a fractional batch size": (
        EVERY,
        {"batch_size": 1.5},
        MISUSE,
        "positive integer",
    ),
    "a word as batch size": (
        EVERY,
        {"batch_size": "8"},
        MISUSE,
        "positive integer",
    ),
    "a negative threshold": (["MultiLayerSISE"], {"threshold": -0.1}, ValueError, ">= 0"),
    "NaN as threshold": (["MultiLayerSISE"], {"threshold": NAN}, ValueError, ">= 0"),
    "a word as threshold": (
        ["MultiLayerSISE"],
        {"threshold": "0"},
        MISUSE,
        "threshold must",
    ),
    "no threshold": (
        ["MultiLayerSISE"],
        {"threshold": None},
        MISUSE,
        "threshold must",
    ),
    "no steps": (["IntegratedGradCAM"], {"n_steps": 0}, ValueError, "n_steps"),
    "negative steps": (["IntegratedGradCAM"], {"n_steps": -5}, ValueError, "n_steps"),
    "half a step": (["IntegratedGradCAM"], {"n_steps": 2.5}, MISUSE, "n_steps"),
    "a word as steps": (
        ["IntegratedGradCAM"],
        {"n_steps": "5"},
        MISUSE,
        "n_steps",
    ),
    "an unknown quadrature": (
        ["IntegratedGradCAM"],
        {"method": "simpson"},
        ValueError,
        "gausslegendre",
    ),
    "no masks": (["RISE"], {"n_masks": 0}, ValueError, "n_masks"),
    "negative masks": (["RISE"], {"n_masks": -3}, ValueError, "n_masks"),
    "half a mask": (["RISE"], {"n_masks": 2.5}, MISUSE, "n_masks"),
    "no grid": (["RISE"], {"grid": 0}, ValueError, "grid"),
    "a fractional grid": (["RISE"], {"grid": 2.5}, MISUSE, "grid"),
    "masks that hide everything": (["RISE"], {"probability": 0.0}, ValueError, "probability"),
    "masks that hide nothing": (["RISE"], {"probability": 1.0}, ValueError, "probability"),
    "a probability above one": (["RISE"], {"probability": 2.0}, ValueError, "probability"),
    "NaN as probability": (["RISE"], {"probability": NAN}, ValueError, "probability"),
    "a seed as generator": (["RISE"], {"generator": 3}, MISUSE, "[Gg]enerator"),
    "an integer dtype for autocast": (
        MASKING,
        {"autocast_dtype": torch.int8},
        MISUSE,
        "bfloat16",
    ),
    "a word for autocast": (
        MASKING,
        {"autocast_dtype": "bfloat16"},
        MISUSE,
        "torch.bfloat16|torch.dtype",
    ),
    # arguments
    "an argument that the model does not take": (
        EVERY,
        {"additional_forward_args": 3},
        TypeError,
        "positional",
    ),
    "an argument that is missing": (EVERY, {"model": WithArguments}, TypeError, "bias"),
    "an unknown option": (EVERY, {"perturbation": 3}, TypeError, "unexpected keyword"),
}
RESHAPES: dict[str, tuple[Any, Any, str]] = {
    "returns nothing": (lambda tokens: None, MISUSE, "reshape_transform"),
    "returns an array": (
        lambda tokens: tokens.detach().numpy(),
        MISUSE,
        "reshape_transform",
    ),
    "drops rows": (lambda tokens: tokens_to_map(4, 6)(tokens)[:1], ValueError, "reshape_transform"),
    "keeps the tokens": (lambda tokens: tokens, ValueError, "reshape_transform"),
    "gives one dimension for two": (
        lambda tokens: tokens.transpose(1, 2),
        ValueError,
        "reshape_transform",
    ),
    "is of another grid": (tokens_to_map(5, 5), (RuntimeError, ValueError), "5, 5"),
    "is no function": (3, TypeError, "callable"),
}

CASES = [
    pytest.param(METHODS[name], options, error, message, id=f"{case}-{name}")
    for case, (names, options, error, message) in ERRORS.items()
    for name in names
] + [
    pytest.param(
        METHODS[name],
        {
            "model": TokenNet,
            "inputs": images(2, 1, 16, 24),
            "layers": ["mixer"],
            "reshape": reshape,
        },
        error,
        message,
        id=f"a reshape function that {case}-{name}",
    )
    for case, (reshape, error, message) in RESHAPES.items()
    for name in LAYERED
]

# name: (methods, options), which give a finite result of the usual shape
RESULTS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "a white image": (EVERY, {"inputs": torch.ones(2, 1, 12, 10)}),
    "a black image": (EVERY, {"inputs": torch.zeros(2, 1, 12, 10)}),
    "an image equal to its baseline": (
        EVERY,
        {"inputs": images(2, 1, 12, 10), "baselines": images(2, 1, 12, 10)},
    ),
    "a huge image": (EVERY, {"inputs": images(2, 1, 12, 10) * 1e30}),
    "a tiny image": (EVERY, {"inputs": images(2, 1, 12, 10) * 1e-30}),
    "a subnormal image": (EVERY, {"inputs": images(2, 1, 12, 10) * 1e-42}),
    "an image of one bright pixel": (EVERY, {"inputs": with_values(100.0) - images(2, 1, 12, 10)}),
    "an image of two pixels a side": (EVERY, {"inputs": images(2, 1, 2, 2)}),
    "a narrow image": (EVERY, {"inputs": images(2, 1, 40, 2)}),
    "an empty batch": (EVERY, {"inputs": images(0, 1, 12, 10)}),
    "an expanded image": (EVERY, {"inputs": images(1, 1, 12, 10).expand(5, 1, 12, 10)}),
    "a view that overlaps itself": (
        EVERY,
        {"inputs": torch.linspace(-1, 1, 30).as_strided((2, 1, 12, 10), (3, 1, 1, 1))},
    ),
    "a baseline broadcast over the image": (EVERY, {"baselines": torch.full((1, 1, 1, 1), 0.3)}),
    "a baseline of another dtype": (EVERY, {"baselines": torch.ones(1, 1, 12, 10).double()}),
    "a negative target": (EVERY, {"target": -1}),
    "the same layer twice": (LAYERED, {"layers": ["stem", "stem"]}),
    "layers from deep to shallow": (LAYERED, {"layers": ["body", "stem"]}),
    "layers of a pooling and an identity": (LAYERED, {"layers": ["pool"]}),
    "a threshold that nothing exceeds": (["MultiLayerSISE"], {"threshold": 1.0}),
    "an infinite threshold": (["MultiLayerSISE"], {"threshold": INF}),
    "a score of zero": (MASKING, {"score": lambda y: 0 * y}),
    "a negative score": (MASKING, {"score": lambda y: -y.exp()}),
    "a saturated score": (MASKING, {"score": lambda y: (100 * y).softmax(1)}),
    "a class without any probability": (MASKING, {"score": lambda y: (1000 * y).softmax(1)}),
    "a batch of one mask": (EVERY, {"batch_size": 1}),
    "a batch of a million masks": (EVERY, {"batch_size": 10**6}),
    "a grid of one cell": (["RISE"], {"grid": 1}),
    "a grid finer than the image": (["RISE"], {"grid": 100}),
    "one mask": (["RISE"], {"n_masks": 1}),
    "masks that hide almost everything": (["RISE"], {"probability": 1e-6}),
    "masks that hide almost nothing": (["RISE"], {"probability": 1 - 1e-6}),
    "a model that hardly responds": (EVERY, {"model": Faint}),
}


GOOD_CASES = [
    pytest.param(METHODS[name], options, id=f"{case}-{name}")
    for case, (names, options) in RESULTS.items()
    for name in names
]


def test_there_are_a_hundred_different_abuses() -> None:
    assert len(ERRORS) + len(RESHAPES) + len(RESULTS) >= 100


@pytest.mark.parametrize(("method", "options", "error", "message"), CASES)
def test_a_malformed_call_is_an_error_that_names_the_remedy(
    method: Any, options: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        call(method, options)


@pytest.mark.parametrize(("method", "options"), GOOD_CASES)
@pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")
def test_a_borderline_call_gives_a_finite_map(method: Any, options: dict[str, Any]) -> None:
    attribution = call(method, options)
    shape = options.get("inputs", images(2, 1, 12, 10)).shape
    assert attribution.isfinite().all()
    assert len(attribution) == shape[0]
    if method is not METHODS["IntegratedGradCAM"]:
        assert attribution.shape == shape


@pytest.mark.parametrize("name", EVERY)
def test_a_model_in_train_mode_is_explained_with_a_warning_that_says_what_to_do(name: str) -> None:
    with pytest.warns(UserWarning, match=r"model\.eval\(\)"):
        attribution = call(METHODS[name], {"model": lambda: Normalised().train()})
    assert attribution.isfinite().all()


@pytest.mark.parametrize("name", SISES)
def test_a_map_without_evidence_is_zero_and_the_warning_says_why(name: str) -> None:
    with pytest.warns(UserWarning, match="all zero.*positive gradient.*another target"):
        attribution = call(METHODS[name], {"score": lambda y: 0 * y})
    assert not attribution.any()


def test_a_scripted_model_is_explained_by_the_method_that_needs_no_layer() -> None:
    attribution = call(METHODS["RISE"], {"model": scripted})
    torch.testing.assert_close(attribution, call(METHODS["RISE"], {}))


@pytest.mark.parametrize("name", LAYERED)
def test_a_function_is_explained_through_a_layer_of_the_model_it_calls(name: str) -> None:
    model = ConvNet(seed=1)
    layers = [model.stem, model.body]
    function: Callable[[Tensor], Tensor] = lambda x: model(x)  # noqa: E731
    inputs = images(2, 1, 12, 10)
    actual = METHODS[name](function, inputs, layers=layers, target=1)
    torch.testing.assert_close(actual, METHODS[name](model, inputs, target=1))


def test_no_layer_at_all_for_integrated_grad_cam_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one"):
        METHODS["IntegratedGradCAM"].cls(ConvNet(), []).attribute(images(1, 1, 12, 10), target=1)
