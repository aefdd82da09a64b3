"""The cost of each method, counted in forward passes and rows of the model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import oracles
from helpers.toys import LAYERS, METHODS, ConvNet, CountedRows, demo_model, images, photographs
from torch import Tensor

from captum_excon import select_layers

pytestmark = pytest.mark.filterwarnings("ignore:.*all zero:UserWarning")

SISES: list[tuple[str, Callable[..., Any]]] = [
    ("MultiLayerSISE", oracles.sise),
    ("AdaptiveHybridCAM", oracles.ada_sise),
]


@pytest.mark.parametrize(("name", "oracle"), SISES)
@pytest.mark.parametrize("seed", range(4))
def test_sise_takes_the_kept_masks_plus_one_row_for_each_image(
    name: str, oracle: Callable[..., Any], seed: int
) -> None:
    model, inputs = ConvNet(in_channels=3, seed=seed), images(4, 3, 12, 10, seed=seed)
    targets = [0, 1, 2, seed % 3]
    masks = [sum(oracle(model, x, t, LAYERS)[2]) for x, t in zip(inputs, targets, strict=True)]
    for perturbations_per_eval in (None, 1, 3):
        with CountedRows(model) as counted:
            METHODS[name](
                model, inputs, target=targets, perturbations_per_eval=perturbations_per_eval
            )
        assert counted.rows == sum(masks) + len(inputs)


def test_a_larger_threshold_takes_fewer_rows() -> None:
    model, inputs, rows = ConvNet(seed=5), images(4, 1, 12, 10), []
    for threshold in (0.0, 0.3, 0.75):
        with CountedRows(model) as counted:
            METHODS["MultiLayerSISE"](model, inputs, target=2, threshold=threshold)
        rows.append(counted.rows)
    assert rows[0] > rows[1] > rows[2]


def test_masks_of_all_images_and_layers_fill_the_same_batches() -> None:
    model, inputs = ConvNet(in_channels=3, seed=3), images(5, 3, 12, 10)
    masks = sum(sum(oracles.sise(model, x, 1, LAYERS)[2]) for x in inputs)
    with CountedRows(model) as counted:
        METHODS["MultiLayerSISE"](model, inputs, target=1, perturbations_per_eval=4)
    # the hooked pass of the five images comes first
    full, rest = divmod(masks, 4)
    assert counted.calls == [5] + [4] * full + [rest] * bool(rest)


@pytest.mark.parametrize("name", ["MultiLayerSISE", "AdaptiveHybridCAM"])
def test_one_forward_pass_with_gradients_serves_all_layers_of_a_batch(name: str) -> None:
    model, inputs = ConvNet(seed=1), images(2, 1, 12, 10)
    with_gradients: list[bool] = []

    def count(_module: Any, _args: Any, output: Tensor) -> None:
        with_gradients.append(output.requires_grad)

    model.head.register_forward_hook(count)
    METHODS[name](model, inputs, target=1, perturbations_per_eval=1000)
    assert with_gradients == [True, False]


def test_no_gradients_are_computed_before_the_first_layer() -> None:
    model, inputs = ConvNet(seed=1), images(2, 1, 12, 10)
    with_gradients: list[bool] = []

    def count(_module: Any, _args: Any, output: Tensor) -> None:
        with_gradients.append(output.requires_grad)

    model.stem.register_forward_hook(count)
    for name in ("MultiLayerSISE", "IntegratedGradCAM"):
        METHODS[name](model, inputs, layers=["body"], target=1)
    assert not any(with_gradients)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_integrated_grad_cam_takes_a_row_for_each_step_and_one_for_the_baseline(
    n_layers: int,
) -> None:
    model, inputs = ConvNet(seed=1), images(3, 1, 12, 10)
    cam = METHODS["IntegratedGradCAM"].cls(model, LAYERS[:n_layers])
    with CountedRows(model) as counted:
        cam.attribute(inputs, target=1, n_steps=5)
    assert counted.rows == 3 * 5 + 1  # all images start from the same baseline
    with CountedRows(model) as counted:
        cam.attribute(inputs, images(3, 1, 12, 10, seed=4), target=1, n_steps=5)
    assert counted.rows == 3 * 5 + 3


@pytest.mark.parametrize("name", METHODS)
def test_the_rows_of_several_classes_are_at_most_their_union(name: str) -> None:
    model, inputs, method = ConvNet(classes=6, seed=3), images(3, 1, 12, 10), METHODS[name]
    explainer = method.build(model)
    single = []
    for target in range(6):
        with CountedRows(model) as counted:
            explainer.attribute(inputs, target=target, **method.options)
        single.append(counted.rows)
    with CountedRows(model) as counted:
        explainer.attribute_classes(inputs, list(range(6)), **method.options)
    if name in ("MultiLayerSISE", "AdaptiveHybridCAM"):
        kept = 0
        oracle = dict(SISES)[name]
        for x in inputs:
            union: set[tuple[str, int]] = set()
            for target in range(6):
                union |= kept_channels(oracle, model, x, target)
            kept += len(union)
        assert counted.rows == kept + len(inputs)
        assert counted.rows < sum(single)
        assert counted.rows <= 3 * (5 + 7) + 3
    elif name == "FusedGroupCAM":  # masks of its own for each class, hooked passes for all
        assert counted.rows == sum(single) - 5 * 3 * len(inputs)
        assert counted.rows <= (6 * method.options["groups"] + 3) * len(inputs)
    else:  # the same masks for every class
        assert counted.rows == single[0] == single[-1]


def kept_channels(
    oracle: Callable[..., Any], model: ConvNet, image: Tensor, target: int
) -> set[tuple[str, int]]:
    """The (layer, channel) pairs that make a mask."""
    kept = set()
    pairs = oracles.activations_and_gradients(model, image, target, LAYERS, "softmax")
    for layer, (activations, gradients) in zip(LAYERS, pairs, strict=True):
        alpha = gradients.flatten(1).sum(1)
        adaptive = oracle is oracles.ada_sise
        keep = oracles.adaptive_selection(alpha) if adaptive else oracles.selection(alpha, 0.0)
        for channel in keep.nonzero().flatten().tolist():
            if activations[channel].clamp(min=0).any():
                kept.add((layer, channel))
    return kept


def test_equal_classes_cost_nothing_more() -> None:
    model, inputs, method = ConvNet(seed=3), images(3, 1, 12, 10), METHODS["MultiLayerSISE"]
    with CountedRows(model) as once:
        method(model, inputs, target=1)
    with CountedRows(model) as thrice:
        method.build(model).attribute_classes(inputs, [1, 1, [1, 1, 1]])
    assert once.rows == thrice.rows


def test_rise_takes_a_row_for_each_mask_and_score_cam_one_for_each_varying_map() -> None:
    model, inputs = ConvNet(seed=1), images(3, 1, 12, 10)
    with CountedRows(model) as counted:
        METHODS["RISE"](model, inputs, target=1, n_masks=11)
    assert counted.rows == 3 * 11
    with CountedRows(model) as counted:
        METHODS["ScoreCAM"](model, inputs, layers=["body"], target=1)
    constant = []  # for each image; they share the empty mask
    for x in inputs:
        [(maps, _)] = oracles.activations_and_gradients(model, x, 1, ["body"])
        constant.append(sum(int(map_.min() == map_.max()) for map_ in maps))
    hooked, empty = 3, sum(map(bool, constant))
    assert empty > 0
    assert counted.rows == hooked + 3 * 7 - sum(constant) + empty


@pytest.mark.slow
def test_ada_sise_takes_at_least_thirty_percent_fewer_rows_than_sise_on_photographs() -> None:
    model = demo_model()
    inputs = photographs("chelsea", "astronaut", "rocket", "coffee", size=96)
    with torch.no_grad():
        targets = model(inputs).argmax(1).tolist()
    rows = {}
    for name in ("MultiLayerSISE", "AdaptiveHybridCAM"):
        with CountedRows(model) as counted:
            METHODS[name].cls(model).attribute(inputs[:1], target=targets[0])
        rows[name] = counted.rows
    assert rows["AdaptiveHybridCAM"] <= 0.7 * rows["MultiLayerSISE"]
    # the selections alone, which need no scoring, on the others
    layers = [layer.name for layer in select_layers(model, inputs)]
    for image, target in zip(inputs[1:], targets[1:], strict=True):
        pairs = oracles.activations_and_gradients(model, image, target, layers, "softmax")
        alphas = [gradients.flatten(1).sum(1) for _, gradients in pairs]
        fixed = sum(int(oracles.selection(alpha, 0.0).sum()) for alpha in alphas)
        adaptive = sum(int(oracles.adaptive_selection(alpha).sum()) for alpha in alphas)
        assert adaptive <= 0.7 * fixed
