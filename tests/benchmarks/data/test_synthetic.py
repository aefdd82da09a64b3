import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.explanations.data.readers.synthetic import (
    CLASSES,
    MAX_EXCESS,
    SyntheticNet,
    SyntheticObjects,
)
from captum_excon import AdaptiveHybridCAM, select_layers

ITEMS = [SyntheticObjects(48)[i] for i in range(48)]
IMAGES = torch.stack([item.image for item in ITEMS])
LABELS = torch.tensor([item.label for item in ITEMS])
MASKS = torch.stack([item.mask for item in ITEMS])
DISTRACTORS = torch.stack([item.distractor for item in ITEMS])
NET = SyntheticNet()


def excess(colours: Tensor) -> Tensor:
    """How far red or green exceeds the mean of the other two, (N, 3, ...) -> (N, ...)."""
    red, green, blue = colours.unbind(1)
    return (red - (green + blue) / 2).maximum(green - (red + blue) / 2)


def own_logits(images: Tensor) -> Tensor:
    return NET(images).gather(1, LABELS[: len(images), None])[:, 0]


def outside(pixels: Tensor) -> Tensor:
    """The images with other pixels outside of the objects."""
    return torch.where(MASKS[: len(pixels), None], IMAGES[: len(pixels)], pixels)


@pytest.mark.parametrize("size", [48, 64, 97])
def test_the_network_is_right_on_every_image_and_sure_of_most(size: int) -> None:
    data = SyntheticObjects(200, size, seed=5)
    items = [data[i] for i in range(len(data))]
    labels = torch.tensor([item.label for item in items])
    with torch.no_grad():
        logits = NET(torch.stack([item.image for item in items]))
    assert (logits.argmax(1) == labels).all()
    assert logits.softmax(1).amax(1).median() > 0.99
    assert logits.softmax(1).amax(1).min() > 0.5


def test_images_are_what_they_say() -> None:
    assert IMAGES.shape == (48, 3, 64, 64)
    assert (IMAGES.dtype, MASKS.dtype) == (torch.float32, torch.bool)
    assert 0 <= IMAGES.min() < IMAGES.max() <= 1
    assert LABELS.bincount().tolist() == [12] * len(CLASSES)
    assert not (MASKS & DISTRACTORS).any()
    for shapes in (MASKS, DISTRACTORS):
        areas = shapes.float().mean((1, 2))
        assert 0.01 < areas.min() < areas.max() < 0.25
    # Only the object is of colours that the network sees.
    assert excess(IMAGES)[MASKS].min() > MAX_EXCESS + 0.1
    assert excess(IMAGES)[~MASKS].max() < MAX_EXCESS


def test_the_distractor_is_as_strong_to_the_eye_as_the_object() -> None:
    """Its stripes differ by as much in brightness, in another direction than the object's."""
    grey = IMAGES.mean(1)
    contrast = [
        torch.stack([g[m].std() for g, m in zip(grey, masks, strict=True)]).mean()
        for masks in (MASKS, DISTRACTORS)
    ]
    assert contrast[1] > contrast[0]


def test_all_depends_on_the_seed_and_the_item_alone() -> None:
    state = torch.get_rng_state()
    again = SyntheticObjects(1000)[7]
    assert torch.equal(again.image, ITEMS[7].image)
    assert torch.equal(again.mask, ITEMS[7].mask)
    assert not torch.equal(SyntheticObjects(8, seed=1)[7].image, ITEMS[7].image)
    assert not torch.equal(ITEMS[3].mask, ITEMS[7].mask)
    again_net = SyntheticNet()
    for name, value in NET.state_dict().items():
        assert torch.equal(again_net.state_dict()[name], value)
    assert torch.equal(torch.get_rng_state(), state)


def test_outside_of_the_object_every_gradient_of_every_logit_is_zero() -> None:
    images = IMAGES.clone().requires_grad_()
    logits = NET(images)
    for c in range(len(CLASSES)):
        (gradient,) = torch.autograd.grad(logits[:, c].sum(), images, retain_graph=True)
        assert not gradient.movedim(1, -1)[~MASKS].any()
        assert gradient.movedim(1, -1)[MASKS].any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_no_colours_of_little_excess_outside_of_the_object_change_a_bit(seed: int) -> None:
    """Independent at every pixel; scaled towards their grey where red or green are too strong."""
    colours = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    grey = colours.mean(1, keepdim=True)
    limit = MAX_EXCESS - 1e-3
    colours = grey + (colours - grey) * limit / excess(colours).clamp(min=limit)[:, None]
    assert excess(colours).amax() > 0.29
    with torch.no_grad():
        assert torch.equal(NET(outside(colours)), NET(IMAGES[:4]))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_grey_outside_of_the_object_changes_no_bit(value: float) -> None:
    with torch.no_grad():
        assert torch.equal(NET(outside(torch.full_like(IMAGES, value))), NET(IMAGES))


