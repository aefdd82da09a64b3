"""What every attribution owes to Captum's users: targets, shapes, batches, state, and dtypes."""

import copy
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from helpers.toys import (
    LAYERED,
    LAYERS,
    MASKING,
    METHODS,
    BareConvNet,
    ConvNet,
    Dense,
    Limited,
    Normalised,
    Scalar,
    TokenNet,
    TwoInputs,
    WithArguments,
    hook_count,
    images,
    state,
    tokens_to_map,
)
from torch import Tensor, nn

from captum_excon import select_layers
from captum_excon.attr import RISE, FusedGradCAM, attribution_methods

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_masking_method = pytest.mark.parametrize("method", [METHODS[n] for n in MASKING], ids=MASKING)
every_layered_method = pytest.mark.parametrize("method", [METHODS[n] for n in LAYERED], ids=LAYERED)


def network(cls: type = ConvNet, **options: Any) -> nn.Module:
    """A toy in float64, so that different batch sizes round to the same picture."""
    return cls(seed=1, **options).double()


def batch(n: int = 3, channels: int = 1, size: tuple[int, ...] = (12, 10), seed: int = 2) -> Tensor:
    return images(n, channels, *size, seed=seed, dtype=torch.float64)


def assert_equal(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-10)


def test_the_suite_covers_every_public_method() -> None:
    # FusedGradCAM masks nothing and has no baselines; test_fused_cams.py is about it.
    covered = {method.cls for method in METHODS.values()} | {FusedGradCAM}
    assert covered == set(attribution_methods().values())


# Targets


@every_method
@pytest.mark.parametrize(
    "target",
    [
        torch.tensor(1),
        torch.tensor([1]),
        torch.tensor([1, 1, 1]),
        (1,),
        [1, 1, 1],
        [(1,), (1,), (1,)],
    ],
    ids=["0-d tensor", "1-element tensor", "tensor", "tuple", "list", "list of tuples"],
)
def test_all_forms_of_a_target_mean_the_same(method: Any, target: Any) -> None:
    model, inputs = network(), batch()
    assert_equal(method(model, inputs, target=target), method(model, inputs, target=1))


@every_method
@pytest.mark.parametrize("target", [[2, 0, 1], torch.tensor([2, 0, 1]), [(2,), (0,), (1,)]])
def test_each_image_has_its_own_target(method: Any, target: Any) -> None:
    model, inputs = network(), batch()
    singles = [method(model, inputs[i : i + 1], target=t) for i, t in enumerate([2, 0, 1])]
    assert_equal(method(model, inputs, target=target), torch.cat(singles))


@every_method
def test_dense_outputs_take_tuples_and_lists_of_tuples(method: Any) -> None:
    model, inputs, targets = network(Dense), batch(), [(0, 1, 1), (2, 5, 0), (1, 3, 4)]
    singles = [method(model, inputs[i : i + 1], target=t) for i, t in enumerate(targets)]
    assert_equal(method(model, inputs, target=targets), torch.cat(singles))
    assert_equal(method(model, inputs, target=targets[1])[1:2], singles[1])


@every_method
def test_no_target_is_needed_for_a_number_per_image(method: Any) -> None:
    options = {} if method is METHODS["IntegratedGradCAM"] else {"score": "identity"}
    expected = method(network(), batch(), target=0, **options)
    assert_equal(method(network(Scalar), batch(), **options), expected)


WRONG_TARGETS = {
    "out of range": 99,
    "out of range in a list": [0, 99, 1],
    "negative out of range": -99,
    "too many indices": (0, 1, 2),
    "too few in a list": [0, 1],
    "too many in a tensor": torch.tensor([0, 1, 2, 0]),
    "text": "cat",
    "a fraction": 0.5,
    "2-d tensor": torch.zeros(3, 1, dtype=torch.long),
    "none for class scores": None,
}


