import collections
import copy
import inspect
import pickle
import warnings

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from captum_excon.transforms import Saliency

# Blurs and reflections of a few pixels ask for some size.
SIZES = st.integers(6, 20)
FRACTION = st.floats(0.0, 1.0)


def ramp(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def is_saliency(value: object, shape: tuple[int, ...]) -> bool:
    return type(value) is Saliency and tuple(value.shape) == shape


# Constructors whose arguments are drawn; images are interpolated bilinearly, as maps always are.
GEOMETRIC = {
    v2.Resize: {
        "size": st.one_of(SIZES, st.tuples(SIZES, SIZES)),
        "antialias": st.sampled_from([True, False, None]),
    },
    v2.RandomResize: {
        "min_size": st.integers(6, 10),
        "max_size": st.integers(11, 20),
        "antialias": st.booleans(),
    },
    v2.RandomShortestSize: {"min_size": SIZES, "antialias": st.booleans()},
    v2.ScaleJitter: {
        "target_size": st.just((24, 24)),
        "scale_range": st.just((1.0, 1.5)),
        "antialias": st.booleans(),
    },
    v2.CenterCrop: {"size": st.tuples(SIZES, SIZES)},
    v2.RandomCrop: {
        "size": st.tuples(SIZES, SIZES),
        "padding": st.one_of(st.none(), st.integers(0, 3)),
        "pad_if_needed": st.just(True),
        "fill": FRACTION,
        "padding_mode": st.sampled_from(["constant", "edge"]),
    },
    v2.RandomResizedCrop: {"size": st.tuples(SIZES, SIZES), "antialias": st.booleans()},
    v2.RandomHorizontalFlip: {},
    v2.RandomVerticalFlip: {},
    v2.Pad: {
        "padding": st.one_of(st.integers(0, 3), st.tuples(*[st.integers(0, 3)] * 4)),
        "fill": FRACTION,
        "padding_mode": st.sampled_from(["constant", "edge", "reflect", "symmetric"]),
    },
    v2.RandomZoomOut: {"fill": FRACTION, "side_range": st.just((1.0, 2.0))},
    v2.RandomRotation: {
        "degrees": st.floats(0, 180),
        "interpolation": st.just(InterpolationMode.BILINEAR),
        "expand": st.booleans(),
        "fill": FRACTION,
    },
    v2.RandomAffine: {
        "degrees": st.floats(0, 180),
        "translate": st.just((0.3, 0.3)),
        "scale": st.just((0.5, 1.5)),
        "shear": st.floats(0, 30),
        "interpolation": st.just(v2.InterpolationMode.BILINEAR),
        "fill": FRACTION,
    },
    v2.RandomPerspective: {"distortion_scale": st.floats(0, 0.9), "fill": FRACTION},
    v2.ElasticTransform: {
        "alpha": st.floats(1, 60),
        "sigma": st.floats(0.3, 0.5),
        "fill": FRACTION,
    },
}

# Whatever the image becomes, the map keeps its values and its place.
OTHERS = [
    v2.AugMix,
    v2.ColorJitter,
    v2.ConvertImageDtype,
    v2.GaussianBlur,
    v2.GaussianNoise,
    v2.Grayscale,
    v2.JPEG,
    v2.Normalize,
    v2.RandomAdjustSharpness,
    v2.RandomAutocontrast,
    v2.RandomChannelPermutation,
    v2.RandomEqualize,
    v2.RandomErasing,
    v2.RandomGrayscale,
    v2.RandomInvert,
    v2.RandomPhotometricDistort,
    v2.RandomPosterize,
    v2.RandomSolarize,
    v2.RGB,
    v2.ToDtype,
    v2.ToImage,
]


@st.composite
def transforms(draw):
    kind = draw(st.sampled_from(list(GEOMETRIC)))
    return kind(**{name: draw(values) for name, values in GEOMETRIC[kind].items()})


@st.composite
def pipelines(draw):
    steps = draw(st.lists(transforms(), min_size=1, max_size=4))
    wrapped = [
        draw(
            st.sampled_from([step, v2.RandomApply([step]), v2.RandomChoice([step, v2.Identity()])])
        )
        for step in steps
    ]
    return v2.Compose(wrapped)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(
    pipeline=pipelines(),
    height=st.integers(6, 24),
    width=st.integers(6, 24),
    batch=st.sampled_from([(), (2,)]),
    seed=st.integers(0, 2**20),
)
def test_a_map_that_equals_its_image_stays_equal_through_any_pipeline(
    pipeline, height, width, batch, seed
):
    values = ramp(*batch, 1, height, width, seed=seed)
    sample = {"image": tv_tensors.Image(values), "map": Saliency(values.clone())}
    torch.manual_seed(seed)
    result = pipeline(sample)
    assert type(result["map"]) is Saliency
    assert torch.equal(result["image"].as_subclass(Tensor), result["map"].as_subclass(Tensor))


@pytest.mark.parametrize("kind", list(GEOMETRIC))
def test_each_geometric_transform_moves_the_map(kind):
    # The property above would also hold for transforms that do nothing.
    options = {
        v2.Resize: {"size": 5},
        v2.RandomResize: {"min_size": 5, "max_size": 6},
        v2.RandomShortestSize: {"min_size": 5},
        v2.ScaleJitter: {"target_size": (5, 5)},
        v2.CenterCrop: {"size": 5},
        v2.RandomCrop: {"size": 5},
        v2.RandomResizedCrop: {"size": 5},
        v2.Pad: {"padding": 1},
        v2.RandomRotation: {"degrees": (20, 30)},
        v2.RandomAffine: {"degrees": (20, 30)},
        v2.ElasticTransform: {"sigma": 0.5},
    }.get(kind, {"p": 1.0})
    values = ramp(1, 9, 9)
    _, moved = kind(**options)(tv_tensors.Image(values), Saliency(values))
    assert type(moved) is Saliency
    assert moved.shape != values.shape or not torch.equal(moved, values)


def test_every_transform_of_v2_for_masks_is_in_the_property_or_leaves_values_alone():
    # A transform that a later torchvision adds must be looked at.
    others = {
        *(kind for kind in OTHERS),
        *(v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide, v2.MixUp, v2.CutMix),  # refused
        *(v2.FiveCrop, v2.TenCrop),  # refused
        *(v2.Compose, v2.RandomApply, v2.RandomChoice, v2.RandomOrder, v2.Identity, v2.Lambda),
        *(v2.ToTensor, v2.ToPILImage, v2.PILToTensor, v2.ToPureTensor, v2.Transform),
        *(v2.LinearTransformation, v2.UniformTemporalSubsample, v2.RandomIoUCrop),
        *(v2.ConvertBoundingBoxFormat, v2.ClampBoundingBoxes, v2.SanitizeBoundingBoxes),
    }
    known = {kind.__name__ for kind in {*GEOMETRIC, *others}}
    known |= {"ClampKeyPoints", "SetClampingMode", "SanitizeKeyPoints"}
    found = {
        name
        for name, kind in vars(v2).items()
        if inspect.isclass(kind) and issubclass(kind, v2.Transform)
    }
    assert not found - known


@pytest.mark.parametrize("kind", [kind for kind in OTHERS if kind is not v2.AugMix])
def test_other_transforms_leave_the_map_untouched(kind):
    options = {
        v2.ColorJitter: {"brightness": 0.5, "hue": 0.2},
        v2.ConvertImageDtype: {"dtype": torch.float64},
        v2.GaussianBlur: {"kernel_size": 3},
        v2.JPEG: {"quality": 20},
        v2.Normalize: {"mean": [0.5] * 3, "std": [0.1] * 3},
        v2.RandomAdjustSharpness: {"sharpness_factor": 3, "p": 1},
        v2.RandomErasing: {"p": 1},
        v2.RandomPosterize: {"bits": 2, "p": 1},
        v2.RandomSolarize: {"threshold": 0, "p": 1},
        v2.ToDtype: {"dtype": torch.float32, "scale": True},
    }.get(kind, {})
    if "p" in inspect.signature(kind).parameters:
        options.setdefault("p", 1)
    integers = kind in (v2.JPEG, v2.ToDtype, v2.RandomPosterize, v2.RandomEqualize)
    image = tv_tensors.Image(ramp(3, 32, 32))
    if integers:
        image = tv_tensors.Image((image * 255).to(torch.uint8))
    before = image.clone()
    values = ramp(1, 32, 32, seed=1) * 3 - 1
    saliency = Saliency(values.clone())
    with warnings.catch_warnings():
        # v2 says itself that it passes the map through.
        warnings.filterwarnings("ignore", "RandomErasing.* is currently passing through")
        # JPEG's own: torchvision moves its codecs elsewhere.
        warnings.filterwarnings("ignore", ".*encoding capabilities", DeprecationWarning)
        image, moved = kind(**options)(image, saliency)
    assert type(moved) is Saliency
    assert moved.dtype == (torch.float64 if kind is v2.ConvertImageDtype else torch.float32)
    assert torch.equal(moved.float(), values)
    if kind not in (v2.ToImage, v2.RGB, v2.RandomChannelPermutation):
        assert image.dtype != before.dtype or not torch.equal(image, before)


@pytest.mark.parametrize(
    "convert",
    [
        v2.ToDtype(torch.uint8, scale=True),
        v2.ToDtype({tv_tensors.Image: torch.uint8, "others": torch.int64}, scale=True),
        v2.ConvertImageDtype(torch.uint8),
    ],
)
def test_conversions_of_images_to_integers_leave_the_values(convert):
    saliency = Saliency(ramp(1, 4, 4))
    image, out = convert(tv_tensors.Image(ramp(3, 4, 4)), saliency)
    assert image.dtype == torch.uint8
    assert out.dtype == torch.float32
    assert torch.equal(out, saliency)


def test_precision_changes_when_asked_for_maps():
    saliency = Saliency([[0.5, -2.0]])
    _, out = v2.ToDtype({Saliency: torch.float64, "others": None})(
        tv_tensors.Image(ramp(3, 1, 2)), saliency
    )
    assert type(out) is Saliency
    assert out.dtype == torch.float64
    assert out.tolist() == [[0.5, -2.0]]


def test_maps_are_bilinear_where_images_are_not():
    column = torch.tensor([0.0, 1.0]).expand(1, 2, 2)
    image, saliency = v2.Resize((4, 4), interpolation=InterpolationMode.NEAREST)(
        tv_tensors.Image(column), Saliency(column)
    )
    assert image[0, 0].tolist() == [0, 0, 1, 1]
    assert saliency[0, 0].tolist() == [0, 0.25, 0.75, 1]
    values = torch.tensor([[[0.0, 0.0, 8.0, 0.0, 0.0]]])
    shift = {"angle": 0.0, "translate": [0.5, 0.0], "scale": 1.0, "shear": [0.0, 0.0]}
    assert F.affine(Saliency(values.expand(1, 3, 5)), **shift)[0, 1].tolist() == [0, 0, 4, 4, 0]
    for name in ("bicubic", "lanczos"):
        steps = torch.tensor([0.0, 1.0]).repeat_interleave(4).expand(1, 8, 8)
        moved = F.resize(Saliency(steps), [20, 20], interpolation=name)
        assert moved.min() >= 0
        assert moved.max() <= 1 + 1e-6
    expanded = F.affine(
        Saliency(values.expand(1, 3, 5)), angle=0.0, translate=[0, 0], scale=2.0, shear=[0, 0]
    )
    assert expanded[0, 1].tolist() == [0, 4, 8, 4, 0]


def test_antialias_follows_the_transform():
    checks = torch.tensor([[0.0, 1.0] * 8] * 16)[None]
    for antialias in (True, False):
        moved = v2.Resize(4, antialias=antialias)
        image, saliency = moved(tv_tensors.Image(checks), Saliency(checks))
        assert torch.equal(image.as_subclass(Tensor), saliency.as_subclass(Tensor))
    smooth, rough = (
        F.resize(Saliency(ramp(1, 16, 16)), [4, 4], antialias=a) for a in (True, False)
    )
    assert smooth.var() < rough.var()


@pytest.mark.parametrize("shape", [(9, 9), (1, 9, 9), (3, 9, 9), (4, 1, 9, 9), (2, 3, 1, 9, 9)])
@pytest.mark.parametrize(
    ("functional", "options", "size"),
    [
        (F.resize, {"size": [5, 7]}, (5, 7)),
        (F.crop, {"top": -1, "left": 2, "height": 4, "width": 5}, (4, 5)),
        (F.resized_crop, {"top": 1, "left": 2, "height": 4, "width": 5, "size": [3, 6]}, (3, 6)),
        (F.center_crop, {"output_size": [11, 5]}, (11, 5)),
        (F.horizontal_flip, {}, (9, 9)),
        (F.vertical_flip, {}, (9, 9)),
        (F.rotate, {"angle": 45, "expand": True}, (13, 13)),
        (
            F.affine,
            {"angle": 10, "translate": [1, 2], "scale": 1.2, "shear": [5, 5]},
            (9, 9),
        ),
        (F.pad, {"padding": [1, 2, 3, 4]}, (15, 13)),
        (
            F.perspective,
            {
                "startpoints": [[0, 0], [8, 0], [8, 8], [0, 8]],
                "endpoints": [[1, 1], [7, 0], [8, 7], [0, 8]],
            },
            (9, 9),
        ),
        (F.elastic, {"displacement": torch.full((1, 9, 9, 2), 0.1)}, (9, 9)),
    ],
)
def test_functionals_keep_the_type_and_leading_dimensions(functional, options, size, shape):
    values = ramp(*shape)
    interpolates = "interpolation" in inspect.signature(functional).parameters
    as_map, as_image = (
        {"interpolation": mode} if interpolates else {}
        for mode in (InterpolationMode.NEAREST, InterpolationMode.BILINEAR)
    )
    moved = functional(Saliency(values), **options, **as_map)
    assert is_saliency(moved, (*shape[:-2], *size))
    # Each map of a batch moves as it does alone, and as a bilinear image does.
    flat = values.reshape(-1, 1, 9, 9)
    expected = torch.stack([functional(x, **options, **as_image) for x in flat])
    torch.testing.assert_close(
        moved.as_subclass(Tensor).reshape(expected.shape), expected, atol=1e-6, rtol=0
    )


# Each leaves the first pixel outside the image.
FILLED = {
    "pad": lambda fill: v2.Pad(2, fill=fill),
    "crop": lambda fill: v2.RandomCrop(15, padding=3, fill=fill),
    "rotate": lambda fill: v2.RandomRotation((45, 45), fill=fill),
    "affine": lambda fill: v2.RandomAffine(0, scale=(0.5, 0.5), fill=fill),
}


@pytest.mark.parametrize("name", FILLED)
@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ((0.5, 0.25, 0.75), 0.0),
        ({tv_tensors.Image: (0.5, 0.25, 0.75), "others": 0}, 0.0),
        ({tv_tensors.Image: 0.5, Saliency: 0}, 0.0),
        ({tv_tensors.Image: 0.5, Saliency: -0.5}, -0.5),
        ({tv_tensors.Image: 0.5, Saliency: None}, 0.0),
        (0, 0.0),
        ([0.5], 0.5),
        (0.5, 0.5),
    ],
)
def test_a_number_fills_maps_and_a_colour_does_not(name, fill, expected):
    image, saliency = FILLED[name](fill)(
        tv_tensors.Image(torch.ones(3, 9, 9)), Saliency(torch.ones(1, 9, 9))
    )
    assert image[0, 0, 0] == (0 if fill == 0 else 0.5)
    assert saliency[0, 0, 0] == expected
    assert saliency[0, saliency.shape[1] // 2, saliency.shape[2] // 2] == 1


def test_black_around_an_image_meets_zero_around_its_map_with_the_same_edge():
    values = ramp(1, 9, 9) + 1
    rotate = v2.RandomRotation((20, 20), InterpolationMode.BILINEAR, fill=(0, 0, 0))
    image, saliency = rotate(tv_tensors.Image(values.expand(3, 9, 9)), Saliency(values))
    assert torch.equal(image[:1], saliency.as_subclass(Tensor))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_move_to_the_same_pixels(dtype):
    # A single bright pixel far from the origin, where half precision cannot count pixels.
    values = torch.zeros(1, 300, 300)
    values[0, 280, 290] = 1
    for move in (
        lambda s: F.affine(s, angle=0, translate=[-3, -5], scale=1.0, shear=[0, 0]),
        lambda s: F.perspective(
            s,
            [[0, 0], [299, 0], [299, 299], [0, 299]],
            [[-3, -5], [296, -5], [296, 294], [-3, 294]],
        ),
        lambda s: F.pad(F.resize(s, [600, 600]), [1]),
    ):
        expected, moved = move(Saliency(values)), move(Saliency(values.to(dtype)))
        assert moved.dtype == dtype
        torch.testing.assert_close(moved.float(), expected.as_subclass(Tensor), atol=4e-3, rtol=0)


@pytest.mark.parametrize(
    "refusing",
    [
        v2.AutoAugment(),
        v2.RandAugment(),
        v2.TrivialAugmentWide(),
        v2.AugMix(),
        v2.FiveCrop(4),
        v2.TenCrop(4),
    ],
)
def test_v2_refuses_rather_than_leave_the_map_behind(refusing):
    sample = tv_tensors.Image(torch.zeros(3, 8, 8, dtype=torch.uint8)), Saliency(ramp(1, 8, 8))
    with pytest.raises(TypeError, match="not support"):
        refusing(*sample)


@pytest.mark.parametrize("mix", [v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)])
def test_v2_does_not_mix_images_without_their_maps(mix):
    batch = ramp(2, 3, 8, 8), torch.tensor([0, 1]), Saliency(ramp(2, 1, 8, 8))
    with pytest.raises(ValueError, match="does not support"):
        mix(*batch)