def test_without_the_object_all_logits_are_zero() -> None:
    with torch.no_grad():
        assert not NET(torch.where(MASKS[:, None], 0.0, IMAGES)).any()


def test_a_distractor_that_the_network_saw_would_change_its_mind() -> None:
    """The invariance is that of colours: red and green stripes in its place do matter."""
    stripes = IMAGES[1:2].roll((5, 9), (2, 3)).expand(47, -1, -1, -1)
    seen = torch.where(DISTRACTORS[:47, None], stripes, IMAGES[:47])
    with torch.no_grad():
        assert not torch.equal(NET(seen), NET(IMAGES[:47]))


def test_nearly_every_pixel_of_the_object_raises_the_logit_of_its_class() -> None:
    e = NET.excess(IMAGES).detach().requires_grad_()
    logits = NET.head(NET.pool(NET.block3(NET.block2(NET.block1(e)))).flatten(1))
    own = logits.gather(1, LABELS[:, None])[:, 0]
    (gradient,) = torch.autograd.grad(own.sum(), e)
    share = (e * gradient).sum(1)
    # Homogeneity: the shares of the pixels add up to the logit.
    torch.testing.assert_close(share.sum((1, 2)), own.detach(), atol=1e-4, rtol=1e-4)
    assert (share[MASKS] > 0).float().mean() > 0.9
    assert not share[~MASKS].any()


def test_each_part_of_the_object_matters() -> None:
    """Taking any quarter of it away lowers the logit."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    middle = [m.nonzero().float().mean(0) for m in MASKS]
    with torch.no_grad():
        whole = own_logits(IMAGES)
        for below in (True, False):
            for right in (True, False):
                quarter = torch.stack(
                    [((y > c[0]) == below) & ((x > c[1]) == right) for c in middle]
                )
                gone = (quarter & MASKS)[:, None]
                assert (own_logits(torch.where(gone, 0.0, IMAGES)) < whole).all()


def test_several_blocks_give_layers_to_select_and_weights_of_both_signs() -> None:
    layers = select_layers(NET, IMAGES[:1])
    assert [(layer.name, layer.size) for layer in layers] == [
        ("block1", (64, 64)),
        ("block2", (32, 32)),
        ("block3", (16, 16)),
    ]
    maps = NET.block3(NET.block2(NET.block1(NET.excess(IMAGES[:8]))))
    assert (maps.amax((0, 2, 3)) > 0).all()
    assert (NET.head.weight > 0).any()
    assert (NET.head.weight < 0).any()


def test_explanations_find_the_object_better_than_chance() -> None:
    """EBPG, the share of the map's energy inside of the mask, by a method of ours and a peer."""
    x, labels, masks = IMAGES[:8], LABELS[:8], MASKS[:8]
    cam = LayerGradCam(NET, NET.block3)
    coarse = cam.attribute(x, target=labels, relu_attributions=True)
    maps = {
        "LayerGradCam": cam.interpolate(coarse, (64, 64), "bilinear"),
        "AdaptiveHybridCAM": AdaptiveHybridCAM(NET).attribute(x, target=labels).mean(1, True),
    }
    chance = masks.float().mean((1, 2))
    for name, found in maps.items():
        energy = (found[:, 0] * masks).sum((1, 2)) / found[:, 0].sum((1, 2))
        assert (energy > 3 * chance).all(), name


@pytest.mark.parametrize("options", [{"count": 0}, {"size": 47}])
def test_too_few_or_too_small_images_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        SyntheticObjects(**options)


@pytest.mark.parametrize("index", [-1, 48])
def test_there_are_no_items_beyond_the_last(index: int) -> None:
    with pytest.raises(IndexError, match=f"no item {index} among 48"):
        SyntheticObjects(48)[index]
