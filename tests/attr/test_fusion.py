"""Fusion of layers' maps: values by hand, and what fusing must not do."""

import pytest
import torch
from helpers.toys import LAYERS, ConvNet, images
from torch import Tensor

from captum_excon.attr import AdaptiveHybridCAM, MultiLayerSISE, fuse_layers
from captum_excon.attr._core.fusion import fuse, gaussian


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[None, None]


SHALLOW, DEEP = row(1, 0.5, 0.25, 0), row(0, 0.5, 1, 0.5)
HERE, ABSENT = torch.tensor([True]), torch.tensor([False])


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        ("gated", (0, 0.5, 1.25, 0.25)),  # (1 + 0) 0, (0.5 + 0.5) 0.5, (0.25 + 1) 1, (0 + 0.5) 0.5
        ("product", (0, 0.25, 0.25, 0)),
        ("sum", (1, 1, 1.25, 0.5)),
    ],
)
def test_fusions_by_hand(fusion: str, expected: tuple[float, ...]) -> None:
    assert torch.equal(fuse([SHALLOW, DEEP], [HERE, HERE], fusion), row(*expected))


@pytest.mark.parametrize("fusion", ["gated", "product", "otsu", "soft_otsu", "sum"])
def test_an_absent_layer_neither_contributes_nor_masks(fusion: str) -> None:
    nothing = torch.zeros_like(DEEP)
    two = fuse([SHALLOW, DEEP], [HERE, HERE], fusion)
    assert torch.equal(fuse([SHALLOW, nothing, DEEP], [HERE, ABSENT, HERE], fusion), two)
    assert torch.equal(fuse([SHALLOW, DEEP, nothing], [HERE, HERE, ABSENT], fusion), two)
    if fusion in ("gated", "product"):
        assert torch.equal(fuse([nothing, DEEP], [ABSENT, HERE], fusion), DEEP)


def test_a_gate_is_zero_only_where_the_deepest_map_is() -> None:
    inputs = images(2, 1, 16, 20, seed=4)
    sise = MultiLayerSISE(ConvNet(seed=4), LAYERS)
    otsu = sise.attribute(inputs, target=1)
    gated, (*_, deepest) = sise.attribute(inputs, target=1, fusion="gated", return_layer_maps=True)
    assert torch.equal(gated == 0, deepest == 0)
    assert (otsu == 0).sum() > 2 * (gated == 0).sum()


def test_smoothing_by_hand_reflects_at_the_border_and_keeps_constants() -> None:
    # Two cells on four pixels and σ = 1/4 cell: half a pixel, radius round(1.5) = 2; weights
    # exp(-2), exp(-8) beside 1 over 1 + 2 exp(-2) + 2 exp(-8). Reflected, pixel -1 is pixel 1.
    near, far = 0.1353353, 0.0003355
    total = 1 + 2 * near + 2 * far
    expected = row(1, near, far, 0) / total
    torch.testing.assert_close(gaussian(row(1, 0, 0, 0), 0.25, (2,)), expected)
    flat = torch.full((2, 1, 5, 3), 7.0)
    torch.testing.assert_close(gaussian(flat, 0.5, (3, 2)), flat)
    assert torch.equal(gaussian(SHALLOW, 0.0, (2,)), SHALLOW)


def test_smoothing_wider_than_the_map_stays_within_its_range() -> None:
    smoothed = gaussian(SHALLOW, 50.0, (1,))
    assert 0 <= smoothed.min() <= smoothed.max() <= 1


def test_fuse_layers_by_hand() -> None:
    # [-2, 2] up-sampled to four is [-2, -1, 1, 2]; rectified and divided by 2: [0, 0, 0.5, 1].
    # Channels sum to the second map, [4, 2, 0, -9]: [1, 0.5, 0, 0]. An empty map is left out.
    shallow, empty = row(-2, 2), row(-1, -1)
    deep = torch.tensor([[[5.0, 2, 0, -9], [-1, 0, 0, 0]]])
    fused = fuse_layers([shallow, empty, deep], (4,), smooth=0)
    torch.testing.assert_close(fused, row((0 + 1) * 1, (0 + 0.5) * 0.5, 0, 0))
    assert torch.equal(fuse_layers([empty, empty], (4,)), torch.zeros(1, 1, 4))


def test_options_out_of_range_are_refused_with_what_was_expected() -> None:
    sise = AdaptiveHybridCAM(ConvNet(), LAYERS)
    with pytest.raises(ValueError, match=r"fusion must be one of .*'gated'"):
        sise.attribute(images(1, 1, 8, 8), target=0, fusion="gate")
    for smooth in (-0.1, float("nan"), float("inf"), "wide"):
        with pytest.raises(ValueError, match="smooth must be a number of cells >= 0"):
            sise.attribute(images(1, 1, 8, 8), target=0, smooth=smooth)
    with pytest.raises(ValueError, match=r"found \[\(1, 1, 4\)\]"):
        fuse_layers([row(1, 2, 3, 4)], (4, 4))
