import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from helpers.explained_toys import (
    Brightest,
    NoSynchronisation,
    Unsteady,
    first_channel,
    left_as_it_was,
)
from helpers.toys import CountedRows, images
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from captum_excon.transforms import EDDA, ExConViews

LABELS = torch.tensor([0, 1, 2, 3])


def hand_made() -> tuple[Tensor, Tensor, Tensor]:
    """Four images of two channels and four pixels; the classifier names the brighter channel.

    Masked by their first channel they keep one pixel: of the first image a 0-ish one, of the
    second a 1-ish one, of the third a 0-ish one; the fourth has a constant map.
    """
    standard = torch.tensor(
        [
            [[0.0, 1.0, 2.0, 9.0], [5.0, 5.0, 5.0, 1.0]],
            [[0.0, 1.0, 2.0, 5.0], [0.0, 0.0, 0.0, 6.0]],
            [[0.0, 1.0, 2.0, 5.0], [9.0, 9.0, 9.0, 4.0]],
            [[3.0, 3.0, 3.0, 3.0], [9.0, 9.0, 9.0, 9.0]],
        ]
    ).view(4, 2, 2, 2)
    return standard, torch.full_like(standard, 10.0), torch.full_like(standard, 20.0)


HAND_LABELS = torch.tensor([0, 1, 1, 1])


def only_last(values: list[float]) -> list[float]:
    return [0, 0, 0, values[0], 0, 0, 0, values[1]]


@pytest.mark.parametrize("background", [False, True])
def test_masked_images_are_accepted_where_the_classifier_still_sees_the_label(background) -> None:
    batch = ExConViews(Brightest(), first_channel, background=background)(*hand_made(), HAND_LABELS)
    assert batch.accepted.tolist() == [True, True, False, False]
    assert batch.views[:4, 0].flatten(1).tolist() == [
        only_last([9, 1]),
        only_last([5, 6]),
        [20.0] * 8,
        [20.0] * 8,
    ]
    assert (batch.views[:4, 1] == 10).all()
    assert batch.statistics["acceptance_rate"].item() == 0.5
    assert batch.statistics["kept_area"].item() == 0.25
    assert batch.statistics["constant_maps"].item() == 1


def test_excon_has_no_backgrounds() -> None:
    batch = ExConViews(Brightest(), first_channel)(*hand_made(), HAND_LABELS)
    assert len(batch.views) == 4
    assert batch.labels.tolist() == [0, 1, 1, 1]
    assert not batch.background.any()
    assert batch.statistics["backgrounds"].item() == 0


def test_exconb_appends_rejected_masked_images_in_both_slots() -> None:
    views = ExConViews(Brightest(), first_channel, background=True)
    batch = views(*hand_made(), HAND_LABELS)
    assert batch.background.tolist() == [False] * 4 + [True]
    assert batch.labels.tolist() == [0, 1, 1, 1, 1]
    assert batch.views[4].flatten(1).tolist() == [only_last([5, 4])] * 2
    assert batch.accepted.shape == (4,)
    assert batch.statistics["backgrounds"].item() == 1


def test_labels_become_int64_and_may_be_of_any_integer_type() -> None:
    batch = ExConViews(Brightest(), first_channel)(*hand_made(), HAND_LABELS.to(torch.uint8))
    assert batch.labels.dtype == torch.int64


def test_maps_that_are_not_finite_get_the_back_up_view() -> None:
    views = ExConViews(Brightest(), lambda x, _: x[:, :1] * float("nan"), background=True)
    batch = views(*hand_made(), HAND_LABELS)
    assert (batch.views[:, 0] == 20).all()
    assert len(batch.views) == 4
    assert batch.statistics["constant_maps"].item() == 4
    assert batch.statistics["kept_area"].item() == 0


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("background", [False, True])
def test_a_call_leaves_a_training_classifier_as_it_was(mode, background) -> None:
    model = Unsteady()
    x = images(4, 3, 8, 8)
    F.cross_entropy(model(x), LABELS).backward()
    views = ExConViews(
        model, LayerGradCam(model, model.body), explain_mode=mode, background=background
    )
    with left_as_it_was(model):
        batch = views(x, x, x, LABELS)
    assert batch.views.shape[1:] == (2, 3, 8, 8)
    assert not batch.views.requires_grad


