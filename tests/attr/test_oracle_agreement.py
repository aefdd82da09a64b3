"""The methods against the slow second implementations of `oracles`, and against grad-cam."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import oracles
from helpers.toys import (
    LAYERS,
    SIZES,
    BareConvNet,
    ConvNet,
    Dense,
    TokenNet,
    ToyCase,
    demo_model,
    images,
    photographs,
    tokens_to_map,
    toy_cases,
)
from torch import Tensor, nn

from captum_excon.attr import RISE, AdaptiveHybridCAM, IntegratedGradCAM, MultiLayerSISE, ScoreCAM

DEMO_LAYERS = ["_blocks.0", "_blocks.2", "_blocks.4", "_blocks.10", "_conv_head"]


def power(outputs: Tensor) -> Tensor:
    """A score of the user's own."""
    return outputs.softmax(1) ** 2


def assert_agrees(
    attribution: Tensor, expected: Tensor, *, rtol: float = 1e-4, atol: float = 1e-5
) -> None:
    """The whole contract for a toy network: the same numbers in every channel."""
    for channel in attribution:
        torch.testing.assert_close(channel.double(), expected, rtol=rtol, atol=atol)


def assert_same_picture(attribution: Tensor, expected: Tensor) -> None:
    """The contract for a trained network in float32."""
    assert oracles.correlation(attribution, expected) >= 0.999
    assert oracles.support_iou(attribution, expected) >= 0.98


@toy_cases(seeds=6)
@pytest.mark.filterwarnings("ignore:.*positive gradient.*:UserWarning")
def test_sise_and_ada_sise_on_networks_of_one_to_three_dimensions(case: ToyCase) -> None:
    model, inputs, targets = case.build()
    for cls, oracle in [(MultiLayerSISE, oracles.sise), (AdaptiveHybridCAM, oracles.ada_sise)]:
        attribution, layer_maps = cls(model, LAYERS).attribute(
            inputs, target=targets, return_layer_maps=True
        )
        assert attribution.shape == inputs.shape
        for i, target in enumerate(targets):
            fused, maps, _ = oracle(model, inputs[i], target, LAYERS)
            assert_agrees(attribution[i], fused)
            for layer_map, expected in zip(layer_maps, maps, strict=True):
                expected = torch.zeros_like(fused) if expected is None else expected
                assert_agrees(layer_map[i], expected)


