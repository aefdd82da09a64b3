import pickle

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Saliency
from helpers.explained_toys import Brightest, Unsteady, first_channel, left_as_it_was
from helpers.toys import CountedRows, images
from torch import Tensor

from captum_excon import AdaptiveHybridCAM
from captum_excon.transforms import EDDA, ExConViews

LABELS = torch.tensor([0, 1, 2, 3])


def explained_channel(x: Tensor, targets: Tensor) -> Tensor:
    return x.gather(1, targets.view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:]))


def hand_made() -> Tensor:
    """The brighter channel, the prediction, is 1, then 0; the last has a constant first channel."""
    return torch.tensor(
        [
            [[0.0, 1.0, 2.0, 9.0], [5.0, 9.0, 4.0, 4.0]],
            [[6.0, 1.0, 2.0, 5.0], [0.0, 0.0, 0.0, 6.0]],
            [[9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 1.0, 2.0]],
        ]
    ).view(3, 2, 2, 2)


def test_the_predicted_classs_region_is_kept_and_dropped() -> None:
    augment = EDDA(Brightest(), explained_channel, keep_ratio=0.25, fill=-1.0)
    batch = augment(hand_made(), torch.tensor([1, 1, 0]))
    assert batch.explained.tolist() == [1, 0, 0]
    assert batch.correct.tolist() == [True, False, True]
    assert batch.constant.tolist() == [False, False, True]
    assert batch.region.flatten(1).int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert batch.keep[0].flatten(1).tolist() == [[-1, 1, -1, -1], [-1, 9, -1, -1]]
    assert batch.drop[0].flatten(1).tolist() == [[0, -1, 2, 9], [5, -1, 4, 4]]
    assert torch.equal(batch.keep[2], hand_made()[2])
    assert torch.equal(batch.drop[2], hand_made()[2])
    assert batch.targets.tolist() == [1, 1, 0]
    statistics = {name: value.item() for name, value in batch.statistics.items()}
    assert statistics == {
        "correct_rate": pytest.approx(2 / 3),
        "kept_area": 0.25,
        "constant_maps": 1,
    }


def test_the_labels_region_is_an_option() -> None:
    augment = EDDA(Brightest(), explained_channel, keep_ratio=0.25, target="label")
    batch = augment(hand_made(), torch.tensor([0, 1, 1]))
    assert batch.explained.tolist() == [0, 1, 1]
    assert batch.correct.tolist() == [False, False, False]
    assert batch.region.flatten(1).int().tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]


def test_a_threshold_takes_the_place_of_the_ratio() -> None:
    augment = EDDA(Brightest(), first_channel, keep_ratio=None, threshold=0.15)
    batch = augment(hand_made(), torch.tensor([1, 1, 0]))
    assert batch.region.flatten(1).int().tolist() == [[0, 0, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]]


def test_several_labels_are_met_by_any_of_them() -> None:
    augment = EDDA(Brightest(), explained_channel, keep_ratio=0.25)
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    batch = augment(hand_made(), labels)
    assert batch.explained.tolist() == [1, 0, 0]
    assert batch.correct.tolist() == [True, False, True]
    assert batch.targets is labels


@pytest.mark.parametrize("placement", ["shift", "shuffle"])
def test_the_control_has_the_same_areas_and_targets(placement) -> None:
    x = images(4, 3, 16, 16)
    model = Unsteady()
    explainer = LayerGradCam(model, model.body)
    options = {"keep_ratio": None, "threshold": 0.6}
    batch = EDDA(model, explainer, **options)(x, LABELS)
    generators = (torch.Generator().manual_seed(seed) for seed in (0, 0, 1))
    controls = [
        EDDA(model, explainer, placement=placement, generator=g, **options)(x, LABELS)
        for g in generators
    ]
    for control in controls:
        assert torch.equal(control.region.flatten(1).sum(1), batch.region.flatten(1).sum(1))
        assert torch.equal(control.explained, batch.explained)
        assert not torch.equal(control.region, batch.region)
    assert torch.equal(controls[0].keep, controls[1].keep)
    assert not torch.equal(controls[0].keep, controls[2].keep)


@pytest.mark.parametrize("fill", [0.0, "mean", "blur", "noise", torch.neg])
def test_keep_and_drop_share_the_image_and_the_fill(fill) -> None:
    x = images(4, 3, 8, 8)
    batch = EDDA(Brightest(), first_channel, keep_ratio=0.4, fill=fill)(x, LABELS)
    region = batch.region.expand_as(x)
    assert torch.equal(batch.keep[region], x[region])
    assert torch.equal(batch.drop[~region], x[~region])
    assert not torch.equal(batch.keep[~region], x[~region])