def test_a_teacher_that_is_explained_instead_is_left_as_it_was() -> None:
    model, teacher = Unsteady(), Unsteady()
    x = images(4, 3, 8, 8)
    views = ExConViews(model, LayerGradCam(teacher, teacher.body))
    with left_as_it_was(model), left_as_it_was(teacher):
        views(x, x, x, LABELS)


def test_in_evaluation_mode_views_do_not_depend_on_the_batch() -> None:
    model = Unsteady()
    views = ExConViews(model, LayerGradCam(model, model.body))
    x = images(12, 3, 8, 8).unflatten(0, (3, 4))
    labels = model.eval()(x[0]).argmax(1)
    together = views(*x, labels)
    alone = [views(*x[:, i : i + 1], labels[i : i + 1]) for i in range(4)]
    assert together.accepted.any()
    for name in ("views", "accepted", "labels"):
        joined = torch.cat([getattr(batch, name) for batch in alone])
        torch.testing.assert_close(getattr(together, name), joined)


def test_a_step_costs_one_explanation_and_one_masked_pass() -> None:
    model = Unsteady()
    x = images(4, 3, 8, 8)
    for module, calls in (
        (ExConViews(model, LayerGradCam(model, model.body)), [4, 4]),
        (ExConViews(model, first_channel), [4]),
    ):
        with CountedRows(model) as rows:
            module(x, x, x, LABELS)
        assert rows.calls == calls


def test_ready_made_maps_of_any_size_replace_the_explanation() -> None:
    def explainer(*_):
        raise AssertionError("not needed")

    views = ExConViews(Brightest(), explainer, threshold=0.5)
    x = torch.ones(1, 1, 4, 4)
    maps = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float16)
    batch = views(x, x, x, torch.tensor([0]), maps=maps)
    assert batch.views[0, 0, 0].tolist() == [[0, 0, 1, 1]] * 4


def test_plain_functions_classify_and_explain() -> None:
    model = Brightest()
    expected = ExConViews(model, first_channel)(*hand_made(), HAND_LABELS)
    batch = ExConViews(lambda x: model(x), first_channel)(*hand_made(), HAND_LABELS)
    assert torch.equal(batch.views, expected.views)


@pytest.mark.parametrize("wrap", [pytest.param("compile", marks=pytest.mark.slow), "distributed"])
def test_wrapped_classifiers_give_the_same_views_between_training_steps(wrap, tmp_path) -> None:
    model = Unsteady()
    x = images(4, 3, 8, 8)
    expected = ExConViews(model, LayerGradCam(model, model.body))(x, x, x, LABELS)
    if wrap == "compile":
        wrapped = torch.compile(model, backend="eager")
    else:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        wrapped = DistributedDataParallel(model)
    try:
        weights = copy.deepcopy(model.state_dict())
        views = ExConViews(wrapped, LayerGradCam(wrapped, model.body))
        for _ in range(2):
            model.load_state_dict(weights)  # the training step moves the running statistics
            with left_as_it_was(model):
                batch = views(x, x, x, LABELS)
            assert torch.equal(batch.views, expected.views)
            F.cross_entropy(wrapped(batch.views[:, 0]), LABELS).backward()
    finally:
        if wrap == "distributed":
            torch.distributed.destroy_process_group()


