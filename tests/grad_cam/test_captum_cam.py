"""Captum's attributions behind the call of pytorch-grad-cam."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
)
from helpers.toys import (
    ConvNet,
    Dense,
    Normalised,
    Scalar,
    WithArguments,
    hook_count,
    images,
    state,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.metrics.arcc import ARCC
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.road import ROADCombined, ROADMostRelevantFirst
from pytorch_grad_cam.utils.image import scale_cam_image, show_cam_on_image
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    RawScoresOutputTarget,
    SemanticSegmentationTarget,
)
from torch import Tensor, nn

from captum_excon import (
    RISE,
    AdaptiveHybridCAM,
    IntegratedGradCAM,
    MultiLayerSISE,
    ScoreCAM,
)
from captum_excon.grad_cam import CaptumCam, GradCamAttribution

OURS: dict[str, Any] = {
    "IntegratedGradCAM": (IntegratedGradCAM, {"n_steps": 3}),
    "AdaptiveHybridCAM": (AdaptiveHybridCAM, {}),
    "MultiLayerSISE": (MultiLayerSISE, {}),
    "ScoreCAM": (ScoreCAM, {}),
    "RISE": (RISE, {"n_masks": 20}),
}


@pytest.fixture
def model() -> nn.Module:
    return ConvNet()


def classes(*indices: int) -> list[ClassifierOutputTarget]:
    return [ClassifierOutputTarget(i) for i in indices]


def scaled(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """grad-cam's own post-processing."""
    rectified = np.maximum(maps.detach().sum(1).numpy(), 0)
    return scale_cam_image(scale_cam_image(rectified, size[::-1]))


@pytest.mark.parametrize("name", OURS)
def test_our_methods_give_scaled_maps_of_the_class_asked_for(name: str, model: nn.Module) -> None:
    method, options = OURS[name]
    x = images(3, 1, 16, 12)
    maps = CaptumCam(method(model), **options)(input_tensor=x, targets=classes(0, 2, 1))
    assert isinstance(maps, np.ndarray)
    assert (maps.dtype, maps.shape) == (np.float32, (3, 16, 12))
    assert maps.min() == 0
    assert (maps.max((1, 2)) == 1).all()
    attribution = method(model).attribute(x, target=[0, 2, 1], **options)
    np.testing.assert_allclose(maps, scaled(attribution, (16, 12)), atol=2e-5)


@pytest.mark.parametrize("layers", [["body"], ["stem", "body"]])
def test_it_agrees_with_grad_cam_on_grad_cams_own_method(
    layers: list[str], model: nn.Module
) -> None:
    x = images(3, 1, 16, 12)
    attribution = GradCamAttribution(GradCAM, model, layers)
    found = CaptumCam(attribution)(x, classes(0, 2, 1))
    with GradCAM(model, [model.get_submodule(layer) for layer in layers]) as cam:
        expected = cam(x, classes(0, 2, 1))
    # Where grad-cam divides by a small maximum, the 1e-7 that it adds shows.
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_map_is_summed_over_channels_rectified_and_scaled() -> None:
    """Inputs times gradients of a linear model, whose weights are known."""
    linear = nn.Linear(8, 1, bias=False)
    linear.weight.data = torch.tensor([[1.0, 0, 2, -5, 1, 1, 2, 2]])
    network = nn.Sequential(nn.Flatten(), linear)
    x = torch.ones(1, 2, 2, 2)
    maps = CaptumCam(InputXGradient(network))(x, classes(0))
    assert maps.tolist() == [[[0.5, 0.25], [1.0, 0.0]]]


def test_a_constant_map_becomes_zero_and_a_tiny_one_reaches_one() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False)).double()
    cam = CaptumCam(InputXGradient(network))
    network[1].weight.data.fill_(3.0)
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    assert not cam(x, classes(0)).any()
    network[1].weight.data.copy_(1e-60 * torch.tensor([[1.0, 2, 3, 0]], dtype=torch.float64))
    np.testing.assert_allclose(cam(x, classes(0)), [[[1 / 3, 2 / 3], [1, 0]]], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=4, max_size=4),
    factor=st.sampled_from([0.5, 4.0, 1024.0]),
)
def test_maps_lie_in_the_unit_interval_whatever_their_scale(
    values: list[float], factor: float
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False)).double()
    cam = CaptumCam(InputXGradient(network))
    weight = network[1].weight.data.copy_(torch.tensor([values]))
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    maps = cam(x, classes(0))
    assert maps.min() == 0
    assert maps.max() in (0, 1)
    weight *= factor
    np.testing.assert_allclose(cam(x, classes(0)), maps, atol=1e-6)


