"""Explanations during training: the same maps as alone, and nothing disturbed."""

import copy
import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from helpers.explained_toys import Unsteady, left_as_it_was, training_state
from helpers.toys import ConvNet, images
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from captum_excon import AdaptiveHybridCAM, IntegratedGradCAM
from captum_excon.transforms._undisturbed import explain, undisturbed

LABELS = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def batch() -> Tensor:
    return images(4, 3, 8, 8)


@pytest.fixture
def gloo(tmp_path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def backward_callable(model: nn.Module):
    """A careless explainer: a backward pass that also fills the parameters' gradients."""

    def maps(x: Tensor, targets: Tensor) -> Tensor:
        x.retain_grad()
        model(x).gather(1, targets[:, None]).sum().backward()
        return x.grad

    return maps


EXPLAINERS = {
    "LayerGradCam": lambda model: LayerGradCam(model, model.body),
    "Saliency": Saliency,
    "InputXGradient": InputXGradient,
    "IntegratedGradients": IntegratedGradients,
    "NoiseTunnel": lambda model: NoiseTunnel(Saliency(model)),
    "IntegratedGradCAM": lambda model: IntegratedGradCAM(model, model.body),
    "AdaptiveHybridCAM": lambda model: AdaptiveHybridCAM(model, [model.stem, model.body]),
    "backward": backward_callable,
}


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", EXPLAINERS)
def test_explaining_leaves_a_training_model_as_it_was(name, mode, batch) -> None:
    model = Unsteady()
    F.cross_entropy(model(batch), LABELS).backward()
    model.head.bias.requires_grad_(False)
    explainer = EXPLAINERS[name](model)
    with left_as_it_was(model), warnings.catch_warnings():
        # Our masking methods warn of a model in training mode, which is asked for here.
        warnings.filterwarnings("ignore", "the model is in training mode", UserWarning)
        with undisturbed(model, mode):
            maps = explain(explainer, batch, LABELS)
    assert maps.shape == (4, 1, 8, 8)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert maps.isfinite().all()
    assert not batch.requires_grad


@pytest.mark.parametrize("name", ["LayerGradCam", "Saliency", "AdaptiveHybridCAM", "backward"])
def test_no_grad_and_inference_mode_around_it_change_no_map(name, batch) -> None:
    model = Unsteady()
    explainer = EXPLAINERS[name](model)
    with undisturbed(model):
        expected = explain(explainer, batch, LABELS)
        with torch.no_grad():
            torch.testing.assert_close(explain(explainer, batch, LABELS), expected)
    with torch.inference_mode(), undisturbed(model):
        maps = explain(explainer, batch.clone(), LABELS.clone())
    torch.testing.assert_close(maps, expected)


def test_frozen_models_are_explained(batch) -> None:
    model = Unsteady()
    explainer = LayerGradCam(model, model.body)
    with undisturbed(model):
        expected = explain(explainer, batch, LABELS)
        model.requires_grad_(False)
        torch.testing.assert_close(explain(explainer, batch, LABELS), expected)


def test_models_that_begin_in_place_are_explained_and_the_images_kept(batch) -> None:
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(nn.ReLU(inplace=True), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = batch.clone()
    explain(LayerGradCam(model, conv), batch, LABELS)
    assert torch.equal(batch, before)


def test_in_evaluation_mode_a_map_does_not_depend_on_its_batch(batch) -> None:
    model = Unsteady()
    explainer = LayerGradCam(model, model.body)
    with undisturbed(model):
        together = explain(explainer, batch, LABELS)
        alone = [explain(explainer, batch[i : i + 1], LABELS[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_training_mode_is_the_batch_statistics_of_the_official_code(batch) -> None:
    model = Unsteady()
    explainer = LayerGradCam(model, model.body)
    with undisturbed(model, "train"):
        together = explain(explainer, batch, LABELS)
        alone = explain(explainer, batch[:2], LABELS[:2])
    assert not torch.allclose(together[:2], alone, atol=1e-3)


def test_maps_are_channel_sums_resized_to_the_image() -> None:
    x = torch.zeros(1, 3, 2, 4)
    maps = explain(lambda *_: torch.tensor([[[[1.0, 2.0]], [[10.0, 30.0]]]]), x, LABELS[:1])
    # Half-pixel centres: 11 and 32 lie at columns 0.5 and 2.5.
    assert maps.tolist() == [[[[11.0, 16.25, 26.75, 32.0]] * 2]]


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 1, 8, 8)])
def test_maps_that_do_not_belong_to_the_images_are_refused(shape, batch) -> None:
    with pytest.raises(ValueError, match=r"must be of shape \(4, channels, height, width\)"):
        explain(lambda *_: torch.zeros(shape), batch, LABELS)


def test_other_explainers_and_results_are_refused(batch) -> None:
    with pytest.raises(TypeError, match="a Captum attribution or a function"):
        explain("grad-cam", batch, LABELS)
    with pytest.raises(TypeError, match="must return a tensor of maps, but returned tuple"):
        explain(lambda x, _: (x,), batch, LABELS)


def test_an_error_within_leaves_the_model_as_it_was(batch) -> None:
    model = Unsteady()

    def broken(x: Tensor, _: Tensor) -> Tensor:
        torch.rand(1)
        model.train()(x).sum().backward()
        raise RuntimeError("broken")

    with left_as_it_was(model), pytest.raises(RuntimeError, match="broken"), undisturbed(model):
        explain(broken, batch, LABELS)


def test_modes_of_parts_are_put_back_one_by_one() -> None:
    model = Unsteady()
    model.stem.eval()
    with undisturbed(model, "train"):
        assert model.stem[1].training
    assert not model.stem.training
    assert not model.stem[1].training
    assert model.body[1].training


def test_replaced_buffers_are_put_back() -> None:
    model = nn.Module()
    model.register_buffer("seen", torch.zeros(2))
    model.register_buffer("lazy", None)
    before = model.seen
    with undisturbed(model):
        model.seen.add_(1)
        model.seen = model.seen + 1
        model.lazy = torch.ones(1)
    assert model.seen is before
    assert model.seen.tolist() == [0, 0]
    assert model.lazy is None


def test_a_graph_that_holds_a_buffer_survives(batch) -> None:
    model = Unsteady().eval()
    loss = model(batch).sum()  # its backward pass needs the running statistics
    with undisturbed(model):
        explain(LayerGradCam(model, model.body), batch, LABELS)
    loss.backward()
    assert model.stem[0].weight.grad.abs().sum() > 0


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be"), undisturbed(Unsteady(), "test"):
        pass


def test_an_autocast_region_around_it_does_not_take_the_training_steps_gradients(batch) -> None:
    model = Unsteady().eval()
    reference = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (None, torch.bfloat16):
            with undisturbed(model, autocast_dtype=dtype), torch.no_grad():
                # Not every release of torch reuses what was cast without gradients.
                assert not torch.is_autocast_cache_enabled()
                model(batch)
                explain(LayerGradCam(model, model.body), batch, LABELS)
            assert torch.is_autocast_cache_enabled()
        F.cross_entropy(model(batch), LABELS).backward()
        F.cross_entropy(reference(batch), LABELS).backward()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_autocast_within_is_asked_for_by_its_dtype() -> None:
    model = Unsteady()
    with torch.autocast("cpu", torch.bfloat16):
        with undisturbed(model):
            assert model(torch.ones(2, 3, 8, 8)).dtype == torch.float32
        assert model(torch.ones(2, 3, 8, 8)).dtype == torch.bfloat16
    with undisturbed(model, autocast_dtype=torch.bfloat16):
        assert model(torch.ones(2, 3, 8, 8)).dtype == torch.bfloat16


def test_compiled_models_are_explained_uncompiled(batch) -> None:
    model = ConvNet(in_channels=3, classes=4)
    explainer = LayerGradCam(model, model.body)
    expected = explain(explainer, batch, LABELS)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(batch), model(batch))
    with undisturbed(compiled):
        maps = explain(LayerGradCam(compiled, model.body), batch, LABELS)
    torch.testing.assert_close(maps, expected)


@pytest.mark.usefixtures("gloo")
@pytest.mark.parametrize("nested", [False, True])
def test_distributed_models_are_explained_between_their_steps(nested, batch, monkeypatch) -> None:
    model, twin = Unsteady(), Unsteady()
    wrapped = DistributedDataParallel(model)
    classifier = nn.Sequential(wrapped, nn.Identity()) if nested else wrapped

    def synchronise(_: object) -> None:
        raise AssertionError("ranks that explain more batches would wait for ever")

    for step in range(3):
        with monkeypatch.context() as patch, left_as_it_was(model), undisturbed(classifier):
            patch.setattr(DistributedDataParallel, "_sync_buffers", synchronise)
            maps = explain(LayerGradCam(classifier, model.body), batch, LABELS)
            classifier(batch)
        with undisturbed(twin):
            expected = explain(LayerGradCam(twin, twin.body), batch, LABELS)
        torch.testing.assert_close(maps, expected)
        for network in (classifier, twin):
            torch.manual_seed(step)
            F.cross_entropy(network(batch), LABELS).backward()
    assert wrapped.require_forward_param_sync
    assert wrapped.require_backward_grad_sync
    ours, theirs = training_state(model), training_state(twin)
    assert ours["grads"] == theirs["grads"]
    assert ours["tensors"] == theirs["tensors"]