@every_method
@pytest.mark.parametrize("name", WRONG_TARGETS)
def test_a_wrong_target_raises_and_leaves_no_hook(method: Any, name: str) -> None:
    model = network()
    before = state(model)
    with pytest.raises((AssertionError, IndexError, RuntimeError, TypeError, ValueError)):
        method(model, batch(), target=WRONG_TARGETS[name])
    assert state(model) == before


# Inputs and outputs


@every_method
def test_a_tensor_gives_a_contiguous_detached_tensor_of_the_same_kind(method: Any) -> None:
    inputs = batch().transpose(2, 3).requires_grad_()
    assert not inputs.is_contiguous()
    values = inputs.detach().clone()
    attribution = method(network(), inputs, target=1)
    assert type(attribution) is Tensor
    assert attribution.is_contiguous()
    assert not attribution.requires_grad
    assert attribution.dtype == inputs.dtype
    assert attribution.device == inputs.device
    if method is METHODS["IntegratedGradCAM"]:
        assert attribution.shape == (3, 1, 5, 6)
    else:
        assert attribution.shape == inputs.shape
    assert attribution.abs().sum() > 0
    assert inputs.grad is None
    assert inputs.requires_grad
    assert torch.equal(inputs, values)


@every_masking_method
def test_a_tuple_gives_a_tuple(method: Any) -> None:
    model, x, y = network(TwoInputs, in_channels=2), batch(channels=2), batch(channels=2, seed=3)
    attributions = method(model, (x, y), target=1)
    assert type(attributions) is tuple
    assert [a.shape for a in attributions] == [x.shape, y.shape]
    assert all(a.is_contiguous() and not a.requires_grad for a in attributions)
    assert_equal(attributions[0], attributions[1])
    (single,) = method(network(), (batch(),), target=1)
    assert_equal(single, method(network(), batch(), target=1))


def test_integrated_grad_cam_of_a_tuple_of_inputs_is_a_tuple_of_the_layers_one_map() -> None:
    # The network sees x - y / 2, so that the path from (a, b) is that from a - b / 2.
    method, x, y = METHODS["IntegratedGradCAM"], batch(), batch(seed=3)
    attributions = method(network(TwoInputs), (x, y), baselines=(0.5, 1.0), target=1)
    assert type(attributions) is tuple
    (attribution,) = attributions
    expected = method(network(), x - 0.5 * y, baselines=0.0, target=1)
    assert_equal(attribution, expected)


@every_masking_method
def test_inputs_of_a_tuple_may_differ_in_size(method: Any) -> None:
    class Mixed(ConvNet):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return super().forward(x) * (1 + context.mean((1, 2, 3))[:, None])

    attributions = method(network(Mixed), (batch(), batch(channels=3, size=(6, 7))), target=1)
    assert [a.shape for a in attributions] == [(3, 1, 12, 10), (3, 3, 6, 7)]
    assert all(a.isfinite().all() and a.abs().sum() > 0 for a in attributions)


@every_method
@pytest.mark.parametrize("batch_size", [None, 1, 2, 5])
def test_additional_arguments_follow_their_images(method: Any, batch_size: int | None) -> None:
    model, inputs = network(WithArguments), batch()
    bias = torch.randn(3, 3, dtype=torch.float64)
    singles = [
        method(model, inputs[i : i + 1], target=1, additional_forward_args=(bias[i : i + 1], 2.0))
        for i in range(3)
    ]
    attribution = method(
        model,
        inputs,
        target=1,
        additional_forward_args=(bias, 2.0),
        **{method.batch_size_option: batch_size},
    )
    assert_equal(attribution, torch.cat(singles))


@every_method
def test_arguments_without_a_row_per_image_are_passed_as_they_are(method: Any) -> None:
    model, inputs = network(WithArguments), batch(2)
    bias = torch.randn(3, dtype=torch.float64)  # one for each class
    attribution = method(model, inputs, target=1, additional_forward_args=bias)
    expected = method(model, inputs, target=1, additional_forward_args=bias.expand(2, 3))
    assert_equal(attribution, expected)


