"""Calls at the edges of the contract: baselines, layers, precision, memory, and wrappers."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from captum.attr import NoiseTunnel
from helpers.toys import LAYERED, METHODS, ConvNet, WithArguments, images
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from captum_excon.attr import AdaptiveHybridCAM, IntegratedGradCAM, MultiLayerSISE, ScoreCAM
from captum_excon.attr._core import grouping as _grouping
from captum_excon.attr._core import masks as _masks
from captum_excon.attr._core.batching import run_in_batches
from captum_excon.attr._core.layer_maps import gradient_maps
from captum_excon.attr._core.masks import FeatureMasks, widest
from captum_excon.attr._core.modes import preserved_state
from captum_excon.grad_cam import GradCamAttribution
from captum_excon.targets import callable_targets

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_sise = pytest.mark.parametrize("sise", [MultiLayerSISE, AdaptiveHybridCAM])


class Doubtful(ConvNet):
    """ConvNet whose third class has a tiny probability, below half precision's smallest numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - torch.tensor([0.0, 0.0, 12.0])


# Precision


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_in_float32_under_an_ambient_autocast(method: Any, dtype: torch.dtype) -> None:
    # A model that leaves autocast itself, so that only the attribution's own sums could differ.
    class Exact(Doubtful):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())

    inputs = images(2, 1, 48, 48)
    expected = method(Exact(), inputs, target=2)
    with torch.autocast("cpu", dtype=dtype):
        maps = method(Exact(), inputs, target=2)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * float(expected.max()))