def test_a_map_gives_the_size_of_a_sample():
    saliency = Saliency(ramp(1, 8, 8))
    assert F.get_size(saliency) == [8, 8]
    assert is_saliency(v2.RandomResizedCrop(4)(saliency), (1, 4, 4))


def test_plain_images_and_pil_images_keep_their_maps():
    saliency = Saliency(torch.tensor([[[0.0, 1.0, 2.0]]]))
    flip = v2.RandomHorizontalFlip(p=1)
    for image in (ramp(3, 1, 3), F.to_pil_image(ramp(3, 1, 3))):
        _, label, moved = flip(image, torch.tensor([7, 8]), saliency)
        assert label.tolist() == [7, 8]
        assert moved.tolist() == [[[2, 1, 0]]]


@pytest.mark.parametrize(
    "move",
    [
        v2.RandomResizedCrop(24),
        v2.Resize((20, 30)),
        v2.RandomAffine(30, (0.2, 0.2), (0.7, 1.3), 20, InterpolationMode.BILINEAR),
        v2.RandomPerspective(0.5, p=1),
        v2.RandomRotation(40, InterpolationMode.BILINEAR, expand=True),
    ],
)
def test_pictures_of_pillow_and_of_bytes_move_to_the_same_pixels(move):
    # Smooth, so that the 8 bits of the picture and Pillow's own edges are what may differ.
    axis = torch.linspace(0, 3, 32).sin()
    values = (axis[:, None] * axis.flip(0)[None])[None]
    values[:, :8, 20:] = 0
    for picture in (F.to_pil_image(values), tv_tensors.Image((values * 255).byte())):
        image, moved = move(picture, Saliency(values))
        difference = (F.to_image(image).float() / 255 - moved).abs()
        assert difference.shape == moved.shape
        assert difference.mean() < 0.02


