import copy
import pickle

import pytest
import torch
from captum.attr import IntegratedGradients, LayerGradCam
from captum.attr import Saliency as GradientSaliency
from helpers.explained_toys import Unsteady, first_channel, left_as_it_was
from helpers.toys import images
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2

from captum_excon import AdaptiveHybridCAM
from captum_excon.transforms import ExplanationMask, RandomOcclusion, Saliency

LABELS = torch.tensor([0, 1, 2, 3])
GOLDEN = [[0.0, 1.0], [2.0, 4.0]]


def golden_sample() -> tuple[tv_tensors.Image, Saliency]:
    image = tv_tensors.Image(torch.tensor([[[5.0, 6.0], [7.0, 8.0]]]))
    return image, Saliency(torch.tensor([GOLDEN]))


def test_the_golden_mask_keeps_and_drops_the_last_pixel() -> None:
    kept, saliency = ExplanationMask()(*golden_sample())
    dropped, _ = ExplanationMask(keep="non_salient", fill=-1.0)(*golden_sample())
    assert kept.tolist() == [[[0, 0], [0, 8]]]
    assert dropped.tolist() == [[[5, 6], [7, -1]]]
    assert isinstance(kept, tv_tensors.Image)
    assert saliency.tolist() == [GOLDEN]


def test_a_ratio_replaces_the_threshold() -> None:
    kept, _ = ExplanationMask(keep_ratio=0.5)(*golden_sample())
    assert kept.tolist() == [[[0, 0], [7, 8]]]


@pytest.mark.parametrize("options", [{"threshold": 0.3}, {"keep_ratio": 0.4}])
def test_keep_and_drop_are_complementary(options) -> None:
    x = images(4, 3, 9, 6)
    kept, _ = ExplanationMask(first_channel, **options)(x, LABELS)
    dropped, _ = ExplanationMask(first_channel, keep="non_salient", **options)(x, LABELS)
    torch.testing.assert_close(kept + dropped, x)
    assert ((kept == 0) ^ (dropped == 0)).all()