# Batches


@every_method
@pytest.mark.parametrize(
    ("dims", "channels", "size"),
    [(2, 1, (12, 10)), (2, 3, (9, 16)), (1, 2, (23,)), (3, 1, (6, 8, 5)), (2, 1, (16, 3))],
    ids=["grayscale", "colour", "1-D", "3-D", "narrow"],
)
def test_a_batch_equals_its_images_one_by_one(
    method: Any, dims: int, channels: int, size: tuple[int, ...]
) -> None:
    model, inputs = network(dims=dims, in_channels=channels), batch(4, channels, size)
    targets = [0, 1, 2, 1]
    singles = [method(model, inputs[i : i + 1], target=t) for i, t in enumerate(targets)]
    attribution = method(model, inputs, target=targets)
    assert_equal(attribution, torch.cat(singles))
    if method is METHODS["IntegratedGradCAM"]:
        assert attribution.shape == (4, 1, *[s // 2 for s in size])
    else:
        assert attribution.shape == inputs.shape


@every_method
@pytest.mark.parametrize("batch_size", [1, 2, 7, 1000])
def test_the_result_does_not_depend_on_the_batch_size(method: Any, batch_size: int) -> None:
    model, inputs = network(), batch()
    options = {method.batch_size_option: batch_size}
    attribution = method(model, inputs, target=[0, 1, 2], **options)
    assert_equal(attribution, method(model, inputs, target=[0, 1, 2]))


@every_method
def test_an_empty_batch_gives_an_empty_result(method: Any) -> None:
    attribution = method(network(), batch(0), target=1)
    if method is METHODS["IntegratedGradCAM"]:
        assert attribution.shape == (0, 1, 6, 5)
    else:
        assert attribution.shape == (0, 1, 12, 10)
    assert attribution.dtype == torch.float64
    assert method(network(), batch(0), target=[]).numel() == 0


@every_method
@pytest.mark.parametrize("rows", [1, 2])
def test_a_batch_that_does_not_fit_into_memory_is_halved(method: Any, rows: int) -> None:
    model, inputs = network(), batch(6)
    limited = Limited(model, rows)
    layers = [f"model.{name}" for name in LAYERS]
    attribution = method(limited, inputs, layers=layers, target=1)
    assert limited.refused > 0
    assert_equal(attribution, method(model, inputs, target=1))


@every_method
def test_an_explicit_batch_that_does_not_fit_into_memory_is_halved(method: Any) -> None:
    model, inputs = network(), batch(2)
    layers, options = [f"model.{name}" for name in LAYERS], {method.batch_size_option: 64}
    attribution = method(Limited(model, 3), inputs, layers=layers, target=1, **options)
    assert_equal(attribution, method(model, inputs, target=1))


@every_method
def test_a_single_row_that_does_not_fit_raises_the_out_of_memory_error(method: Any) -> None:
    limited = Limited(network(), 0)
    with pytest.raises(torch.OutOfMemoryError):
        method(limited, batch(), layers=[f"model.{name}" for name in LAYERS], target=1)
    assert hook_count(limited) == 0


@every_method
def test_attribute_classes_equals_attribute_for_each_class(method: Any) -> None:
    model, inputs, classes = network(), batch(), [1, [0, 1, 2], torch.tensor(0), (1,)]
    results = method.build(model).attribute_classes(inputs, classes, **method.options)
    assert len(results) == 4
    for result, target in zip(results, classes, strict=True):
        assert_equal(result, method(model, inputs, target=target))


# State


@every_method
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_state_of_model_and_process_is_untouched(
    method: Any, training: bool, grad_mode: Any
) -> None:
    model = Normalised().train(training)
    model.body.eval()  # a mixture of modes must survive as well
    model.head.weight.requires_grad_(False)
    model.stem[0].weight.grad = torch.ones_like(model.stem[0].weight)
    inputs = images(2, 1, 12, 10)
    advice = pytest.warns(UserWarning, match="model.eval") if training else nullcontext()
    with grad_mode():
        before = state(model)
        with advice:
            attribution = method(model, inputs, target=1)
        assert state(model) == before
    assert attribution.isfinite().all()


@every_method
def test_the_default_masks_do_not_depend_on_the_global_random_state(method: Any) -> None:
    model, inputs = network(), batch()
    first = method(model, inputs, target=1)
    torch.manual_seed(123)
    assert torch.equal(first, method(model, inputs, target=1))


def test_rise_draws_from_the_generator_that_it_is_given() -> None:
    model, inputs, method = network(), batch(), METHODS["RISE"]

    def draw(seed: int) -> Tensor:
        return method(model, inputs, target=1, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(draw(1), draw(1))
    assert not torch.allclose(draw(1), draw(2))
    generator = torch.Generator().manual_seed(1)
    first = RISE(model).attribute(inputs, target=1, n_masks=9, grid=3, generator=generator)
    second = RISE(model).attribute(inputs, target=1, n_masks=9, grid=3, generator=generator)
    assert torch.equal(first, draw(1))
    assert not torch.allclose(first, second)


@every_method
def test_hooks_are_gone_after_a_failing_layer(method: Any) -> None:
    model = network()

    def fail(*_: Any) -> None:
        raise KeyError("broken on purpose")

    handle = model.head.register_forward_hook(fail)
    before = state(model)
    with pytest.raises(KeyError, match="broken on purpose"):
        method(model, batch(), target=1)
    assert state(model) == before
    handle.remove()
    assert_equal(method(model, batch(), target=1), method(network(), batch(), target=1))


@every_method
def test_frozen_parameters_and_every_grad_mode_give_the_same_maps(method: Any) -> None:
    model, inputs = network(), batch()
    expected = method(model, inputs, target=1)
    frozen = copy.deepcopy(model).requires_grad_(False)
    assert_equal(method(frozen, inputs, target=1), expected)
    with torch.no_grad():
        assert_equal(method(model, inputs, target=1), expected)
    with torch.inference_mode():
        assert_equal(method(model, inputs.clone(), target=1), expected)
        assert_equal(method(frozen, inputs.clone(), target=1), expected)
    made_in_inference_mode = copy.deepcopy(model)
    with torch.inference_mode():
        inference_inputs = inputs.clone()
    assert_equal(method(made_in_inference_mode, inference_inputs, target=1), expected)


@every_layered_method
def test_in_place_activations_change_nothing(method: Any) -> None:
    inputs, layers = images(2, 1, 12, 12), ["conv1", "conv2"]
    actual = method(BareConvNet(inplace=True), inputs, layers=layers, target=1)
    expected = method(BareConvNet(inplace=False), inputs, layers=layers, target=1)
    torch.testing.assert_close(actual, expected)
    actual = method(ConvNet(inplace=True), inputs, target=1)
    torch.testing.assert_close(actual, method(ConvNet(), inputs, target=1))


@every_layered_method
def test_the_first_layer_may_be_the_one_that_works_on_the_input_in_place(method: Any) -> None:
    class Clipped(ConvNet):
        def __init__(self, inplace: bool) -> None:
            super().__init__(seed=1)
            self.clip = nn.ReLU(inplace=inplace)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.clip(x))

    inputs, layers = images(2, 1, 12, 10), ["body", "clip"]
    values = inputs.clone()
    actual = method(Clipped(True), inputs, layers=layers, target=1)
    assert torch.equal(inputs, values)
    torch.testing.assert_close(actual, method(Clipped(False), inputs, layers=layers, target=1))


# Layers


@every_layered_method
def test_layers_are_modules_or_names(method: Any) -> None:
    model, inputs = network(), batch()
    by_module = method(model, inputs, layers=[model.stem, model.body], target=1)
    assert_equal(by_module, method(model, inputs, target=1))


@every_layered_method
def test_layers_left_out_are_those_of_select_layers(method: Any) -> None:
    model, inputs = network(), batch()
    layers = [layer.module for layer in select_layers(model, inputs)]
    assert_equal(
        method.cls(model).attribute(inputs, target=1, **method.options),
        method(model, inputs, layers=layers, target=1),
    )


@every_layered_method
def test_the_input_of_a_layer_is_the_output_of_the_one_before(method: Any) -> None:
    model, inputs = network(), batch()
    actual = method(model, inputs, layers=["pool"], target=1, attribute_to_layer_input=True)
    assert_equal(actual, method(model, inputs, layers=["stem"], target=1))


@every_layered_method
def test_a_token_layer_without_reshape_transform_is_an_error_that_names_it(method: Any) -> None:
    with pytest.raises(ValueError, match="reshape_transform"):
        method(TokenNet(), images(2, 1, 16, 24), layers=["mixer"], target=1)


@every_layered_method
def test_a_token_layer_with_reshape_transform_is_a_map(method: Any) -> None:
    class Maps(TokenNet):
        """The same numbers, with maps in the place of tokens."""

        def __init__(self) -> None:
            super().__init__()
            self.as_map = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.embed(x).flatten(2).transpose(1, 2)
            mixed = self.as_map(tokens_to_map(4, 6)(self.mixer(tokens)))
            return self.head((tokens + mixed.flatten(2).transpose(1, 2)).tanh().mean(1))

    inputs = images(2, 1, 16, 24)
    explainer = method.build(TokenNet(), ["mixer"], reshape_transform=tokens_to_map(4, 6))
    actual = explainer.attribute(inputs, target=1, **method.options)
    torch.testing.assert_close(actual, method(Maps(), inputs, layers=["as_map"], target=1))


@every_layered_method
def test_a_layer_may_be_called_with_keywords_and_inside_a_grad_mode(method: Any) -> None:
    class Unusual(ConvNet):
        def features(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                maps = self.pool(input=self.stem(input=x))
            return self.body(input=torch.tanh(maps))

    model, inputs = network(Unusual), batch()
    assert_equal(method(model, inputs, target=1), method(network(), inputs, target=1))
    actual = method(model, inputs, layers=["pool"], target=1, attribute_to_layer_input=True)
    assert_equal(actual, method(network(), inputs, layers=["stem"], target=1))


# Numbers and wrappers


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_half_precision_close_to_float32(
    method: Any, dtype: torch.dtype
) -> None:
    model, inputs = ConvNet(seed=1), images(3, 1, 12, 10)
    attribution = method(copy.deepcopy(model).to(dtype), inputs.to(dtype), target=1)
    expected = method(model, inputs, target=1)
    assert attribution.dtype == dtype
    assert attribution.isfinite().all()
    pair = torch.stack([attribution.float().flatten(), expected.flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.8  # a mask may be selected in one and not in the other


@every_method
def test_float64_inputs_give_float64(method: Any) -> None:
    assert method(network(), batch(), target=1).dtype == torch.float64


@every_method
def test_channels_last_changes_nothing(method: Any) -> None:
    model, inputs = network(in_channels=3), batch(channels=3)
    expected = method(model, inputs, target=1)
    converted = copy.deepcopy(model).to(memory_format=torch.channels_last)
    last = inputs.contiguous(memory_format=torch.channels_last)
    for network_, x in [(model, last), (converted, inputs), (converted, last)]:
        actual = method(network_, x, target=1)
        assert actual.is_contiguous()
        assert_equal(actual, expected)


@every_masking_method
def test_autocast_of_the_scoring_passes_keeps_the_picture(method: Any) -> None:
    model, inputs = ConvNet(seed=1), images(3, 1, 12, 10)
    attribution = method(model, inputs, target=1, autocast_dtype=torch.bfloat16)
    assert attribution.dtype == torch.float32
    pair = torch.stack([attribution.flatten(), method(model, inputs, target=1).flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.99


@every_method
def test_compiled_models_are_explained(method: Any) -> None:
    model, inputs = network(), batch()
    compiled = torch.compile(model, backend="eager")
    expected = method(model, inputs, target=1)
    assert_equal(method(compiled, inputs, target=1), expected)
    layers = [compiled.stem, compiled.body]
    assert_equal(method(compiled, inputs, layers=layers, target=1), expected)
    compiled_in_place = network()
    compiled_in_place.compile(backend="eager")
    assert_equal(method(compiled_in_place, inputs, target=1), expected)
    assert hook_count(model) == hook_count(compiled) == 0


@every_method
def test_data_parallel_models_are_explained(method: Any) -> None:
    model, inputs = network(), batch()
    expected = method(model, inputs, target=1)
    parallel = nn.DataParallel(model)
    assert_equal(method(parallel, inputs, layers=[model.stem, model.body], target=1), expected)
    assert_equal(method(parallel, inputs, target=1), expected)


@every_method
def test_four_threads_on_one_model_give_the_right_maps(method: Any) -> None:
    class Interrupted(ConvNet):
        """Lets other threads run while its layers are hooked."""

        def features(self, x: Tensor) -> Tensor:
            time.sleep(0.0005)
            maps = torch.tanh(self.pool(self.stem(x)))
            time.sleep(0.0005)
            return self.body(maps)

    model, inputs = network(Interrupted), batch(4)
    explainer, chooses_layers = method.build(model), method.cls(model)
    expected = [explainer.attribute(inputs, target=t, **method.options) for t in range(3)]

    def call(i: int) -> Tensor | None:
        if i % 10 == 9:  # some fail in the middle of it all
            with pytest.raises(IndexError):
                explainer.attribute(inputs, target=99, **method.options)
            return None
        explainers = [explainer, method.build(model), chooses_layers, method.cls(model)]
        return explainers[i % 4].attribute(inputs, target=i % 3, **method.options)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(call, range(100)))
    finally:
        sys.setswitchinterval(interval)
    for i, result in enumerate(results):
        if result is not None:
            assert_equal(result, expected[i % 3])
    assert hook_count(model) == 0


@every_method
def test_progress_is_shown_on_request_only(method: Any, capfd: pytest.CaptureFixture[str]) -> None:
    method(network(), batch(), target=1)
    assert capfd.readouterr() == ("", "")
    method(network(), batch(), target=1, show_progress=True)
    assert method.cls.__name__ in capfd.readouterr().err


@pytest.mark.parametrize("name", ["MultiLayerSISE", "AdaptiveHybridCAM"])
def test_layer_maps_come_with_the_attribution_on_request(name: str) -> None:
    model, inputs, method = network(in_channels=3), batch(channels=3), METHODS[name]
    attribution, maps = method(model, inputs, target=[0, 1, 2], return_layer_maps=True)
    assert_equal(attribution, method(model, inputs, target=[0, 1, 2]))
    assert [map_.shape for map_ in maps] == [(3, 1, 12, 10)] * 2
    assert all(map_.amin() >= 0 and map_.amax() <= 1 for map_ in maps)
    summed, _ = method(model, inputs, target=[0, 1, 2], fusion="sum", return_layer_maps=True)
    assert_equal(summed[:, :1], maps[0] + maps[1])
    calls = []

    def weighted(layer_maps: list[Tensor]) -> Tensor:
        calls.append(len(layer_maps))
        return layer_maps[0] * 2 + layer_maps[1]

    custom = method(model, inputs, target=[0, 1, 2], fusion=weighted)
    assert_equal(custom[:, 1:2], maps[0] * 2 + maps[1])
    assert calls == [2]