def test_wraps_without_a_copy_and_unwraps_to_plain_tensors():
    values = ramp(1, 4, 4)
    saliency = Saliency(values)
    assert saliency.data_ptr() == values.data_ptr()
    assert isinstance(saliency, tv_tensors.TVTensor)
    assert type(saliency * 2) is Tensor
    assert type(v2.ToPureTensor()(saliency)) is Tensor
    assert is_saliency(tv_tensors.wrap(saliency * 2, like=saliency), (1, 4, 4))
    assert is_saliency(saliency.to(torch.float64), (1, 4, 4))
    assert is_saliency(saliency.clone(), (1, 4, 4))
    assert is_saliency(copy.deepcopy(saliency), (1, 4, 4))
    with tv_tensors.set_return_type("TVTensor"):
        assert is_saliency(saliency * 2, (1, 4, 4))


def test_takes_what_tensors_are_made_of():
    assert Saliency([[1.0, 2.0]]).tolist() == [[1, 2]]
    assert Saliency(ramp(2, 2).numpy()).dtype == torch.float32
    assert Saliency([[1, 2]], dtype=torch.float64).dtype == torch.float64
    assert Saliency([[1.0]], requires_grad=True).requires_grad
    assert Saliency([[1.0]], device="meta").device.type == "meta"


