"""Targets that are functions of the output for one image."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    DeepLift,
    IntegratedGradients,
    LayerGradCam,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from captum_excon.attr import (
    RISE,
    AdaptiveHybridCAM,
    IntegratedGradCAM,
    MultiLayerSISE,
    ScoreCAM,
)
from captum_excon.layers import select_layers
from captum_excon.metrics import deletion
from captum_excon.targets import callable_targets, split_rows

CLASSES = [2, 0, 1]


def classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).eval()


def images() -> Tensor:
    return torch.rand(3, 3, 8, 8, requires_grad=True)


def logit(c: int) -> Any:
    return lambda output: output[c]


def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.full_like(inputs, 0.01).cumsum(-1)
    return noise, inputs - noise


def each_call(model: nn.Module) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """The two ways to explain image i by logit CLASSES[i] through callables."""
    targets = [logit(c) for c in CLASSES]
    columns = callable_targets(model, targets)
    indexed = callable_targets(model, targets, indexed=True)
    return {
        "columns": (columns, {"target": [0, 1, 2]}),
        "indexed": (indexed, {"additional_forward_args": indexed.index}),
    }


CALLS = pytest.mark.parametrize("call", ["columns", "indexed"])


@CALLS
@pytest.mark.parametrize(
    ("method", "options"),
    [
        (Saliency, {}),
        (IntegratedGradients, {"n_steps": 5}),
        (IntegratedGradients, {"n_steps": 5, "internal_batch_size": 4}),
        (DeepLift, {}),
        (Occlusion, {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4)}),
        (
            Occlusion,
            {
                "sliding_window_shapes": (3, 4, 4),
                "strides": (3, 4, 4),
                "perturbations_per_eval": 3,
            },
        ),
    ],
)
# DeepLift announces the hooks that it sets.
@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_a_logit_as_callable_is_explained_as_the_class(
    method: Any, options: Any, call: str
) -> None:
    model, x = classifier(), images()
    wrapped, how = each_call(model)[call]
    expected = method(model).attribute(x, target=CLASSES, **options)
    torch.testing.assert_close(method(wrapped).attribute(x, **how, **options), expected)
    assert expected.abs().sum() > 0


@CALLS
def test_layers_are_reached_through_the_wrapper(call: str) -> None:
    model, x = classifier(), images()
    wrapped, how = each_call(model)[call]
    expected = LayerGradCam(model, model[3]).attribute(x, target=CLASSES)
    torch.testing.assert_close(
        LayerGradCam(wrapped, wrapped.model[3]).attribute(x, **how), expected
    )
    assert wrapped.get_submodule("model.3") is model[3]


@CALLS
def test_noise_tunnel_repeats_the_callables_with_their_images(call: str) -> None:
    model, x = classifier(), images()
    wrapped, how = each_call(model)[call]
    options = {"nt_samples": 4, "nt_samples_batch_size": 2, "stdevs": 0.1}
    torch.manual_seed(1)
    expected = NoiseTunnel(Saliency(model)).attribute(x, target=CLASSES, **options)
    torch.manual_seed(1)
    torch.testing.assert_close(
        NoiseTunnel(Saliency(wrapped)).attribute(x, **how, **options), expected
    )


@CALLS
def test_captums_metrics_repeat_the_callables_with_their_images(call: str) -> None:
    model, x = classifier(), images().detach()
    wrapped, how = each_call(model)[call]
    maps = torch.rand(3, 3, 8, 8)
    torch.testing.assert_close(
        infidelity(wrapped, perturb, x, maps, n_perturb_samples=3, **how),
        infidelity(model, perturb, x, maps, n_perturb_samples=3, target=CLASSES),
    )
    occlude = {"sliding_window_shapes": (3, 4, 4), "strides": (3, 4, 4), "n_perturb_samples": 3}
    values = []
    for m, h in ((wrapped, how), (model, {"target": CLASSES})):
        torch.manual_seed(1)
        values.append(sensitivity_max(Occlusion(m).attribute, x, **occlude, **h))
    torch.testing.assert_close(*values)


def explain(method: Any, model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """A map of this package's ``method``, on the two convolutions of `classifier`."""
    network = getattr(model, "model", model)
    if method is RISE:
        generator = torch.Generator().manual_seed(3)
        return RISE(model).attribute(x, n_masks=20, generator=generator, **options)
    if method in (IntegratedGradCAM, ScoreCAM):
        return method(model, network[4]).attribute(x, **options)
    return method(model, [network[1], network[4]]).attribute(x, **options)