OPTIONS: dict[str, dict[str, Any]] = {
    "signed maps": {"rectify": False},
    "threshold 0.3": {"threshold": 0.3},
    "threshold 0.75": {"threshold": 0.75},
    "sigmoid": {"score": "sigmoid"},
    "identity": {"score": "identity"},
    "callable score": {"score": power},
    "soft_otsu": {"fusion": "soft_otsu"},
    "sum": {"fusion": "sum"},
    "gated": {"fusion": "gated"},
    "product": {"fusion": "product"},
    "hybrid": {"hybrid": True},
    "smooth": {"smooth": 0.6},
    "all of ours": {"fusion": "gated", "hybrid": True, "smooth": 0.25},
    "baseline number": {"baseline": 0.7},
    "sigmoid, signed, soft, threshold": {
        "score": "sigmoid",
        "rectify": False,
        "fusion": "soft_otsu",
        "threshold": 0.2,
        "baseline": -1.0,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.filterwarnings("ignore:.*positive gradient.*:UserWarning")
def test_sise_options_on_a_colour_image(name: str) -> None:
    options = dict(OPTIONS[name])
    baseline = options.pop("baseline", 0.0)
    model = ConvNet(in_channels=3, signed=True, seed=2)
    inputs = images(3, 3, 18, 14, seed=4)
    attribution = MultiLayerSISE(model, LAYERS).attribute(
        inputs, baseline, target=[0, 1, 2], **options
    )
    for i in range(3):
        fused, _, _ = oracles.sise(model, inputs[i], i, LAYERS, baseline=baseline, **options)
        assert_agrees(attribution[i], fused)


def test_sise_with_an_image_as_baseline() -> None:
    model = ConvNet(in_channels=2, seed=3)
    inputs, baselines = images(2, 2, 12, 15, seed=5), images(2, 2, 12, 15, seed=6)
    attribution = MultiLayerSISE(model, LAYERS).attribute(inputs, baselines, target=1)
    shared = MultiLayerSISE(model, LAYERS).attribute(inputs, baselines[:1], target=1)
    for i in range(2):
        expected, _, _ = oracles.sise(model, inputs[i], 1, LAYERS, baseline=baselines[i])
        assert_agrees(attribution[i], expected)
        expected, _, _ = oracles.sise(model, inputs[i], 1, LAYERS, baseline=baselines[0])
        assert_agrees(shared[i], expected)


def test_sise_in_float64_equals_the_oracle_to_twelve_digits() -> None:
    model = ConvNet(in_channels=3, seed=1).double()
    inputs = images(2, 3, 17, 13, dtype=torch.float64)
    attribution = MultiLayerSISE(model, LAYERS).attribute(inputs, target=1)
    for i in range(2):
        fused, _, _ = oracles.sise(model, inputs[i], 1, LAYERS)
        assert_agrees(attribution[i], fused, rtol=0, atol=1e-12)


@pytest.mark.parametrize("inplace", [False, True])
def test_maps_are_the_layers_outputs_whatever_happens_to_them_in_place(inplace: bool) -> None:
    # conv1 is rectified in place right after, so that a hook that keeps the tensor sees relu(conv1)
    model = BareConvNet(inplace)
    inputs = images(2, 1, 12, 12)
    sise = MultiLayerSISE(model, ["conv1", "conv2"])
    attribution = sise.attribute(inputs, target=1, rectify=False)
    cams = IntegratedGradCAM(model, ["conv1", "conv2"]).attribute(inputs, target=1, n_steps=3)
    score_cam = ScoreCAM(model, "conv1").attribute(inputs, target=1)
    plain = BareConvNet(inplace=False)
    for i in range(2):
        expected, _, _ = oracles.sise(plain, inputs[i], 1, ["conv1", "conv2"], rectify=False)
        assert_agrees(attribution[i], expected)
        expected_cams = oracles.igcam(plain, inputs[i], 1, ["conv1", "conv2"], n_steps=3)
        for cam, expected_cam in zip(cams, expected_cams, strict=True):
            assert_agrees(cam[i], expected_cam)
        expected_map = oracles.score_cam(plain, inputs[i], 1, "conv1", align_corners=True)
        assert_agrees(score_cam[i], expected_map)


def test_the_last_call_of_a_module_that_is_used_twice_counts() -> None:
    model, inputs = BareConvNet(), images(2, 1, 12, 12)
    cam = IntegratedGradCAM(model, "relu").attribute(inputs, target=2, n_steps=4)
    assert cam.shape == (2, 1, 6, 6)
    attribution = MultiLayerSISE(model, ["relu"]).attribute(inputs, target=2)
    plain = BareConvNet(inplace=False)
    for i in range(2):
        assert_agrees(cam[i], oracles.igcam(plain, inputs[i], 2, ["relu"], n_steps=4)[0])
        assert_agrees(attribution[i], oracles.sise(plain, inputs[i], 2, ["relu"])[0])


def test_dense_outputs_with_tuple_targets() -> None:
    model, inputs = Dense(seed=2), images(2, 1, 12, 10)
    targets = [(0, 2, 3), (2, 5, 1)]
    attribution = MultiLayerSISE(model, LAYERS).attribute(inputs, target=targets)
    cam = IntegratedGradCAM(model, "body").attribute(inputs, target=targets, n_steps=3)
    for i, target in enumerate(targets):
        assert_agrees(attribution[i], oracles.sise(model, inputs[i], target, LAYERS)[0])
        assert_agrees(cam[i], oracles.igcam(model, inputs[i], target, ["body"], n_steps=3)[0])


def test_token_layers_with_a_reshape_transform() -> None:
    model, inputs, reshape = TokenNet(), images(2, 1, 16, 24), tokens_to_map(4, 6)
    attribution = MultiLayerSISE(model, ["mixer"], reshape_transform=reshape).attribute(
        inputs, target=0
    )
    cam = IntegratedGradCAM(model, "mixer", reshape_transform=reshape).attribute(
        inputs, target=0, n_steps=3
    )
    score_cam = ScoreCAM(model, "mixer", reshape_transform=reshape).attribute(inputs, target=0)
    assert cam.shape == (2, 1, 4, 6)
    for i in range(2):
        expected, _, _ = oracles.sise(model, inputs[i], 0, ["mixer"], reshape=reshape)
        assert_agrees(attribution[i], expected)
        [expected_cam] = oracles.igcam(model, inputs[i], 0, ["mixer"], n_steps=3, reshape=reshape)
        assert_agrees(cam[i], expected_cam)
        expected_map = oracles.score_cam(
            model, inputs[i], 0, "mixer", align_corners=True, reshape=reshape
        )
        assert_agrees(score_cam[i], oracles.resize(expected_map, (16, 24)))


@pytest.mark.parametrize("subtract_baseline", [True, False])
@pytest.mark.parametrize("relu", [True, False], ids=["relu", "signed"])
@pytest.mark.parametrize(
    "method",
    ["riemann_right", "riemann_left", "riemann_middle", "riemann_trapezoid", "gausslegendre"],
)
def test_integrated_grad_cam_options(method: str, relu: bool, subtract_baseline: bool) -> None:
    model = ConvNet(in_channels=3, signed=True, seed=1)
    inputs, baselines = images(2, 3, 12, 10, seed=2), images(2, 3, 12, 10, seed=3)
    maps = IntegratedGradCAM(model, LAYERS).attribute(
        inputs,
        baselines,
        target=[2, 0],
        n_steps=7,
        method=method,
        relu_attributions=relu,
        subtract_baseline=subtract_baseline,
    )
    assert [map_.shape for map_ in maps] == [(2, 1, 12, 10), (2, 1, 6, 5)]
    for i, target in enumerate([2, 0]):
        expected = oracles.igcam(
            model,
            inputs[i],
            target,
            LAYERS,
            baseline=baselines[i],
            n_steps=7,
            method=method,
            relu=relu,
            subtract_baseline=subtract_baseline,
        )
        for map_, expected_map in zip(maps, expected, strict=True):
            assert_agrees(map_[i], expected_map)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_integrated_grad_cam_in_one_to_three_dimensions_and_float64(dims: int) -> None:
    model = ConvNet(dims, seed=dims).double()
    inputs = images(2, 1, *SIZES[dims], dtype=torch.float64)
    maps = IntegratedGradCAM(model, "body").attribute(inputs, target=1)
    for i in range(2):
        [expected] = oracles.igcam(model, inputs[i], 1, ["body"])
        # Captum rounds the nodes to float32
        assert_agrees(maps[i], expected, rtol=1e-6, atol=1e-9)


def test_integrated_grad_cam_without_channel_summation_keeps_the_channels() -> None:
    model, inputs = ConvNet(seed=1), images(2, 1, 12, 10)
    cam = IntegratedGradCAM(model, "body")
    options = {"target": 1, "n_steps": 5, "relu_attributions": False}
    channels = cam.attribute(inputs, attr_dim_summation=False, **options)
    assert channels.shape == (2, 7, 6, 5)
    torch.testing.assert_close(channels.sum(1, keepdim=True), cam.attribute(inputs, **options))
    rectified = cam.attribute(inputs, target=1, n_steps=5, attr_dim_summation=False)
    assert (rectified >= channels - 1e-6).all()
    assert (rectified >= 0).all()


def recorded_masks(size: tuple[int, ...], **options: Any) -> Tensor:
    """The masks that RISE uses: a white image on a black baseline shows them to the model."""
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x.flatten(1).sum(1, keepdim=True)

    RISE(model).attribute(torch.ones(1, 1, *size), target=0, score="identity", **options)
    return torch.cat(seen)[:, 0]


@pytest.mark.parametrize(("probability", "score"), [(0.5, "softmax"), (0.3, "identity")])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_rise_with_the_masks_that_it_drew(dims: int, probability: float, score: str) -> None:
    model, inputs = ConvNet(dims, in_channels=2, seed=1), images(2, 2, *SIZES[dims])

    def options() -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3)
        return {"n_masks": 40, "grid": 4, "probability": probability, "generator": generator}

    masks = recorded_masks(SIZES[dims], **options())
    assert masks.shape == (40, *SIZES[dims])
    attribution = RISE(model).attribute(inputs, 0.2, target=[0, 2], score=score, **options())
    for i, target in enumerate([0, 2]):
        expected = oracles.rise(model, inputs[i], target, masks, baseline=0.2, score=score)
        assert_agrees(attribution[i], expected / probability)


def test_rise_masks_have_the_statistics_of_shifted_grids() -> None:
    # Linear up-sampling of cells that are on with probability p: mean p everywhere, values in
    # [0, 1]; in the middle of a cell the variance is p (1 - p), between cells less.
    masks = recorded_masks((30, 42), n_masks=3000, grid=6, probability=0.3)
    assert masks.min() == 0
    assert masks.max() == pytest.approx(1, abs=1e-6)
    standard_error = math.sqrt(0.3 * 0.7 / 3000)
    assert (masks.mean(0) - 0.3).abs().max() < 5 * standard_error
    assert 0.3 * 0.7 / 4 < masks.var() < 0.3 * 0.7
    # Without random shifts the variance would be p (1 - p) in the middle of a cell and a quarter of
    # it where four cells meet. At the image's border up-sampling repeats the outer cells.
    variances = masks.var(0)[6:-6, 8:-8]
    assert variances.max() < 1.6 * variances.min()
    # pixels a cell or more apart are independent, neighbours are not
    far = torch.corrcoef(masks[:, 10, [5, 30]].T)[0, 1]
    near = torch.corrcoef(masks[:, 10, [5, 6]].T)[0, 1]
    assert abs(far) < 0.1
    assert near > 0.9


@pytest.mark.parametrize("signed", [False, True], ids=["relu", "signed"])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:ScoreCAM:UserWarning")
def test_score_cam_in_one_to_three_dimensions(dims: int, signed: bool) -> None:
    model = ConvNet(dims, signed=signed, seed=dims)
    inputs = images(2, 1, *SIZES[dims])
    for layer in LAYERS:
        for align_corners in (True, False):
            attribution = ScoreCAM(model, layer).attribute(
                inputs, 0.3, target=[1, 2], align_corners=align_corners
            )
            for i, target in enumerate([1, 2]):
                small = oracles.score_cam(
                    model, inputs[i], target, layer, baseline=0.3, align_corners=align_corners
                )
                assert_agrees(attribution[i], oracles.resize(small, SIZES[dims]))


@pytest.mark.parametrize("seed", range(3))
def test_score_cam_equals_grad_cams_up_to_its_scaling(seed: int) -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, inputs = ConvNet(in_channels=3, seed=seed), images(2, 3, 16, 16, seed=seed)
    with grad_cam.ScoreCAM(model=model, target_layers=[model.body]) as peer:
        expected = torch.from_numpy(peer(inputs, [ClassifierOutputTarget(c) for c in (0, 2)]))
    attribution = ScoreCAM(model, model.body).attribute(inputs, target=[0, 2])
    for i in range(2):
        # grad-cam scales to [0, 1] before and after it up-samples
        torch.testing.assert_close(
            oracles.min_max(attribution[i, 0]), expected[i], rtol=0, atol=1e-4
        )


@pytest.fixture(scope="module")
def demo() -> nn.Module:
    return demo_model()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "oracle", "names", "size"),
    [
        (MultiLayerSISE, oracles.sise, ("chelsea", "rocket"), 96),
        # not "rocket": a gradient is within 2e-5 of the Otsu threshold, less than float32 resolves
        (AdaptiveHybridCAM, oracles.ada_sise, ("astronaut", "coffee"), 128),
        (AdaptiveHybridCAM, oracles.ada_sise, ("chelsea",), 224),
    ],
)
def test_sise_and_ada_sise_of_a_trained_network_on_photographs(
    demo: nn.Module, cls: type, oracle: Callable[..., Any], names: tuple[str, ...], size: int
) -> None:
    inputs = photographs(*names, size=size)
    with torch.no_grad():
        targets = demo(inputs).argmax(1).tolist()
    attribution, layer_maps = cls(demo, DEMO_LAYERS).attribute(
        inputs, target=targets, return_layer_maps=True
    )
    for i, target in enumerate(targets):
        fused, maps, _ = oracle(demo, inputs[i], target, DEMO_LAYERS, rows=16)
        assert_same_picture(attribution[i, 0], fused)
        for layer_map, expected in zip(layer_maps, maps, strict=True):
            assert oracles.correlation(layer_map[i, 0], expected) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("method", ["riemann_right", "gausslegendre"])