def test_gradients_flow_through_the_kernels():
    values = ramp(1, 4, 4).requires_grad_()
    moved = F.rotate(F.pad(F.resize(Saliency(values), [6, 6]), [1]), 45.0)
    moved.sum().backward()
    assert values.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.uint8), TypeError, "floating-point .* torch.uint8"),
        (torch.zeros(1, 4, 4, dtype=torch.bool), TypeError, "tv_tensors.Mask for labels"),
        ([[1, 2]], TypeError, "pass dtype=torch.float32"),
        (torch.zeros(4), ValueError, r"\(\.\.\., H, W\), but found \(4,\)"),
        (0.5, ValueError, r"but found \(\)"),
    ],
)
def test_refuses_what_is_no_map(data, error, message):
    with pytest.raises(error, match=message):
        Saliency(data)


def test_pickles():
    saliency = pickle.loads(pickle.dumps(Saliency([[0.5, 1.0]])))
    assert is_saliency(saliency, (1, 2))
    assert saliency.tolist() == [[0.5, 1.0]]


class Samples(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int):
        flip = v2.RandomHorizontalFlip(p=1)
        return *flip(tv_tensors.Image(ramp(3, 4, 4)), Saliency([[[0.0, 0.5, 1.0, i]]])), i


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_a_loader_hold_maps_that_still_move(workers):
    with warnings.catch_warnings():
        # Python warns of forking a process with threads, which pytest-timeout has.
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        images, maps, labels = next(iter(DataLoader(Samples(), 3, num_workers=workers)))
    assert is_saliency(maps, (3, 1, 1, 4))
    assert maps[:, 0, 0, 0].tolist() == labels.tolist() == [0, 1, 2]
    _, maps, _ = v2.RandomHorizontalFlip(p=1)(images, maps, labels)
    assert maps[2].tolist() == [[[0, 0.5, 1, 2]]]