@CALLS
@pytest.mark.parametrize(
    ("method", "options"),
    [
        (IntegratedGradCAM, {"n_steps": 5}),
        (IntegratedGradCAM, {"n_steps": 5, "internal_batch_size": 4}),
        (MultiLayerSISE, {"score": "identity"}),
        (MultiLayerSISE, {"score": "identity", "perturbations_per_eval": 2}),
        (AdaptiveHybridCAM, {"score": "identity"}),
        (RISE, {"score": "identity"}),
        (ScoreCAM, {}),
    ],
)
def test_this_packages_methods_explain_a_logit_as_callable_as_the_class(
    method: Any, options: Any, call: str
) -> None:
    model, x = classifier(), images().detach()
    wrapped, how = each_call(model)[call]
    expected = explain(method, model, x, target=CLASSES, **options)
    torch.testing.assert_close(explain(method, wrapped, x, **how, **options), expected)
    assert all(m.abs().sum() > 0 for m in expected)


def test_callables_for_the_same_images_are_explained_in_one_sweep() -> None:
    model, x = classifier(), images().detach()
    wrapped = callable_targets(model, [logit(c) for c in CLASSES])
    layers = [model[1], model[4]]
    together = MultiLayerSISE(wrapped, layers).attribute_classes(x, [0, 2], score="identity")
    apart = [MultiLayerSISE(model, layers).attribute(x, target=c, score="identity") for c in (2, 1)]
    torch.testing.assert_close(together, apart)


def test_a_callable_may_be_the_probability_that_sise_scores_by_default() -> None:
    model, x = classifier(), images().detach()
    wrapped = callable_targets(model, [lambda output: output.softmax(0)[2]])
    expected = explain(MultiLayerSISE, model, x, target=2)
    shown = explain(MultiLayerSISE, wrapped, x, target=0, score="identity")
    torch.testing.assert_close(shown, expected)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("method", [MultiLayerSISE, AdaptiveHybridCAM, RISE, ScoreCAM])
def test_callables_are_scores_as_they_are_unless_a_score_is_given(method: Any, count: int) -> None:
    model, x = classifier(), images().detach()
    wrapped = callable_targets(model, [logit(2), logit(0)][:count])
    expected = explain(method, model, x, target=2, score="identity")
    torch.testing.assert_close(explain(method, wrapped, x, target=0), expected)
    if method is RISE:
        parallel = nn.DataParallel(wrapped)
        torch.testing.assert_close(explain(method, parallel, x, target=0), expected)
    if count == 1:
        torch.testing.assert_close(explain(method, wrapped, x), expected)
    squashed = explain(method, wrapped, x, target=0, score="sigmoid")
    torch.testing.assert_close(squashed, explain(method, model, x, target=2, score="sigmoid"))


def test_metrics_take_callables_as_scores_unless_a_score_is_given() -> None:
    model, x = classifier(), images().detach()
    wrapped = callable_targets(model, [logit(2), logit(0)])
    maps = explain(RISE, model, x, target=2)

    def area(model: nn.Module, target: int, **how: Any) -> Tensor:
        return deletion(model, x, maps, target=target, steps=3, **how)

    logits, squashed = (area(model, 2, score=score) for score in ("identity", "sigmoid"))
    torch.testing.assert_close(area(wrapped, 0), logits)
    torch.testing.assert_close(area(wrapped, 0, score="sigmoid"), squashed)
    assert not torch.allclose(logits, area(model, 2))