class NoFloat64(TorchDispatchMode):
    """A device like MPS, which has no float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        assert not (isinstance(result, Tensor) and result.dtype == torch.float64), func
        return result


@every_method
def test_no_sum_is_in_float64_on_a_device_without_it(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = images(2, 1, 48, 48)
    expected = method(ConvNet(), inputs, target=2)
    for module in (_masks, _grouping):
        monkeypatch.setattr(module, "widest", lambda device: widest(torch.device("mps")))
    with NoFloat64():
        maps = method(ConvNet(), inputs, target=2)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_the_gate_of_hybrid_maps_is_in_float32_under_an_ambient_autocast() -> None:
    maps = [torch.rand(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))]
    weights = [torch.randn(1, 2, 64, generator=torch.Generator().manual_seed(1))]
    expected = gradient_maps(maps, weights, [(8, 8)])[0][0].maps[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient_maps(maps, weights, [(8, 8)])[0][0].maps[0]
    torch.testing.assert_close(found, expected)


@every_method
def test_an_ambient_autocast_still_runs_the_model(method: Any) -> None:
    seen = set()

    class Watched(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            seen.add(output.dtype)
            return output

    with torch.autocast("cpu", dtype=torch.bfloat16):
        method(Watched(), images(1, 1, 12, 10), target=1)
    assert seen == {torch.bfloat16}


def test_a_sum_of_masks_on_a_high_floor_keeps_its_small_differences() -> None:
    # The masks stand on 1000, which cancels; a subtraction after the sum would lose the rest.
    maps = 1000 + torch.rand(1, 256, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = FeatureMasks([maps], None, [(8, 8)])
    scaled = torch.cat(masks.masks(0, len(masks))).squeeze(1).double()
    weights = torch.rand(1, len(masks), generator=torch.Generator().manual_seed(1))
    (summed,) = masks.combine(weights, 0)
    expected = (weights.double().view(-1, 1, 1) * scaled).sum(0)
    torch.testing.assert_close(summed[0, 0].double(), expected, rtol=1e-6, atol=0)


# Baselines


@every_method
def test_each_image_may_have_a_baseline_of_its_own_colour(method: Any) -> None:
    model, inputs = ConvNet(in_channels=3).double(), images(3, 3, 12, 10, dtype=torch.float64)
    colours = torch.randn(3, 3, 1, 1, dtype=torch.float64)
    maps = method(model, inputs, target=1, baselines=colours)
    torch.testing.assert_close(
        maps, method(model, inputs, target=1, baselines=colours.expand_as(inputs).clone())
    )


@every_method
@pytest.mark.parametrize(
    "target",
    [torch.tensor([0, 1]), torch.tensor([[0], [1]]), [0, 1]],
    ids=["tensor", "column", "list"],
)
def test_a_target_in_the_baselines_place_is_an_error_that_says_so(method: Any, target: Any) -> None:
    attribution = method.build(ConvNet())
    with pytest.raises((TypeError, ValueError), match="baselines come before target") as error:
        attribution.attribute(images(2, 1, 12, 10), target)
    assert len(str(error.value)) < 400


# Layers


@pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")
@every_sise
def test_one_layer_may_be_given_as_a_module_or_a_name(sise: Any) -> None:
    model, inputs = ConvNet(), images(2, 1, 12, 10)
    expected = sise(model, [model.body]).attribute(inputs, target=1)
    for layer in (model.body, "body", ("body",), (name for name in ["body"])):
        torch.testing.assert_close(sise(model, layer).attribute(inputs, target=1), expected)
    convolution = sise(model, model.stem[0]).attribute(inputs, target=1)
    torch.testing.assert_close(convolution, sise(model, ["stem.0"]).attribute(inputs, target=1))


def test_a_list_of_modules_is_several_layers_and_a_sequential_is_one() -> None:
    model, inputs = ConvNet(), images(2, 1, 12, 10)
    listed = nn.ModuleList([model.stem, model.body])
    sise = MultiLayerSISE(model, listed)
    _, maps = sise.attribute(inputs, target=1, return_layer_maps=True)
    assert len(maps) == 2
    assert len(IntegratedGradCAM(model, listed).attribute(inputs, target=1, n_steps=2)) == 2
    assert IntegratedGradCAM(model, model.stem).attribute(inputs, target=1).shape[2:] == (12, 10)


def test_score_cam_takes_one_layer_only() -> None:
    with pytest.raises(TypeError, match=r"module|Module"):
        ScoreCAM(ConvNet(), ["stem", "body"])


@pytest.mark.parametrize("layer", [3, 1.5])
def test_a_number_is_no_layer(layer: Any) -> None:
    with pytest.raises(TypeError, match=r"torch.nn.Module or its name"):
        MultiLayerSISE(ConvNet(), layer)


# Memory


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_a_batch_is_halved_when_a_library_cannot_allocate(message: str) -> None:
    done: list[int] = []

    def step(start: int, stop: int) -> None:
        if stop - start > 2:
            raise RuntimeError(message)
        done.extend(range(start, stop))

    run_in_batches(7, step, (torch.zeros(7, 3),), 7)
    assert done == list(range(7))


# State


def test_the_gpus_random_state_is_put_back_for_a_model_without_buffers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Weight:
        device = torch.device("cuda", 1)

    model = nn.Sequential(nn.Identity()).train()
    monkeypatch.setattr(type(model), "parameters", lambda _: iter([Weight()]))
    forked: list[int] = []

    @contextlib.contextmanager
    def fork_rng(devices: list[int]) -> Iterator[None]:
        forked.extend(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    with preserved_state(model):
        assert forked == [1]


@pytest.mark.parametrize("name", ["IntegratedGradCAM", "MultiLayerSISE", "AdaptiveHybridCAM"])
def test_weights_made_under_inference_mode_are_an_error_that_names_the_remedy(name: str) -> None:
    with torch.inference_mode():
        model = ConvNet()
    inputs = images(2, 1, 12, 10)
    with pytest.raises(ValueError, match="deepcopy"):
        METHODS[name](model, inputs, target=1)
    METHODS[name](copy.deepcopy(model), inputs, target=1)


@every_method
def test_arguments_made_under_inference_mode_are_taken(method: Any) -> None:
    model, inputs = WithArguments(), images(2, 1, 12, 10)
    bias = torch.randn(2, 3)
    expected = method(model, inputs, target=1, additional_forward_args=bias)
    with torch.inference_mode():
        maps = method(model, inputs, target=1, additional_forward_args=bias.clone())
    torch.testing.assert_close(maps, expected)


# Wrappers


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@every_method
def test_scores_of_a_distributed_model_wait_for_no_other_process(method: Any) -> None:
    model, inputs = ConvNet(), images(2, 1, 12, 10)
    wrapped = DistributedDataParallel(model)
    targets = callable_targets(wrapped, [lambda output: output[1]])
    assert targets.model is model
    layers = ["model.stem", "model.body"]
    maps = method(targets, inputs, layers=layers, target=0)
    options = {} if method is METHODS["IntegratedGradCAM"] else {"score": "identity"}
    torch.testing.assert_close(maps, method(model, inputs, target=1, **options))


@pytest.mark.usefixtures("process_group")
def test_a_distributed_part_of_a_model_is_refused() -> None:
    model = nn.Sequential(DistributedDataParallel(ConvNet()), nn.Identity())
    with pytest.raises(ValueError, match=r"put its \.module there"):
        METHODS["RISE"](model, images(2, 1, 12, 10), target=1)


@every_sise
@pytest.mark.parametrize("as_tuple", [False, True])
def test_a_noise_tunnel_refuses_layer_maps_and_says_what_to_leave_out(
    sise: Any, as_tuple: bool
) -> None:
    inputs: Any = images(2, 1, 12, 10)
    tunnel = NoiseTunnel(sise(ConvNet(), ["stem", "body"]))
    with pytest.raises(ValueError, match="leave out return_layer_maps"):
        tunnel.attribute(
            (inputs,) if as_tuple else inputs, nt_samples=2, target=1, return_layer_maps=True
        )
    assert tunnel.attribute(inputs, nt_samples=2, target=1).shape == inputs.shape


# Empty maps


def test_integrated_grad_cam_warns_of_maps_that_are_all_zero() -> None:
    model, inputs = ConvNet(), images(2, 1, 12, 10)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)
    attribution = IntegratedGradCAM(model, "body")
    with pytest.warns(UserWarning, match="IntegratedGradCAM: 2 of 2 maps are all zero") as caught:
        attribution.attribute(inputs, target=1, n_steps=2)
    assert [warning.filename for warning in caught] == [__file__]
    signed = {"relu_attributions": False, "n_steps": 2}
    assert IntegratedGradCAM(ConvNet(), "body").attribute(inputs, target=1, **signed).any()


# Modules that are called several times


class Siamese(nn.Module):
    """Compares two images, each of which goes through `encoder`, or the second through `other`."""

    def __init__(self, *, shared: bool = True) -> None:
        super().__init__()
        self.encoder, self.relu = ConvNet().stem[0], nn.ReLU()
        self.other = self.encoder if shared else copy.deepcopy(self.encoder)
        self.head = nn.Linear(5, 2, bias=False)
        nn.init.normal_(self.head.weight, generator=torch.Generator().manual_seed(0))
        self.eval()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        difference = self.relu(self.encoder(x) + 1) - self.relu(self.other(y) + 1)
        return self.head(self.relu(difference).mean((2, 3)))


every_layered_method = pytest.mark.parametrize("method", [METHODS[n] for n in LAYERED], ids=LAYERED)


@pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")
@every_layered_method
def test_an_encoder_that_sees_each_input_by_itself_masks_no_other(method: Any) -> None:
    x, y = images(2, 1, 12, 10), images(2, 1, 12, 10, seed=3)
    model = Siamese()
    with pytest.raises(ValueError, match="one input at a time"):
        method(model, (x, y), layers=["encoder"], target=1)
    # As the error says: one input at a time, whose own call then counts.
    maps = method(model, x, layers=["encoder"], additional_forward_args=y, target=1)
    apart = Siamese(shared=False)
    expected = method(apart, x, layers=["encoder"], additional_forward_args=y, target=1)
    torch.testing.assert_close(maps, expected)
    last = method(model, (x, y), layers=["relu"], target=1)
    assert all(m.isfinite().all() for m in last)


def test_a_bridge_that_sees_the_last_call_only_refuses_another() -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    x, y = images(2, 1, 12, 10), images(2, 1, 12, 10, seed=3)
    cam = GradCamAttribution(grad_cam.GradCAM, Siamese(), "encoder")
    with pytest.raises(ValueError, match="last call"):
        cam.attribute(x, target=1, additional_forward_args=y)


class Twice(nn.Module):
    """One activation behind a large stem and behind the head, as in EfficientNet-Lite0."""

    calls_in_stem = True

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.act, self.out = nn.ReLU(), nn.Linear(4, 3)
        self.recorded: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(x) if self.calls_in_stem else x.relu()
        x = self.head(x)
        self.recorded.append(x.requires_grad)
        return self.out(self.act(x).mean((2, 3)))


def test_gradients_are_recorded_from_the_call_that_counts() -> None:
    model, inputs = Twice().eval(), images(2, 1, 12, 10)
    attribution = IntegratedGradCAM(model, "act")
    twice = attribution.attribute(inputs, target=1, n_steps=3)
    assert not any(model.recorded)
    model.calls_in_stem = False
    torch.testing.assert_close(attribution.attribute(inputs, target=1, n_steps=3), twice)


def test_a_layer_that_is_called_less_often_than_before_is_still_differentiated() -> None:
    class Fickle(Twice):
        def forward(self, x: Tensor) -> Tensor:
            self.calls_in_stem = not bool(x.any())  # twice at the black baseline alone
            return super().forward(x)

    model, inputs = Fickle().eval(), images(2, 1, 12, 10)
    maps = IntegratedGradCAM(model, "act").attribute(inputs, target=1, n_steps=3)
    steady = Twice().eval()
    steady.load_state_dict(model.state_dict())
    expected = IntegratedGradCAM(steady, "act").attribute(inputs, target=1, n_steps=3)
    torch.testing.assert_close(maps, expected)