def test_collating_maps_of_different_sizes_is_torchs_own_error():
    with pytest.raises(RuntimeError, match="equal size"):
        default_collate([Saliency(ramp(1, 4, 4)), Saliency(ramp(1, 5, 5))])


def detection_sample(seed: int) -> tuple[tv_tensors.Image, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    corner = 60 * torch.rand(1, 2, generator=generator)
    boxes = torch.cat([corner, corner + 1.2], 1)  # small enough for a crop to cut below one pixel
    image = tv_tensors.Image(torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))
    target = {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(64, 64)),  # type: ignore[call-arg, arg-type]
        "labels": torch.ones(1, dtype=torch.int64),
        "map": Saliency(ramp(1, 64, 64)),
    }
    return image, target


def test_torchvisions_detection_recipe_keeps_the_map_of_an_image_that_loses_its_box():
    recipe = v2.Compose(  # references/detection/presets.py, "ssd"
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=collections.defaultdict(lambda: 123, {tv_tensors.Mask: 0})),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.ConvertBoundingBoxFormat(tv_tensors.BoundingBoxFormat.XYXY),
            v2.SanitizeBoundingBoxes(),
        ]
    )
    torch.manual_seed(0)
    lost = 0
    for seed in range(40):
        image, target = recipe(*detection_sample(seed))
        lost += len(target["boxes"]) == 0
        assert target["map"].shape == (1, *image.shape[-2:])
    assert lost > 0


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 8)])
def test_a_map_is_not_an_instances_mask_where_there_is_one_box(shape):
    boxes = tv_tensors.BoundingBoxes([[5.0, 5.0, 5.0, 5.0]], format="XYXY", canvas_size=(8, 8))  # type: ignore[call-arg, arg-type]
    saliency, mask = Saliency(ramp(*shape)), tv_tensors.Mask(torch.ones(1, 8, 8))
    left = v2.SanitizeBoundingBoxes(labels_getter=None)({"b": boxes, "s": saliency, "m": mask})
    assert left["b"].shape == (0, 4)
    assert left["m"].shape == (0, 8, 8)
    assert left["s"] is saliency


def test_maps_of_a_batch_are_selected_by_a_mask_and_one_map_is_not():
    chosen = torch.tensor([True])
    assert Saliency(ramp(1, 1, 4, 4))[chosen].shape == (1, 1, 4, 4)
    assert Saliency(ramp(1, 4, 4))[0].shape == (4, 4)
    with pytest.raises(IndexError, match=r"as_subclass\(torch.Tensor\)"):
        Saliency(ramp(1, 4, 4))[chosen]