@CALLS
def test_layers_are_chosen_through_the_wrapper(call: str) -> None:
    model, x = classifier(), images().detach()
    wrapped, how = each_call(model)[call]
    chosen = select_layers(wrapped, x, how.get("additional_forward_args"))
    expected = [f"model.{layer.name}" for layer in select_layers(model, x)]
    assert [layer.name for layer in chosen] == expected
    torch.testing.assert_close(
        MultiLayerSISE(wrapped).attribute(x, **how, score="identity"),
        MultiLayerSISE(model).attribute(x, target=CLASSES, score="identity"),
    )


def test_a_class_of_the_wrapped_model_is_a_callable() -> None:
    model, x = classifier(), images()
    wrapped = callable_targets(model, [logit(1), lambda output: output[0] - 2 * output[2]])
    logits = model(x)
    expected = torch.stack([logits[:, 1], logits[:, 0] - 2 * logits[:, 2]], dim=1)
    torch.testing.assert_close(wrapped(x), expected)


def test_one_callable_needs_no_list() -> None:
    model, x = classifier(), images()
    wrapped = callable_targets(model, logit(1))
    torch.testing.assert_close(wrapped(x), model(x)[:, 1:2])
    expected = Saliency(model).attribute(x, target=1)
    for target in (None, 0):
        torch.testing.assert_close(Saliency(wrapped).attribute(x, target=target), expected)


def test_an_index_scores_each_row_once_by_the_callable_it_names() -> None:
    calls = []

    def target(name: str) -> Any:
        def score(output: Tensor) -> Tensor:
            calls.append(name)
            return output.sum()

        return score

    wrapped = callable_targets(nn.Identity(), [target("a"), target("b")], indexed=True)
    values = wrapped(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), torch.tensor([1, 1, 0]))
    assert values.tolist() == [3.0, 7.0, 11.0]
    assert calls == ["b", "b", "a"]


def test_the_models_own_additional_arguments_come_before_the_index() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return x * scale

    wrapped = callable_targets(Scaled(), [logit(0), logit(1)], indexed=True)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    scale = torch.tensor([[10.0], [100.0]])
    maps = IntegratedGradients(wrapped).attribute(
        x, additional_forward_args=(scale, wrapped.index), n_steps=3
    )
    torch.testing.assert_close(maps, torch.tensor([[10.0, 0.0], [0.0, 400.0]]).to(maps.dtype))
    unindexed = callable_targets(Scaled(), [logit(0), logit(1)])
    assert unindexed(x, scale).tolist() == [[10.0, 20.0], [300.0, 400.0]]


@pytest.mark.parametrize("training", [True, False])
def test_wrapping_leaves_every_training_flag_alone(training: bool) -> None:
    model = classifier().train(training)
    model[0].train(not training)
    flags = [module.training for module in model.modules()]
    wrapped = callable_targets(model, logit(0))
    assert wrapped.training is training
    assert [module.training for module in model.modules()] == flags


def test_a_target_that_is_a_module_adds_no_parameters() -> None:
    wrapped = callable_targets(classifier(), [nn.Linear(3, 1)])
    assert wrapped(images()).shape == (3, 1)
    assert all(name.startswith("model.") for name, _ in wrapped.named_parameters())


def test_an_empty_batch_gives_an_empty_result() -> None:
    empty = torch.zeros(0, 3, 8, 8)
    assert callable_targets(classifier(), [logit(0), logit(1)])(empty).shape == (0, 2)
    indexed = callable_targets(classifier(), logit(0), indexed=True)
    assert indexed(empty, indexed.index[:0]).shape == (0,)


# Other tasks than classification


def test_pytorch_grad_cams_classifier_targets_work_as_they_are() -> None:
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model, x = classifier(), images()
    wrapped = callable_targets(
        model,
        [
            targets.ClassifierOutputTarget(2),
            targets.ClassifierOutputSoftmaxTarget(0),
        ],
    )
    logits = model(x)
    expected = torch.stack([logits[:, 2], logits.softmax(dim=1)[:, 0]], dim=1)
    torch.testing.assert_close(wrapped(x), expected)
    one_logit = callable_targets(
        nn.Sequential(model, nn.Linear(3, 1)), targets.BinaryClassifierOutputTarget(0)
    )
    assert one_logit(x).shape == (3, 1)