def test_without_targets_the_predicted_classes_are_explained(model: nn.Module) -> None:
    x = 4 * images(4, 1, 16, 12)
    model.head.bias.data[:] = -model.head(model.features(x).tanh().mean((2, 3))).mean(0)
    predicted = model(x).argmax(1).tolist()
    assert len(set(predicted)) > 1
    cam = CaptumCam(IntegratedGradCAM(model, "body"), n_steps=3)
    np.testing.assert_array_equal(cam(x), cam(x, classes(*predicted)))
    np.testing.assert_array_equal(cam(input_tensor=x, targets=None), cam(x))


@pytest.mark.parametrize("column", [False, True])
def test_without_targets_one_number_a_row_is_explained(column: bool) -> None:
    class Column(Scalar):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, None] if column else super().forward(x)

    x = images(2, 1, 16, 12)
    found = CaptumCam(LayerGradCam(model := Column(), model.body))(x)
    full = ConvNet()
    np.testing.assert_array_equal(found, CaptumCam(LayerGradCam(full, full.body))(x, classes(0, 0)))


@pytest.mark.parametrize("name", OURS)
def test_callables_score_the_output_of_their_image(name: str, model: nn.Module) -> None:
    method, options = OURS[name]
    x = images(2, 1, 16, 12)
    targets = [lambda output: 2 * output[1], ClassifierOutputTarget(2)]
    found = CaptumCam(method(model), **options)(x, targets)

    class Chosen(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            return torch.stack([2 * output[:, 1], output[:, 2]], 1)

    if name != "IntegratedGradCAM":
        options = {**options, "score": "identity"}
    expected = method(Chosen()).attribute(x, target=[0, 1], **options)
    np.testing.assert_allclose(found, scaled(expected, (16, 12)), atol=2e-5)


def test_grad_cams_softmax_target_is_the_probability(model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    targets = [ClassifierOutputSoftmaxTarget(c) for c in (1, 2)]
    found = CaptumCam(IntegratedGradients(model), n_steps=4)(x, targets)
    with_softmax = IntegratedGradients(lambda i: model(i).softmax(1))
    expected = with_softmax.attribute(x, target=[1, 2], n_steps=4)
    np.testing.assert_allclose(found, scaled(expected, (16, 12)), atol=2e-5)


def test_segmentation_targets_are_taken_as_they_are() -> None:
    model = Dense()
    masks = np.zeros((2, 8, 6), dtype=np.float32)
    masks[0, :4], masks[1, 4:] = 1, 1
    targets = [SemanticSegmentationTarget(1, mask) for mask in masks]
    x = images(2, 1, 16, 12)
    with GradCAM(model, [model.body]) as theirs:
        expected = theirs(x, targets)
    for attribution in (
        LayerGradCam(model, model.body),
        GradCamAttribution(GradCAM, model, model.body),
    ):
        np.testing.assert_allclose(CaptumCam(attribution)(x, targets), expected, atol=2e-5)


# Captum says so of its own hooks.
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("wrap", ["noise tunnel", "guided"])
def test_callables_reach_the_attributions_that_another_is_made_of(
    wrap: str, model: nn.Module
) -> None:
    x = images(2, 1, 16, 12)
    targets = [lambda output: output[1], lambda output: output[2]]
    options: dict[str, Any] = {}
    attribution: Any = GuidedGradCam(model, model.body)
    if wrap == "noise tunnel":
        attribution, options = NoiseTunnel(ScoreCAM(model)), {"stdevs": 0.0, "nt_samples": 2}
    found = CaptumCam(attribution, **options)(x, targets)
    expected = CaptumCam(attribution, **options)(x, classes(1, 2))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert attribution.forward_func is model
    assert hook_count(model) == 0


def test_arguments_of_the_model_are_options() -> None:
    model = WithArguments()
    x = images(2, 1, 16, 12)
    # The second class wins by its bias, in the prediction and in the attribution alike.
    bias = torch.tensor([[0.0, 1000, 0], [0, 0, 1000]])
    attribution = IntegratedGradCAM(model, "body")
    cam = CaptumCam(attribution, n_steps=3, additional_forward_args=(bias, 1.0))
    np.testing.assert_array_equal(cam(x), cam(x, classes(1, 2)))
    callables = [lambda output: output[1], lambda output: output[2]]
    np.testing.assert_allclose(cam(x, callables), cam(x, classes(1, 2)), atol=2e-5)


def test_the_maps_go_into_grad_cams_pictures(model: nn.Module) -> None:
    x = images(1, 1, 16, 12)
    photograph = np.random.default_rng(0).random((16, 12, 3), dtype=np.float32)
    with CaptumCam(AdaptiveHybridCAM(model)) as cam:
        grayscale = cam(input_tensor=x, targets=classes(1))
    picture = show_cam_on_image(photograph, grayscale[0], use_rgb=True)
    assert (picture.shape, picture.dtype) == ((16, 12, 3), np.uint8)
    hottest, coldest = (
        np.unravel_index(at, (16, 12)) for at in (grayscale[0].argmax(), grayscale[0].argmin())
    )
    red, _, blue = np.moveaxis(
        show_cam_on_image(np.zeros((16, 12, 3)), grayscale[0], use_rgb=True), -1, 0
    ).astype(int)
    assert red[hottest] > blue[hottest]
    assert red[coldest] < blue[coldest]


# Its imputer hands torch tensors to numpy's argwhere.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context")
@pytest.mark.parametrize(
    "metric",
    [DropInConfidence(), IncreaseInConfidence(), ROADMostRelevantFirst(75), ROADCombined([30, 60])],
    ids=lambda metric: type(metric).__name__,
)
def test_grad_cams_metrics_take_the_maps(metric: Any, model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    targets = [ClassifierOutputSoftmaxTarget(c) for c in (1, 2)]
    maps = CaptumCam(AdaptiveHybridCAM(model))(x, targets)
    scores = metric(x, maps, targets, model)
    assert np.shape(scores) == (2,)
    assert np.isfinite(scores).all()
    if isinstance(metric, DropInConfidence):
        with torch.no_grad():
            before, after = (
                model(i).softmax(1)[[0, 1], [1, 2]].numpy()
                for i in (x, x * torch.from_numpy(maps)[:, None])
            )
        np.testing.assert_allclose(scores, np.maximum(before - after, 0), atol=1e-6)


def test_grad_cams_metrics_call_it_in_the_place_of_a_cam(model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    cam = CaptumCam(ScoreCAM(model))
    targets = classes(1, 2)
    metric = ARCC(cam, road_percentiles=[30, 60])
    maps = cam(x, targets)
    assert metric.coherency(x, maps, targets, model, cam).shape == (2,)
    same = metric.coherency(x, maps, targets, model, lambda **_: maps)
    np.testing.assert_allclose(same, 1, atol=1e-6)


def test_the_model_is_left_alone_and_errors_are_not_swallowed() -> None:
    model = Normalised()
    model.body[0].weight.grad = torch.ones_like(model.body[0].weight)
    x = images(2, 1, 16, 12)
    before = state(model)
    for targets in (None, classes(0, 1), [lambda o: o[0], lambda o: o[1]]):
        for attribution in (AdaptiveHybridCAM(model), InputXGradient(model)):
            with CaptumCam(attribution) as cam:
                cam(x, targets)
            assert state(model) == before
            assert not x.requires_grad
    with pytest.raises(IndexError), CaptumCam(IntegratedGradCAM(model), n_steps=2) as cam:
        cam(x, [lambda o: o[7], lambda o: o[0]])
    assert state(model) == before


def test_a_prediction_leaves_no_trace_in_a_model_that_trains() -> None:
    model = Normalised().train()
    cam = CaptumCam(Occlusion(model), sliding_window_shapes=(1, 16, 12))
    before = state(model)["tensors"]
    with pytest.warns(UserWarning, match="training mode"):
        cam._predicted(images(2, 1, 16, 12))
    assert state(model)["tensors"] == before


def test_an_empty_batch_gives_no_maps(model: nn.Module) -> None:
    maps = CaptumCam(IntegratedGradCAM(model), n_steps=2)(torch.zeros(0, 1, 16, 12), [])
    assert (maps.shape, maps.dtype) == ((0, 16, 12), np.float32)


def test_half_precision_gives_float32(model: nn.Module) -> None:
    cam = CaptumCam(IntegratedGradCAM(model.bfloat16()), n_steps=2)
    maps = cam(images(1, 1, 16, 12, dtype=torch.bfloat16))
    assert maps.dtype == np.float32
    assert maps.max() == 1


@pytest.mark.parametrize("option", ["aug_smooth", "eigen_smooth"])
def test_smoothing_is_refused_with_an_alternative(option: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match="NoiseTunnel"):
        CaptumCam(ScoreCAM(model))(images(1, 1, 8, 8), **{option: True})


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([ClassifierOutputTarget(0)], ValueError, "one for each image, but there are 1 for 2"),
        ([3, 4], TypeError, r"targets\[0\] is 3, which cannot be called"),
        ([RawScoresOutputTarget()] * 2, ValueError, "expected a scalar"),
        (classes(0, 9), Exception, "9|out of"),
    ],
)
def test_wrong_targets_are_named(
    targets: Any, error: type[Exception], message: str, model: nn.Module
) -> None:
    with pytest.raises(error, match=message):
        CaptumCam(ScoreCAM(model))(images(2, 1, 8, 8), targets)


def test_wrong_uses_are_named(model: nn.Module) -> None:
    x = images(1, 1, 16, 12)
    with pytest.raises(TypeError, match="must be a Captum attribution, not ConvNet"):
        CaptumCam(model)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no predicted class"):
        CaptumCam(ScoreCAM(Dense()))(x)
    with pytest.raises(ValueError, match="no meaning for callable targets"):
        CaptumCam(RISE(model), score="softmax")(x, [torch.max])
    delta = CaptumCam(IntegratedGradients(model), return_convergence_delta=True)
    with pytest.raises(TypeError, match=r"must return maps .* but returned tuple"):
        delta(x)