def test_integrated_grad_cam_of_a_trained_network_on_photographs(
    demo: nn.Module, method: str
) -> None:
    inputs = photographs("chelsea", "astronaut", size=160)
    with torch.no_grad():
        targets = demo(inputs).argmax(1).tolist()
    layers = ["_blocks.10", "_conv_head"]
    maps = IntegratedGradCAM(demo, layers).attribute(
        inputs, baselines=-127 / 128, target=targets, n_steps=4, method=method
    )
    for i, target in enumerate(targets):
        expected = oracles.igcam(
            demo, inputs[i], target, layers, baseline=-127 / 128, n_steps=4, method=method
        )
        for map_, expected_map in zip(maps, expected, strict=True):
            assert_same_picture(map_[i, 0], expected_map)


@pytest.mark.slow
def test_score_cam_of_a_trained_network_equals_grad_cams(demo: nn.Module) -> None:
    grad_cam = pytest.importorskip("pytorch_grad_cam", reason="needs grad-cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    inputs = photographs("coffee", size=128)
    with torch.no_grad():
        target = int(demo(inputs).argmax(1))
    layer = demo.get_submodule("_blocks.10")
    with grad_cam.ScoreCAM(model=demo, target_layers=[layer]) as peer:
        expected = torch.from_numpy(peer(inputs, [ClassifierOutputTarget(target)]))
    attribution = ScoreCAM(demo, layer).attribute(inputs, target=target)
    assert oracles.correlation(attribution[0, 0], expected[0]) >= 0.999