class PixelClassifier(nn.Module):
    """Class 0 is the red channel, class 1 the green one: no pixel sees its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, kernel_size=1, bias=False)
        self.conv.weight.data = torch.eye(3)[:2, :, None, None].clone()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return OrderedDict(out=self.conv(x))


def test_a_segmentation_target_is_explained_by_its_class_inside_its_mask() -> None:
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    masks = np.zeros((2, 4, 6), dtype=np.float32)
    masks[0, :2, :3] = masks[1, 1:, 2:] = 1.0
    network = PixelClassifier()
    per_mask = [targets.SemanticSegmentationTarget(c, masks[c]) for c in (0, 1)]
    wrapped = callable_targets(network, [lambda o, t=t: t(o["out"]) for t in per_mask])
    x = torch.rand(2, 3, 4, 6, requires_grad=True)
    maps = Saliency(wrapped).attribute(x, target=[0, 1])
    expected = torch.zeros(2, 3, 4, 6)
    expected[0, 0] = torch.from_numpy(masks[0])
    expected[1, 1] = torch.from_numpy(masks[1])
    torch.testing.assert_close(maps, expected)


def test_an_embeddings_similarity_is_explained() -> None:
    embed = nn.Linear(4, 4, bias=False)
    embed.weight.data = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    reference = torch.tensor([0.0, 1.0, 0.0, 1.0])
    wrapped = callable_targets(embed, lambda output: output @ reference)
    x = torch.rand(2, 4, requires_grad=True)
    maps = Saliency(wrapped).attribute(x)
    assert maps.tolist() == [[0.0, 2.0, 0.0, 4.0]] * 2


class BrightColumns(nn.Module):
    """A detector in torchvision's form: each column brighter than 1 is a box, scored by its sum."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        detections = []
        for image in x[:, 0]:
            scores = image.sum(dim=0)
            found = scores > 1
            left = torch.arange(len(scores))[found]
            boxes = torch.stack([left, left * 0, left + 1, left * 0 + len(image)], dim=1)
            detections.append({"boxes": boxes.float(), "scores": scores[found]})
        return detections


def test_a_detectors_box_score_is_explained_and_a_lost_box_scores_zero() -> None:
    x = torch.zeros(2, 1, 3, 4)
    x[0, 0, :, 1] = x[1, 0, :, 3] = 0.5

    def box_at(column: int) -> Any:
        return lambda found: found["scores"][found["boxes"][:, 0] == column].sum()

    wrapped = callable_targets(BrightColumns(), [box_at(1), box_at(3)])
    assert wrapped(x).tolist() == [[1.5, 0.0], [0.0, 1.5]]
    maps = Occlusion(wrapped).attribute(x, target=[0, 1], sliding_window_shapes=(1, 3, 1))
    assert torch.equal(maps, (x > 0) * 1.5)


def test_pytorch_grad_cams_box_target_finds_each_images_box() -> None:
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")

    class Labelled(BrightColumns):
        def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
            found = super().forward(x)
            return [d | {"labels": torch.ones(len(d["boxes"]), dtype=torch.long)} for d in found]

    x = torch.zeros(2, 1, 3, 4)
    x[0, 0, :, 1] = 0.5
    box = np.array([[1.0, 0.0, 2.0, 3.0]], dtype=np.float32)
    wrapped = callable_targets(Labelled(), targets.FasterRCNNBoxScoreTarget([1], box))
    assert wrapped(x).tolist() == [[2.5], [0.0]]  # IoU 1 + score 1.5; no box in the second image


# The parts of an output that belong to one image

Pair = namedtuple("Pair", ["main", "extra"])


@dataclass
class Prediction:
    logits: Tensor
    loss: Tensor | None = None


def test_structures_of_batched_tensors_are_sliced_and_keep_their_form() -> None:
    a, b = torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 6])
    assert split_rows(a, 2)[1].tolist() == [3, 4]
    second = split_rows((a, [b, None]), 2)[1]
    assert isinstance(second, tuple)
    assert second[0].tolist() == [3, 4]
    assert second[1] == [6, None]
    assert split_rows(OrderedDict(out=b, aux={"deep": b}), 2)[0] == {"out": 5, "aux": {"deep": 5}}
    pair = split_rows(Pair(main=a, extra=b), 2)[1]
    assert isinstance(pair, Pair)
    assert pair.extra == 6
    predictions = split_rows(Prediction(b, loss=torch.tensor(0.5)), 2)
    assert predictions[0] == Prediction(torch.tensor(5), loss=torch.tensor(0.5))