def test_training_under_autocast_gets_all_gradients_after_the_views() -> None:
    model = Unsteady().eval()
    reference = copy.deepcopy(model)
    x = images(4, 3, 8, 8)
    views = ExConViews(model, LayerGradCam(model, model.body))
    outside = views(x, x, x, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        batch = views(x, x, x, LABELS)
        F.cross_entropy(model(batch.views[:, 0]), LABELS).backward()
        F.cross_entropy(reference(batch.views[:, 0]), LABELS).backward()
    assert torch.equal(batch.views, outside.views)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_precision_of_map_and_acceptance_is_asked_for() -> None:
    seen = []

    def classifier(x: Tensor) -> Tensor:
        seen.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return x.sum((2, 3))

    for dtype in (None, torch.bfloat16):
        ExConViews(classifier, first_channel, autocast_dtype=dtype)(*hand_made(), HAND_LABELS)
    assert seen == [None, torch.bfloat16]


def test_noise_is_drawn_from_the_generator_or_anew_each_time() -> None:
    x = images(4, 3, 8, 8)
    model = lambda v: torch.eye(4) + v.mean()  # noqa: E731 - accepts all
    with_generator = [
        ExConViews(model, first_channel, fill="noise", generator=torch.Generator().manual_seed(1))(
            x, x, x, LABELS
        ).views
        for _ in range(2)
    ]
    assert torch.equal(*with_generator)
    views = ExConViews(model, first_channel, fill="noise")
    assert not torch.equal(views(x, x, x, LABELS).views, views(x, x, x, LABELS).views)


@pytest.mark.parametrize("kind", ["function", "LayerGradCam"])
@pytest.mark.parametrize("module", ["excon", "edda"])
@pytest.mark.parametrize("options", [{"fill": "noise"}, {"fill": "blur"}, {"keep_ratio": 0.3}])
def test_the_host_never_waits_for_the_device(kind, module, options) -> None:
    model = Unsteady()
    explainer = first_channel if kind == "function" else LayerGradCam(model, model.body)
    x = images(4, 3, 8, 8)
    if module == "excon":
        views = ExConViews(model, explainer, **options)
        with NoSynchronisation():
            views(x, x, x, LABELS)
    else:
        for placement in (None, "shift", "shuffle"):
            augment = EDDA(model, explainer, placement=placement, **options)
            with NoSynchronisation():
                augment(x, LABELS)


def test_the_guard_against_waiting_sees_the_one_size_that_exconb_needs() -> None:
    views = ExConViews(Brightest(), first_channel, background=True)
    with pytest.raises(AssertionError, match="waits for the device"), NoSynchronisation():
        views(*hand_made(), HAND_LABELS)


def test_modules_are_not_registered_and_pickles_work_alike() -> None:
    model = Unsteady()
    views = ExConViews(model, LayerGradCam(model, model.body), fill=torch.nn.Identity())
    assert not views.state_dict()
    assert not list(views.children())
    x = images(4, 3, 8, 8)
    twin = pickle.loads(pickle.dumps(views))
    assert torch.equal(twin(x, x, x, LABELS).views, views(x, x, x, LABELS).views)
    assert twin.classifier is not model


def test_inputs_that_do_not_belong_together_are_refused() -> None:
    views = ExConViews(Brightest(), first_channel)
    standard, random1, random2 = hand_made()
    with pytest.raises(ValueError, match="batches"):
        views(standard, random1[:2], random2, HAND_LABELS)
    with pytest.raises(ValueError, match=r"class indices of shape \(4,\)"):
        views(standard, random1, random2, HAND_LABELS.float())
    with pytest.raises(ValueError, match=r"class indices of shape \(4,\)"):
        views(standard, random1, random2, HAND_LABELS[:1])
    with pytest.raises(TypeError, match="classifier must be a module or a function"):
        ExConViews("resnet", first_channel)


def test_integer_images_are_refused_with_the_remedy() -> None:
    standard = torch.zeros(3, 4, 2, 2, 2, dtype=torch.uint8)
    with pytest.raises(TypeError, match=r"uint8.*v2.ToDtype\(torch.float32, scale=True\)"):
        ExConViews(Brightest(), first_channel)(*standard, HAND_LABELS)


@pytest.mark.parametrize("background", [False, True])
def test_an_empty_batch_has_empty_views_and_no_statistics_of_nan(background) -> None:
    model = Unsteady()
    views = ExConViews(model, LayerGradCam(model, model.body), background=background)
    batch = views(*torch.zeros(3, 0, 3, 8, 8), LABELS[:0])
    assert batch.views.shape == (0, 2, 3, 8, 8)
    assert batch.labels.shape == batch.accepted.shape == batch.background.shape == (0,)
    assert {value.item() for value in batch.statistics.values()} == {0}
