"""Every CAM class of pytorch-grad-cam as a Captum attribution."""

import copy
import gc
import inspect
import threading
from typing import Any

import cv2
import numpy as np
import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import LayerGradCam, NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from helpers.toys import (
    BareConvNet,
    ConvNet,
    Dense,
    Normalised,
    Scalar,
    TokenNet,
    WithArguments,
    hook_count,
    images,
    seeded,
    state,
    tokens_to_map,
)
from pytorch_grad_cam import (
    KPCA_CAM,
    AblationCAM,
    EigenCAM,
    FinerCAM,
    FullGrad,
    GradCAM,
    HiResCAM,
    LayerCAM,
    RandomCAM,
    RefineCAM,
    ShapleyCAM,
)
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from captum_excon import ScoreCAM as OwnScoreCAM
from captum_excon import SelectedLayer, callable_targets, select_layers
from captum_excon.grad_cam import GradCamAttribution
from captum_excon.grad_cam._model import ObservedModel

ALL = {
    name: cam
    for name, cam in vars(pytorch_grad_cam).items()
    if inspect.isclass(cam)
    and (issubclass(cam, BaseCAM) or "base_method" in inspect.signature(cam).parameters)
}
META = {"RefineCAM", "SESS"} & ALL.keys()  # without a map before the scaled one
RAW = sorted(ALL.keys() - META)
# The sign of a principal component is decided by rounding.
UNSIGNED = {"EigenCAM", "EigenGradCAM"}


def build(name: str, model: nn.Module, **options: Any) -> GradCamAttribution:
    layers = None if name == "FullGrad" else getattr(model, "body", None)
    return GradCamAttribution(ALL[name], model, layers, **options)


def direct(name: str, model: nn.Module, layers: list[str], x: Tensor, classes: list[int]) -> Any:
    """What grad-cam's user gets, on a model of its own."""
    model = copy.deepcopy(model)
    cam = ALL[name](model, [model.get_submodule(layer) for layer in layers])
    if name == "FinerCAM":
        rows = zip(x.split(1), classes, strict=True)
        return np.concatenate([cam(row, target_idx=c) for row, c in rows])
    return cam(x, targets=[ClassifierOutputTarget(c) for c in classes])


@pytest.fixture
def model() -> nn.Module:
    return ConvNet()


def test_all_classes_that_are_known_are_here() -> None:
    assert {"GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "GradCAMElementWise", "LayerCAM",
            "EigenCAM", "EigenGradCAM", "KPCA_CAM", "FEM", "ShapleyCAM", "ScoreCAM", "AblationCAM",
            "RandomCAM", "FinerCAM", "FullGrad"} <= ALL.keys()  # fmt: skip