def test_a_list_of_tensors_is_a_structure_even_with_as_many_tensors_as_rows() -> None:
    stages = [torch.tensor([1, 2]), torch.tensor([3, 4])]
    assert split_rows(stages, 2) == [[1, 3], [2, 4]]


def test_a_list_without_tensors_has_one_element_for_each_image() -> None:
    detections = [{"scores": torch.rand(2)}, {"scores": torch.rand(0)}]
    assert split_rows(detections, 2) is detections


def test_split_decides_for_outputs_that_the_default_would_misread() -> None:
    class Boxes(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [row[row > 0] for row in x]  # a list of tensors, one for each image

    x = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    wrapped = callable_targets(Boxes(), torch.sum, split=lambda output, rows: output)
    assert wrapped(x).tolist() == [[1.0], [5.0]]
    with pytest.raises(ValueError, match="split returned 1 outputs for a batch of 2 rows"):
        callable_targets(Boxes(), torch.sum, split=lambda output, rows: output[:1])(x)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (torch.rand(3, 2), ValueError, r"output has shape \(3, 2\), but the batch has 2 rows"),
        ({"a": [torch.rand(3)]}, ValueError, r"output\['a'\]\[0\] has shape \(3,\)"),
        (Prediction(torch.rand(3)), ValueError, r"output\.logits has shape \(3,\)"),
        ([{}, {}, {}], ValueError, "a list of 3 outputs for a batch of 2 rows"),
        (torch.tensor(1.0), ValueError, "the model returned a scalar"),
        (None, TypeError, "output is a NoneType"),
        ((torch.rand(2), object()), TypeError, r"output\[1\] is a object"),
    ],
)
def test_an_output_that_cannot_be_divided_is_named(output: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        split_rows(output, 2)


# Mistakes


def test_wrong_models_and_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="targets is empty"):
        callable_targets(classifier(), [])
    with pytest.raises(TypeError, match=r"targets\[1\] is 7, which cannot be called"):
        callable_targets(classifier(), [logit(0), 7])
    with pytest.raises(TypeError, match=r"targets\[0\] is 7, which cannot be called"):
        callable_targets(classifier(), 7)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not function"):
        callable_targets(logit(0), logit(0))


def test_a_target_that_returns_no_scalar_is_named_with_what_it_returned() -> None:
    def whole(output: Tensor) -> Tensor:
        return output

    with pytest.raises(
        ValueError, match=r"targets\[1\] \(whole\) returned a tensor of shape \(3,\)"
    ):
        callable_targets(classifier(), [logit(0), whole])(images())
    with pytest.raises(TypeError, match=r"targets\[0\] \(<lambda>\) returned 0\.5; expected"):
        callable_targets(classifier(), lambda output: 0.5)(images())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "must be a 1-D torch.long tensor"),
        ((torch.tensor([0.0, 1.0, 0.0]),), "must be a 1-D torch.long tensor"),
        ((torch.tensor(0),), "must be a 1-D torch.long tensor"),
        ((torch.tensor([0, 1]),), "the index has 2 entries, but the batch has 3 rows"),
        ((torch.tensor([0, 1, 2]),), "index 2 is out of range: there are 2 targets"),
        ((torch.tensor([0, 1, -1]),), "index -1 is out of range"),
    ],
)
def test_a_wrong_index_is_refused(arguments: tuple[Tensor, ...], message: str) -> None:
    wrapped = callable_targets(classifier(), [logit(0), logit(1)], indexed=True)
    with pytest.raises(ValueError, match=message):
        wrapped(images(), *arguments)


def test_only_an_indexed_model_has_an_index() -> None:
    assert callable_targets(classifier(), [logit(0), logit(1)], indexed=True).index.tolist() == [
        0,
        1,
    ]
    assert not hasattr(callable_targets(classifier(), logit(0)), "index")