EXPLAINERS = {
    "LayerGradCam": lambda model: LayerGradCam(model, model.body),
    "Saliency": Saliency,
    "IntegratedGradients": IntegratedGradients,
    "AdaptiveHybridCAM": lambda model: AdaptiveHybridCAM(model, [model.stem, model.body]),
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_any_attribution_explains_and_disturbs_nothing(name) -> None:
    model = Unsteady()
    x = images(4, 3, 8, 8)
    F.cross_entropy(model(x), LABELS).backward()
    with left_as_it_was(model):
        batch = EDDA(model, EXPLAINERS[name](model), keep_ratio=0.25)(x, LABELS)
    assert batch.region.flatten(1).sum(1).tolist() == [16] * 4
    assert not batch.keep.requires_grad


def test_known_logits_and_maps_save_their_passes() -> None:
    model = Unsteady().eval()
    x = images(4, 3, 8, 8)
    explainer = LayerGradCam(model, model.body)
    augment = EDDA(model, explainer)
    expected = augment(x, LABELS)
    logits = model(x)
    with CountedRows(model) as rows:
        augment(x, LABELS)
    assert rows.calls == [4, 4]
    with CountedRows(model) as rows:
        batch = augment(x, LABELS, logits=logits)
    assert rows.calls == [4]
    assert torch.equal(batch.keep, expected.keep)
    maps = explainer.attribute(x, target=expected.explained)
    with CountedRows(model) as rows:
        batch = augment(x, LABELS, maps=maps, logits=logits)
    assert rows.calls == []
    assert torch.equal(batch.keep, expected.keep)


def test_copies_do_not_depend_on_the_batch_in_evaluation_mode() -> None:
    model = Unsteady()
    augment = EDDA(model, LayerGradCam(model, model.body), fill="blur")
    x = images(4, 3, 8, 8)
    together = augment(x, LABELS)
    alone = [augment(x[i : i + 1], LABELS[i : i + 1]) for i in range(4)]
    for name in ("keep", "drop", "explained", "correct", "region"):
        joined = torch.cat([getattr(batch, name) for batch in alone])
        torch.testing.assert_close(getattr(together, name), joined)


def test_modules_are_not_registered_and_pickles_work_alike() -> None:
    model = Unsteady()
    augment = EDDA(model, LayerGradCam(model, model.body))
    assert not augment.state_dict()
    x = images(4, 3, 8, 8)
    twin = pickle.loads(pickle.dumps(augment))
    assert torch.equal(twin(x, LABELS).keep, augment(x, LABELS).keep)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (EDDA, {"threshold": 0.5}, "set keep_ratio=None to use a threshold"),
        (EDDA, {"keep_ratio": None}, "both are None"),
        (EDDA, {"target": "other"}, "target must be"),
        (EDDA, {"placement": "mirror"}, "placement must be"),
        (EDDA, {"fill": "median"}, "fill must be"),
        (EDDA, {"explain_mode": "test"}, "explain_mode must be"),
        (ExConViews, {"threshold": 1.5}, "threshold must be"),
        (ExConViews, {"fill": "median"}, "fill must be"),
        (ExConViews, {"explain_mode": "test"}, "explain_mode must be"),
    ],
)
def test_options_out_of_range_are_refused(module, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        module(Brightest(), first_channel, **options)


def test_inputs_that_do_not_belong_together_are_refused() -> None:
    x = images(4, 3, 8, 8)
    with pytest.raises(ValueError, match=r"images must be \(N, C, H, W\)"):
        EDDA(Brightest(), first_channel)(x[0], LABELS)
    with pytest.raises(ValueError, match="labels must be class indices"):
        EDDA(Brightest(), first_channel)(x, LABELS[:3])
    with pytest.raises(ValueError, match="labels must be class indices"):
        EDDA(Brightest(), first_channel, target="label")(x, torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"maps must be of shape \(4, channels"):
        EDDA(Brightest(), first_channel)(x, LABELS, maps=x[:, 0])


def test_integer_images_are_refused_with_the_remedy() -> None:
    x = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"uint8.*v2.ToDtype\(torch.float32, scale=True\)"):
        EDDA(Brightest(), first_channel)(x, LABELS)


@pytest.mark.parametrize("options", [{}, {"placement": "shift"}, {"placement": "shuffle"}])
@pytest.mark.parametrize("fill", ["mean", "blur", "noise", 0.0])
def test_an_empty_batch_has_empty_copies_and_no_statistics_of_nan(options, fill) -> None:
    model = Unsteady()
    augment = EDDA(model, LayerGradCam(model, model.body), fill=fill, **options)
    batch = augment(torch.zeros(0, 3, 8, 8), LABELS[:0])
    assert batch.keep.shape == batch.drop.shape == (0, 3, 8, 8)
    assert batch.region.shape == (0, 1, 8, 8)
    assert batch.explained.shape == batch.constant.shape == batch.correct.shape == (0,)
    assert {value.item() for value in batch.statistics.values()} == {0}