EXPLAINERS = {
    "LayerGradCam": lambda model: LayerGradCam(model, model.body),
    "Saliency": GradientSaliency,
    "IntegratedGradients": IntegratedGradients,
    "AdaptiveHybridCAM": lambda model: AdaptiveHybridCAM(model, [model.stem, model.body]),
    "function": lambda _: first_channel,
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_batches_are_explained_by_any_attribution_with_nothing_disturbed(name) -> None:
    model = Unsteady()
    mask = ExplanationMask(EXPLAINERS[name](model), keep_ratio=0.25)
    x = images(4, 3, 8, 8)
    with left_as_it_was(model):
        masked, labels = mask(x, LABELS)
    assert labels is LABELS
    assert (masked != 0).any(1).flatten(1).sum(1).tolist() == [16] * 4
    assert torch.equal(masked[masked != 0], x[masked != 0])
    assert mask.constant_maps == 0


def test_each_image_is_explained_for_its_own_label() -> None:
    seen = []

    def explainer(x, targets):
        seen.append(targets)
        return x[:, :1]

    ExplanationMask(explainer)(images(4, 3, 8, 8), LABELS.int())
    assert seen[0].tolist() == [0, 1, 2, 3]
    assert seen[0].dtype == torch.int64


@pytest.mark.parametrize("cls", [ExplanationMask, RandomOcclusion])
@pytest.mark.parametrize("keep", ["salient", "non_salient"])
def test_images_whose_maps_say_nothing_stay_and_are_counted(cls, keep) -> None:
    maps = images(4, 1, 8, 8)
    maps[1] = 3.0
    maps[2, 0, 0, 0] = float("nan")
    mask = cls(lambda *_: maps, keep=keep)
    x = images(4, 3, 8, 8)
    for calls in (1, 2):
        masked, _ = mask(x, LABELS)
        assert (masked == x).flatten(1).all(1).tolist() == [False, True, True, False]
        assert mask.constant_maps == 2 * calls


def test_pipelines_and_loaders_take_it() -> None:
    model = Unsteady()
    mask = ExplanationMask(LayerGradCam(model, model.body), threshold=0.5)
    dataset = [
        (tv_tensors.Image(x), int(y)) for x, y in zip(images(4, 3, 8, 8), LABELS, strict=True)
    ]
    pipeline = v2.Compose([mask, v2.ToDtype(torch.float64)])
    loader = DataLoader(dataset, 4, collate_fn=lambda batch: pipeline(*default_collate(batch)))
    ((masked, labels),) = loader
    assert labels.tolist() == [0, 1, 2, 3]
    assert masked.dtype == torch.float64
    assert (masked == 0).all(1).any()


def test_samples_with_maps_are_masked_before_and_after_collation() -> None:
    samples = [
        {"label": 1, "image": tv_tensors.Image(x), "map": Saliency(x[:1])}
        for x in images(4, 3, 8, 8)
    ]
    mask = ExplanationMask(keep_ratio=0.3)
    early = default_collate([mask(sample)["image"] for sample in samples])
    batch = {key: [sample[key] for sample in samples] for key in ("image", "map")}
    late = mask({key: default_collate(values) for key, values in batch.items()})
    assert isinstance(late["map"], Saliency)
    assert torch.equal(late["image"], early)


def test_a_map_without_a_channel_belongs_to_its_image() -> None:
    image, saliency = golden_sample()
    assert ExplanationMask()(image, Saliency(saliency[0]))[0].tolist() == [[[0, 0], [0, 8]]]


def test_a_map_in_the_sample_is_used_before_the_explainer() -> None:
    def explainer(*_):
        raise AssertionError("not needed")

    assert ExplanationMask(explainer)(*golden_sample())[0].tolist() == [[[0, 0], [0, 8]]]


def test_make_params_and_transform_are_the_override_points() -> None:
    class TopRow(ExplanationMask):
        def make_params(self, flat_inputs):
            params = super().make_params(flat_inputs)
            params["occluded"][:] = torch.tensor([[True, True], [False, False]])
            return params

    assert TopRow()(*golden_sample())[0].tolist() == [[[0, 0], [7, 8]]]


@pytest.mark.parametrize("cls", [ExplanationMask, RandomOcclusion])
def test_generators_make_it_repeat_and_leave_the_global_state(cls) -> None:
    x = images(4, 3, 8, 8)
    before = torch.get_rng_state()
    runs = [
        cls(first_channel, fill="noise", generator=torch.Generator().manual_seed(3))(x, LABELS)[0]
        for _ in range(2)
    ]
    assert torch.equal(*runs)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cls", [ExplanationMask, RandomOcclusion])
def test_pickles_and_copies_work_alike(cls) -> None:
    model = Unsteady()
    mask = cls(
        LayerGradCam(model, model.body),
        fill="noise",
        generator=torch.Generator().manual_seed(3),
    )
    twins = [pickle.loads(pickle.dumps(mask)), copy.deepcopy(mask)]
    x = images(4, 3, 8, 8)
    expected, _ = mask(x, LABELS)
    for twin in twins:
        assert torch.equal(twin(x, LABELS)[0], expected)


def test_no_module_is_registered() -> None:
    model = Unsteady()
    mask = ExplanationMask(lambda x, _: model(x), fill=torch.nn.Identity())
    assert not list(mask.parameters())
    assert not list(mask.children())


@pytest.mark.parametrize("placement", ["shift", "shuffle"])
@pytest.mark.parametrize("keep", ["salient", "non_salient"])
def test_the_control_has_the_same_areas_elsewhere(placement, keep) -> None:
    x = images(4, 3, 16, 16)
    options = {"keep": keep, "threshold": 0.7}
    masked, _ = ExplanationMask(first_channel, **options)(x, LABELS)
    control = RandomOcclusion(first_channel, placement=placement, **options)
    first, second = (control(x, LABELS)[0] for _ in range(2))
    areas = [(image == 0).all(1).flatten(1).sum(1).tolist() for image in (masked, first, second)]
    assert areas[0] == areas[1] == areas[2]
    assert not torch.equal(masked, first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("placement", "connected"), [("shift", True), ("shuffle", False)])
def test_the_control_moves_or_scatters(placement, connected) -> None:
    saliency = torch.zeros(1, 16, 16)
    saliency[:, 3:7, 5:9] = 1
    control = RandomOcclusion(placement=placement)
    image, _ = control(torch.ones(1, 16, 16), Saliency(saliency))
    rows = image[0].any(1).sum().item()
    assert image.sum() == 16
    assert (rows == 4) == connected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": None}, "both are None"),
        ({"keep_ratio": 2}, "keep_ratio must lie"),
        ({"keep": "all"}, "keep must be"),
        ({"fill": "median"}, "fill must be"),
        ({"placement": "mirror"}, "placement must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        RandomOcclusion(**options)


def test_samples_that_lack_something_are_refused_with_the_remedy() -> None:
    image, saliency = golden_sample()
    x = images(4, 3, 8, 8)
    explaining = ExplanationMask(first_channel)
    with pytest.raises(ValueError, match="give the transform an explainer"):
        ExplanationMask()(x, LABELS)
    with pytest.raises(ValueError, match="let geometric transforms see both"):
        ExplanationMask()(v2.functional.resize(image, [4, 4]), saliency)
    with pytest.raises(ValueError, match=r"must have one image.*found \[\]"):
        ExplanationMask()(saliency)
    with pytest.raises(ValueError, match="must have one image"):
        ExplanationMask()(image, image, saliency)
    with pytest.raises(ValueError, match="ToImage"):
        ExplanationMask()(Image.new("RGB", (2, 2)), saliency)
    with pytest.raises(ValueError, match="after the loader"):
        explaining(image, torch.tensor(1))
    with pytest.raises(ValueError, match="has 0 of that kind"):
        explaining(x, torch.rand(4, 3))
    with pytest.raises(ValueError, match="has 2 of that kind"):
        explaining(x, LABELS, torch.arange(4))


def test_a_map_that_is_empty_is_refused() -> None:
    image, saliency = golden_sample()
    with pytest.raises(ValueError, match="no channels"):
        ExplanationMask()(image, Saliency(saliency.as_subclass(torch.Tensor)[:0]))


def test_integer_images_are_masked_by_ready_made_maps_and_not_explained() -> None:
    x = tv_tensors.Image(torch.tensor([[[5, 6], [7, 8]]], dtype=torch.uint8))
    kept, _ = ExplanationMask(fill=9)(x, golden_sample()[1])
    assert kept.dtype == torch.uint8
    assert kept.tolist() == [[[9, 9], [9, 8]]]
    with pytest.raises(TypeError, match=r"uint8.*v2.ToDtype\(torch.float32, scale=True\)"):
        ExplanationMask(first_channel)(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), LABELS)


def test_maps_of_a_single_pixel_are_warned_of() -> None:
    x = images(4, 3, 8, 8)
    mask = ExplanationMask(lambda x, _: x.mean((2, 3), keepdim=True))
    with pytest.warns(UserWarning, match="1x1.*earlier layer"):
        masked, _ = mask(x, LABELS)
    assert torch.equal(masked, x)
    assert mask.constant_maps == 4


@pytest.mark.parametrize("options", [{}, {"keep_ratio": 0.3}])
@pytest.mark.parametrize("cls", [ExplanationMask, RandomOcclusion])
def test_an_empty_batch_stays_empty(cls, options) -> None:
    model = Unsteady()
    mask = cls(LayerGradCam(model, model.body), **options)
    masked, labels = mask(torch.zeros(0, 3, 8, 8), LABELS[:0])
    assert masked.shape == (0, 3, 8, 8)
    assert labels.shape == (0,)
    assert mask.constant_maps == 0