def test_the_raw_grad_cam_is_the_signed_weighted_sum() -> None:
    """The maps are x and 2 x; the weights are the means of their gradients, -3 / 4 and 1 / 4."""
    conv = nn.Conv2d(1, 2, 1, bias=False)
    head = nn.Linear(8, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    head.weight.data = torch.tensor([[-3.0, 0, 0, 0, 0, 1, 0, 0]])
    x = torch.tensor([[[[4.0, 0.0], [-8.0, 12.0]]]])
    cam = GradCamAttribution(GradCAM, nn.Sequential(conv, nn.Flatten(), head), conv)
    assert cam.attribute(x, target=0).tolist() == [[[[-1, 0], [2, -3]]]]
    assert cam.attribute(x, target=0, output="scaled")[0, 0].numpy() == pytest.approx(
        np.array([[0, 0], [1, 0]]), abs=1e-6
    )


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"RandomCAM", "FullGrad"}))
def test_the_scaled_map_is_that_of_a_direct_call(name: str, model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    found = build(name, model).attribute(x, target=[2, 0], output="scaled")
    expected = direct(name, model, ["body"], x, [2, 0])
    assert found.shape == x.shape
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=2e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_full_grad_is_that_of_a_direct_call(model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    expected = direct("FullGrad", model, [], x, [2, 0])
    scaled = build("FullGrad", model).attribute(x, target=[2, 0], output="scaled")
    np.testing.assert_allclose(scaled[:, 0].numpy(), expected, atol=2e-5)
    raw = build("FullGrad", model).attribute(x, target=[2, 0])
    assert raw.shape == x.shape
    np.testing.assert_allclose(scale_cam_image(raw[:, 0].numpy()), expected, atol=2e-5)
    assert raw.max() > 1


@pytest.mark.parametrize("name", sorted(set(RAW) - {"FullGrad"}))
def test_the_scaled_map_is_made_from_the_raw_one(name: str, model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    cam = build(name, model)
    raw = cam.attribute(x, target=[2, 0])
    assert raw.shape == (2, 1, 8, 6)
    scaled = cam.attribute(x, target=[2, 0], output="scaled")[:, 0].numpy()
    rectified = np.maximum(raw[:, 0].numpy(), 0)
    expected = scale_cam_image(scale_cam_image(rectified, (12, 16)))
    np.testing.assert_allclose(scaled, expected, atol=2e-5)


@pytest.mark.parametrize("name", ["GradCAM", "EigenGradCAM", "HiResCAM", "XGradCAM", "ShapleyCAM"])
def test_a_raw_map_keeps_its_sign(name: str, model: nn.Module) -> None:
    raw = build(name, model).attribute(images(2, 1, 16, 12), target=1)
    assert raw.min() < 0 < raw.max()


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("output", ["layer", "input"])
def test_the_result_is_as_captum_gives_it(name: str, output: Any, model: nn.Module) -> None:
    cam = build(name, model.double())
    x = images(2, 1, 16, 12, dtype=torch.float64)
    maps = cam.attribute(x, target=1, output=output)
    assert maps.dtype == torch.float64
    assert maps.is_contiguous()
    assert not maps.requires_grad
    assert maps.isfinite().all()
    (only,) = cam.attribute((x,), target=1, output=output)
    torch.testing.assert_close(only, maps)


def test_at_the_input_size_the_map_has_the_shape_of_the_inputs() -> None:
    model = ConvNet(in_channels=3)
    cam = GradCamAttribution(LayerCAM, model, model.body)
    x = images(2, 3, 15, 12)
    raw, large = (cam.attribute(x, target=0, output=o) for o in ("layer", "input"))
    assert large.shape == x.shape
    for i in range(2):
        expected = cv2.resize(raw[i, 0].numpy(), (12, 15))
        for channel in large[i]:
            np.testing.assert_allclose(channel.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", sorted(ALL.keys() - UNSIGNED - {"RandomCAM"}))
def test_a_batch_equals_its_images(name: str, model: nn.Module) -> None:
    x, classes = images(3, 1, 16, 12), [2, 0, 1]
    cam = build(name, model)
    output = "scaled" if name in META else "layer"
    batch = cam.attribute(x, target=classes, output=output)
    alone = [
        cam.attribute(row, target=c, output=output)
        for row, c in zip(x.split(1), classes, strict=True)
    ]
    torch.testing.assert_close(batch, torch.cat(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_empty_batch_gives_an_empty_result(name: str, model: nn.Module) -> None:
    output = "scaled" if name in META else "layer"
    maps = build(name, model).attribute(torch.zeros(0, 1, 16, 12), target=[], output=output)
    full = build(name, model).attribute(images(1, 1, 16, 12), target=0, output=output)
    assert maps.shape == (0, *full.shape[1:])


def test_arguments_of_an_empty_batch_are_as_empty() -> None:
    cam = GradCamAttribution(GradCAM, WithArguments(), "body")
    empty = (torch.zeros(0, 3), 2.0)
    found = cam.attribute(torch.zeros(0, 1, 16, 12), 0, additional_forward_args=empty)
    assert found.shape == (0, 1, 8, 6)


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_model_and_the_process_are_left_alone(name: str) -> None:
    model = Normalised().train()
    model.head.weight.requires_grad_(False)
    model.stem[0].bias.grad = torch.ones(5)
    x = images(2, 1, 16, 12)
    inputs = x.clone().requires_grad_()
    before, numpy_before = state(model), repr(np.random.get_state())  # noqa: NPY002
    cam = build(name, model)
    cam.attribute(inputs, target=1, output="scaled")
    assert state(model) == before
    with pytest.raises(IndexError):
        cam.attribute(inputs, target=17, output="scaled")
    assert state(model) == before
    assert repr(np.random.get_state()) == numpy_before  # noqa: NPY002
    assert torch.equal(inputs, x)
    assert inputs.grad is None


def test_the_model_is_explained_in_evaluation_mode() -> None:
    model = Normalised()
    cam = GradCamAttribution(GradCAM, model, "body")
    x = images(2, 1, 16, 12)
    expected = cam.attribute(x, target=1)
    model.train()
    torch.testing.assert_close(cam.attribute(x, target=1), expected, atol=0, rtol=0)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_error_in_the_model(error: type[BaseException]) -> None:
    class Failing(ConvNet):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise error("half way")

    model = Failing()
    with pytest.raises(error, match="half way"):
        GradCamAttribution(AblationCAM, model, "body").attribute(images(1, 1, 8, 8), target=0)
    assert hook_count(model) == 0
    assert isinstance(model.body, nn.Sequential)


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_outer_grad_mode_and_frozen_weights_do_no_harm(
    name: str, mode: Any, model: nn.Module
) -> None:
    x = images(1, 1, 16, 12)
    expected = build(name, model).attribute(x, target=1, output="scaled")
    model.requires_grad_(False)
    with mode():
        found = build(name, model).attribute(x.clone(), target=1, output="scaled")
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found.clone(), expected, atol=1e-6, rtol=0)


def test_a_backbone_without_gradients_is_explained() -> None:
    class FrozenBackbone(ConvNet):
        def features(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().features(x)

    x = images(2, 1, 16, 12)
    found = GradCamAttribution(GradCAM, FrozenBackbone(), "body").attribute(x, target=1)
    expected = GradCamAttribution(GradCAM, ConvNet(), "body").attribute(x, target=1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["GradCAM", "ScoreCAM", "AblationCAM", "ShapleyCAM", "FullGrad"])
def test_half_precision_is_computed_in_float32(
    name: str, dtype: torch.dtype, model: nn.Module
) -> None:
    model = model.to(dtype)
    x = images(2, 1, 16, 12, dtype=dtype)
    found = build(name, model).attribute(x, target=1)
    expected = build(name, model.float()).attribute(x.float(), target=1)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected.to(dtype))


@pytest.mark.parametrize(
    "name", ["GradCAM", "ScoreCAM", "AblationCAM", "SegEigenCAM", "ShapleyCAM"]
)
def test_channels_last_changes_nothing(name: str, model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    expected = build(name, model).attribute(x, target=1, output="scaled")
    model = model.to(memory_format=torch.channels_last)
    found = build(name, model).attribute(
        x.to(memory_format=torch.channels_last), target=1, output="scaled"
    )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("inplace", [True, False])
def test_grad_cam_is_captums_even_before_an_in_place_activation(inplace: bool) -> None:
    model = BareConvNet(inplace)
    x = images(3, 1, 12, 10)
    for layer in ("conv1", "conv2"):
        found = GradCamAttribution(GradCAM, model, layer).attribute(x, target=[0, 2, 1])
        plain = BareConvNet(False)
        expected = LayerGradCam(plain, getattr(plain, layer))
        torch.testing.assert_close(found, expected.attribute(x, target=[0, 2, 1]))


def test_grad_cam_is_captums_layer_grad_cam_scaled(model: nn.Module) -> None:
    x = images(3, 1, 16, 12)
    raw = LayerGradCam(model, model.body).attribute(x, target=[0, 2, 1], relu_attributions=True)
    expected = scale_cam_image(scale_cam_image(raw[:, 0].detach().numpy(), (12, 16)))
    found = build("GradCAM", model).attribute(x, target=[0, 2, 1], output="scaled")
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=2e-5)


def test_score_cam_is_our_score_cam(model: nn.Module) -> None:
    x = images(3, 1, 16, 12)
    found = build("ScoreCAM", model).attribute(x, target=[0, 2, 1], output="input")
    expected = OwnScoreCAM(model, model.body).attribute(x, target=[0, 2, 1])
    torch.testing.assert_close(found.relu(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("target", [2, torch.tensor(2), torch.tensor([2, 2]), [2, 2]])
def test_targets_are_captums(target: Any, model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    for name in ("GradCAM", "ScoreCAM", "SESS" if "SESS" in ALL else "LayerCAM"):
        found = build(name, model).attribute(x, target=target, output="scaled")
        expected = build(name, model).attribute(x, target=2, output="scaled")
        torch.testing.assert_close(found, expected)


def test_tuples_pick_from_dense_outputs_and_none_from_one_number_a_row() -> None:
    x = images(2, 1, 16, 12)
    dense = GradCamAttribution(GradCAM, Dense(), "body")
    both = dense.attribute(x, target=[(1, 3, 2), (0, 0, 5)])
    torch.testing.assert_close(both[:1], dense.attribute(x[:1], target=(1, 3, 2)))
    torch.testing.assert_close(both[1:], dense.attribute(x[1:], target=(0, 0, 5)))
    assert not torch.equal(both[:1], dense.attribute(x[:1], target=(0, 0, 5)))
    scalar = GradCamAttribution(GradCAM, Scalar(), "body").attribute(x)
    torch.testing.assert_close(
        scalar, GradCamAttribution(GradCAM, ConvNet(), "body").attribute(x, target=0)
    )


@pytest.mark.parametrize("name", ["GradCAM", "EigenCAM", "ScoreCAM"])
@pytest.mark.parametrize("target", [None, [0], [0, 1, 2], 3, (0, 1), "cat"])
def test_a_wrong_target_raises_what_captum_raises(name: str, target: Any, model: nn.Module) -> None:
    def error(attribution: Any) -> type[Exception] | None:
        try:
            attribution.attribute(images(2, 1, 16, 12), target=target)
        except Exception as raised:
            return type(raised)
        return None

    theirs = error(LayerGradCam(model, model.body))
    assert theirs is not None
    assert error(build(name, model)) is theirs


def test_callable_targets_explain_other_outputs() -> None:
    model = Dense()
    upper = callable_targets(model, [lambda output: output[1, :4].sum()])
    x = images(2, 1, 16, 12)
    found = GradCamAttribution(GradCAM, upper, model.body).attribute(x, target=0)
    expected = LayerGradCam(lambda i: model(i)[:, 1, :4].sum((1, 2)), model.body).attribute(x)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize("name", ["GradCAM", "ScoreCAM", "AblationCAM", "LayerCAM"])
def test_arguments_follow_their_images(name: str) -> None:
    model = WithArguments()
    x, bias = images(3, 1, 16, 12), 4 * images(3, 3, 4)[..., 0]
    cam = build(name, model)
    batch = cam.attribute(x, target=1, additional_forward_args=(bias, 2.0))
    alone = [
        cam.attribute(x[i : i + 1], target=1, additional_forward_args=(bias[i : i + 1], 2.0))
        for i in range(3)
    ]
    torch.testing.assert_close(batch, torch.cat(alone), atol=1e-6, rtol=1e-4)
    if name == "AblationCAM":
        shuffled = cam.attribute(x, target=1, additional_forward_args=(bias.flip(0), 2.0))
        assert not torch.allclose(shuffled, batch)


def test_noise_tunnel_and_captums_metrics_take_it(model: nn.Module) -> None:
    cam = build("HiResCAM", model)
    x = images(2, 1, 16, 12)
    tunnel = NoiseTunnel(cam).attribute(x, nt_samples=3, stdevs=0.0, target=[0, 2])
    torch.testing.assert_close(tunnel, cam.attribute(x, target=[0, 2]), atol=1e-6, rtol=1e-4)

    maps = cam.attribute(x, target=[0, 2], output="input")
    generator = torch.Generator().manual_seed(0)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = 0.1 * torch.rand(inputs.shape, generator=generator)
        return noise, inputs - noise

    scores = infidelity(model, perturb, x, maps, target=[0, 2], normalize=True)
    assert scores.shape == (2,)
    assert scores.isfinite().all()
    sensitivity = sensitivity_max(cam.attribute, x, target=[0, 2], n_perturb_samples=2)
    assert sensitivity.shape == (2,)
    assert (sensitivity > 0).all()


def test_several_layers_come_in_the_order_given_and_scaled_as_one(model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    cam = GradCamAttribution(LayerCAM, model, ["body", "stem"])
    deep, shallow = cam.attribute(x, target=1)
    for name, found in (("body", deep), ("stem", shallow)):
        alone = GradCamAttribution(LayerCAM, model, name).attribute(x, target=1)
        torch.testing.assert_close(found, alone)
    assert [m.shape for m in cam.attribute(x, target=1, output="input")] == [x.shape] * 2
    scaled = cam.attribute(x, target=1, output="scaled")
    expected = direct("LayerCAM", model, ["body", "stem"], x, [1, 1])
    np.testing.assert_allclose(scaled[:, 0].numpy(), expected, atol=2e-5)


def test_layers_are_given_by_module_name_or_selection_or_chosen(model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    chosen = GradCamAttribution(GradCAM, model).attribute(x, target=1)
    for layer in (select_layers(model, x)[-1], "body", model.body):
        found = GradCamAttribution(GradCAM, model, layer).attribute(x, target=1)
        torch.testing.assert_close(found, chosen, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["GradCAM", "LayerCAM", "ScoreCAM", "EigenCAM", "HiResCAM"])
def test_token_layers_need_a_reshape_transform(name: str) -> None:
    model = TokenNet()
    x = images(2, 1, 16, 12)
    cam = GradCamAttribution(ALL[name], model, "mixer", reshape_transform=tokens_to_map(4, 3))
    assert cam.attribute(x, target=1).shape == (2, 1, 4, 3)
    with pytest.raises(ValueError, match=r"'mixer'.*\(2, 12, 6\).*tokens_to_map"):
        GradCamAttribution(ALL[name], model, "mixer").attribute(x, target=1)


def test_volumes_are_explained() -> None:
    model = ConvNet(dims=3)
    x = images(2, 1, 6, 8, 10)
    found = GradCamAttribution(GradCAM, model, "body").attribute(x, target=1)
    torch.testing.assert_close(
        found, LayerGradCam(model, model.body).attribute(x, target=1).detach()
    )
    large = GradCamAttribution(GradCAM, model, "body").attribute(x, target=1, output="scaled")
    assert large.shape == x.shape


def test_a_model_without_parameters_is_explained() -> None:
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.square = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.square(x).flatten(2).sum(2)

    x = images(1, 2, 4, 4)
    found = GradCamAttribution(HiResCAM, model := Sums(), model.square).attribute(x, target=1)
    torch.testing.assert_close(found, x[:, 1:])


def test_compiled_and_data_parallel_models_run_on_their_module(model: nn.Module) -> None:
    x = images(1, 1, 16, 12)
    expected = build("GradCAM", model).attribute(x, target=1)
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        found = GradCamAttribution(GradCAM, wrapped, "body").attribute(x, target=1)
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_threads_get_the_right_answers(model: nn.Module) -> None:
    inputs = images(4, 1, 16, 12)
    cams = [build(name, model) for name in ("GradCAM", "ScoreCAM", "AblationCAM", "LayerCAM")]
    expected = [c.attribute(x, target=1) for c, x in zip(cams, inputs.split(1), strict=True)]
    found: list[list[Tensor]] = [[] for _ in cams]

    def work(i: int) -> None:
        found[i] = [cams[i].attribute(inputs[i : i + 1], target=1) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for maps, right in zip(found, expected, strict=True):
        assert len(maps) == 5
        for each in maps:
            torch.testing.assert_close(each, right, atol=0, rtol=0)


class _Once(nn.Module):
    """BareConvNet with a ReLU of its own for each call."""

    def __init__(self, model: BareConvNet) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.model.conv1(x).relu(), 2)
        return self.model.head(self.last(self.model.conv2(x)).flatten(2).mean(2))


@pytest.mark.parametrize("name", [name for name in RAW if name != "FullGrad"])
def test_the_last_call_of_a_module_that_is_used_twice_counts(name: str) -> None:
    model, inputs = BareConvNet(), images(2, 1, 12, 10)
    once = _Once(model)
    maps = GradCamAttribution(ALL[name], model, model.relu).attribute(inputs, target=1)
    expected = GradCamAttribution(ALL[name], once, once.last).attribute(inputs, target=1)
    assert maps.shape == (2, 1, 6, 5)
    torch.testing.assert_close(maps, expected, atol=0, rtol=0)


def test_shapley_cam_behind_a_linear_head() -> None:
    model, inputs = torchvision.models.resnet18(weights=None).eval(), torch.rand(2, 3, 64, 64)
    maps = GradCamAttribution(ALL["ShapleyCAM"], model, "layer4").attribute(
        inputs, target=[1, 5], output="scaled"
    )
    expected = direct("ShapleyCAM", model, ["layer4"], inputs, [1, 5])
    torch.testing.assert_close(maps, torch.from_numpy(expected)[:, None].expand_as(maps))


def test_the_last_call_is_that_which_captum_takes() -> None:
    model, inputs = BareConvNet(inplace=False), images(2, 1, 12, 10)
    maps = GradCamAttribution(GradCAM, model, model.relu).attribute(inputs, target=[0, 2])
    expected = LayerGradCam(model, model.relu).attribute(inputs, target=[0, 2]).relu()
    torch.testing.assert_close(maps.relu(), expected)


def test_a_module_that_is_called_once_costs_no_pass_and_one_called_twice_costs_one() -> None:
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    for layer, expected in (("conv1", 1), ("relu", 2)):
        model = BareConvNet()
        model.head.register_forward_pre_hook(count)
        passes = 0
        GradCamAttribution(GradCAM, model, layer).attribute(images(1, 1, 8, 8), target=1)
        assert passes == expected


def test_a_module_called_ever_more_often_is_an_error() -> None:
    class Restless(BareConvNet):
        calls = 1

        def forward(self, x: Tensor) -> Tensor:
            type(self).calls += 1
            for _ in range(type(self).calls):
                x = self.relu(x)
            return super().forward(x)

    cam = GradCamAttribution(GradCAM, Restless(), "relu")
    with pytest.raises(ValueError, match="another number of times in each pass"):
        cam.attribute(images(1, 1, 8, 8), target=1)


@pytest.mark.parametrize("name", sorted(ALL))
def test_nothing_stays_alive_after_a_call(name: str, model: nn.Module) -> None:
    cam = build(name, model)
    cam.attribute(images(1, 1, 16, 12), target=1, output="scaled")
    gc.disable()
    gc.freeze()  # what other tests have left is not looked at
    try:
        cam.attribute(images(1, 1, 16, 12), target=1, output="scaled")
        held = [o for o in gc.get_objects() if type(o) is ObservedModel]
    finally:
        gc.unfreeze()
        gc.enable()
    assert held == []


@pytest.mark.parametrize(
    ("name", "options"),
    [("ScoreCAM", {}), ("AblationCAM", {}), ("HiResCAM", {"eigen_smooth": True})],
)
def test_grad_cam_is_quiet_unless_told_otherwise(
    name: str, options: Any, model: nn.Module, capfd: pytest.CaptureFixture[str]
) -> None:
    cam = build(name, model)
    cam.attribute(images(2, 1, 16, 12), target=1, **options)
    quiet = capfd.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
    cam.attribute(images(2, 1, 16, 12), target=1, show_progress=True, **options)
    loud = capfd.readouterr()
    assert loud.out + loud.err != ""


@pytest.mark.parametrize("name", ["ScoreCAM", "AblationCAM"])
def test_perturbations_per_eval_is_their_batch_size(name: str, model: nn.Module) -> None:
    rows: list[int] = []
    x = images(2, 1, 16, 12)
    model.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    cam = build(name, model)
    expected = cam.attribute(x, target=1)
    rows.clear()
    found = cam.attribute(x, target=1, perturbations_per_eval=3)
    assert rows[-6:] == [3, 3, 1, 3, 3, 1]  # seven maps for each of two images
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_random_cam_draws_from_the_generator(model: nn.Module) -> None:
    cam = GradCamAttribution(RandomCAM, model, "body")
    x = images(2, 1, 16, 12)

    def draw(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return cam.attribute(x, target=1, generator=generator)

    assert torch.equal(draw(None), draw(None))
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    generator = torch.Generator().manual_seed(1)
    first, second = (cam.attribute(x, target=1, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)


def test_options_reach_the_class_and_its_call(model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    plain, poly = (
        GradCamAttribution(KPCA_CAM, model, "body", **options).attribute(x, target=1)
        for options in ({}, {"kernel": "poly"})
    )
    assert not torch.allclose(plain, poly)
    finer = GradCamAttribution(FinerCAM, model, "body")
    assert not torch.allclose(finer.attribute(x, target=1), finer.attribute(x, target=1, alpha=0.2))
    grad = GradCamAttribution(GradCAM, model, "body")
    smooth = grad.attribute(x, target=1, output="scaled", aug_smooth=True)
    assert not torch.allclose(smooth, grad.attribute(x, target=1, output="scaled"))
    with pytest.raises(ValueError, match="output='scaled'"):
        grad.attribute(x, target=1, aug_smooth=True)
    with pytest.raises(TypeError, match="smoothie"):
        grad.attribute(x, target=1, smoothie=True)


def test_scoring_passes_do_not_pile_up_activations(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    release = pytorch_grad_cam.ActivationsAndGradients.release

    def count(self: Any) -> None:
        kept.append(len(self.activations))
        release(self)

    monkeypatch.setattr(pytorch_grad_cam.ActivationsAndGradients, "release", count)
    build("ScoreCAM", model).attribute(images(2, 1, 16, 12), target=1, perturbations_per_eval=1)
    assert kept[0] == 0


@pytest.mark.parametrize("name", sorted(META))
def test_a_class_without_a_raw_map_says_so(name: str, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=f"{name}.*output='scaled'"):
        build(name, model).attribute(images(1, 1, 16, 12), target=1)


@pytest.mark.parametrize(
    "cam_class",
    [
        pytorch_grad_cam.GuidedBackpropReLUModel,
        pytorch_grad_cam.DeepFeatureFactorization,
        pytorch_grad_cam.ActivationsAndGradients,
        "GradCAM",
        nn.Linear,
    ],
)
def test_what_is_no_cam_class_is_refused(cam_class: Any, model: nn.Module) -> None:
    with pytest.raises(TypeError, match="is no CAM class of pytorch-grad-cam"):
        GradCamAttribution(cam_class, model, "body")


def test_unknown_options_are_refused_at_once(model: nn.Module) -> None:
    with pytest.raises(TypeError, match=r"GradCAM is called with .*\['kernel'\].*'kernel'"):
        GradCamAttribution(GradCAM, model, "body", kernel="poly")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"output": "raw"}, ValueError, "'layer', 'input' or 'scaled'"),
        ({"perturbations_per_eval": 0}, ValueError, "positive integer"),
        ({"generator": 3}, TypeError, "torch.Generator"),
        ({"inputs": (torch.ones(1, 1, 8, 8),) * 2}, ValueError, "additional_forward_args"),
        ({"inputs": torch.ones(1, 1, 8)}, ValueError, "one tensor"),
        ({"inputs": torch.full((1, 1, 8, 8), torch.nan)}, ValueError, "NaN"),
    ],
)
def test_wrong_arguments_are_named(
    change: Any, error: type[Exception], message: str, model: nn.Module
) -> None:
    arguments = {"inputs": images(1, 1, 8, 8), "target": 0, **change}
    with pytest.raises(error, match=message):
        build("GradCAM", model).attribute(**arguments)


def test_layers_that_cannot_be_explained_are_named(model: nn.Module) -> None:
    x = images(1, 1, 8, 8)
    model.spare = nn.Conv2d(1, 1, 1)
    for cam_class in (GradCAM, EigenCAM):
        with pytest.raises(ValueError, match=r"\['spare'\] were not seen"):
            GradCamAttribution(cam_class, model, "spare").attribute(x, target=0)
        with pytest.raises(ValueError, match=r"\['Conv2d'\] are not part of the model"):
            GradCamAttribution(cam_class, model, nn.Conv2d(1, 1, 1)).attribute(x, target=0)
    with pytest.raises(ValueError, match="FullGrad uses all biases"):
        GradCamAttribution(FullGrad, model, "body")
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        GradCamAttribution(GradCAM, lambda x: x, model.body)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["GradCAM", "ShapleyCAM"])
def test_an_output_that_does_not_depend_on_the_layer_is_an_error(name: str) -> None:
    class Detached(ConvNet):
        def features(self, x: Tensor) -> Tensor:
            return super().features(x).detach()

    with pytest.raises(RuntimeError, match=r"not depend differentiably on \['body'\]"):
        build(name, Detached()).attribute(images(1, 1, 8, 8), target=0)


def test_a_model_that_cannot_be_copied_is_an_error_that_says_so(model: nn.Module) -> None:
    model.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot be copied by copy\.deepcopy"):
        build("GradCAM", model).attribute(images(1, 1, 8, 8), target=0)


def test_finer_cam_wants_a_class_index() -> None:
    cam = GradCamAttribution(FinerCAM, Dense(), "body")
    with pytest.raises(ValueError, match="FinerCAM compares a class"):
        cam.attribute(images(1, 1, 8, 8), target=(0, 1, 1))


def test_layers_of_two_kinds_have_no_common_reshape() -> None:
    class Mixed(TokenNet):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            maps = self.last(self.embed(x).movedim(1, -1))
            return self.head(maps.tanh().mean((1, 2)))

    model = seeded(Mixed())
    layers = [model.embed, SelectedLayer("last", model.last, 6, (4, 3), channels_last=True)]
    cam = GradCamAttribution(LayerCAM, model, layers)
    raw = cam.attribute(images(1, 1, 16, 12), target=0)
    assert [m.shape for m in raw] == [(1, 1, 4, 3)] * 2
    with pytest.raises(ValueError, match="one reshape_transform for all layers"):
        cam.attribute(images(1, 1, 16, 12), target=0, output="scaled")


def test_shared_tensors_outside_of_the_parameters_are_copied_too() -> None:
    """weight_norm of old keeps the weight as a tensor with a history, which cannot be copied."""
    model = ConvNet()
    model.kept = F.relu(model.head.weight)
    x = images(1, 1, 16, 12)
    found = GradCamAttribution(ShapleyCAM, model, "body").attribute(x, target=1)
    torch.testing.assert_close(
        found, GradCamAttribution(ShapleyCAM, ConvNet(), "body").attribute(x, target=1)
    )


def test_refine_cam_aggregates_layers(model: nn.Module) -> None:
    x = images(2, 1, 16, 12)
    found = GradCamAttribution(RefineCAM, model, ["stem", "body"]).attribute(
        x, target=1, output="scaled"
    )
    expected = direct("RefineCAM", model, ["stem", "body"], x, [1, 1])
    np.testing.assert_allclose(found[:, 0].numpy(), expected, atol=2e-5)
