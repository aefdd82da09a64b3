"""FusedGradCAM and FusedGroupCAM: values by hand, second implementations, rows, classes."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LayerGradCam
from helpers import oracles
from helpers.toys import LAYERS, ConvNet, CountedRows, Dense, ToyCase, images, state, toy_cases
from torch import Tensor, nn

from captum_excon.attr import FusedGradCAM, FusedGroupCAM, fuse_layers
from captum_excon.attr._core.grouping import grouped


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[None, None]


class Pairs(nn.Module):
    """maps = [relu(x), relu(-x)]; parts = means of two neighbours; y = Σ weights · sum of parts."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv1d(1, 2, 1, bias=False), nn.ReLU())
        self.maps[0].weight.data = torch.tensor([[[1.0]], [[-1.0]]])
        self.parts = nn.AvgPool1d(2)
        self.weights = nn.Parameter(torch.tensor(weights, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return (self.parts(self.maps(x)).sum(2) @ self.weights)[:, None]


# x = [4, 0, 0, -2], weights 2 and 1. Up-sampling 2 -> 4 gives [a, 3a/4 + b/4, a/4 + 3b/4, b].
# parts: B_0 = [2, 0], B_1 = [0, 1], mean gradients 2 and 1: Grad-CAM [4, 1], up-sampled
#   [4, 3.25, 1.75, 1], divided by 4: C_2 = [1, 0.8125, 0.4375, 0.25].
# maps: A_0 = [4, 0, 0, 0], A_1 = [0, 0, 0, 2], mean gradients 1 and 1/2: [4, 0, 0, 1] / 4 = C_1.
# Gated: (C_1 + C_2) C_2 = [2, 0.66015625, 0.19140625, 0.125].
INPUT = row(4, 0, 0, -2)
PLAIN = {"scales": (1,), "mirror": False}
GATED = row(2, 0.66015625, 0.19140625, 0.125)


def test_fused_grad_cam_by_hand() -> None:
    cam = FusedGradCAM(Pairs(2, 1), ["maps", "parts"])
    torch.testing.assert_close(cam.attribute(INPUT, target=0, smooth=0), GATED)
    torch.testing.assert_close(
        cam.attribute(INPUT, target=0, smooth=0, fusion="product"), row(1, 0, 0, 0.0625)
    )


def test_fused_group_cam_by_hand() -> None:
    # Two groups, for B_0 and B_1 have no position in common: masks m_0 = [1, 3/4, 1/4, 0] and
    # m_1 = 1 - m_0, areas 2 and 2. x m_0 = [4, 0, 0, 0]: y = 2 * 2 = 4; x m_1 = [0, 0, 0, -2]:
    # y = 1 * 1. V = 4/2 m_0 + 1/2 m_1 rises with m_0, so min-max gives m_0.
    cam = FusedGroupCAM(Pairs(2, 1), ["maps", "parts"])
    attribution = cam.attribute(INPUT, target=0, score="identity", smooth=0, **PLAIN)
    torch.testing.assert_close(attribution, GATED * row(1, 0.75, 0.25, 0))


def test_one_group_is_the_deepest_grad_cam_with_its_minimum_at_zero() -> None:
    # One mask: C_2 scaled to [0, 1] is V, whatever its score.
    cam = FusedGroupCAM(Pairs(2, 1), ["parts"])
    attribution = cam.attribute(INPUT, target=0, score="identity", groups=1, smooth=0, **PLAIN)
    first = row(1, 0.8125, 0.4375, 0.25)
    torch.testing.assert_close(attribution, first * (first - 0.25) / 0.75)


def test_a_class_without_a_positive_gradient_has_no_map_and_says_so() -> None:
    for cls in (FusedGradCAM, FusedGroupCAM):
        with pytest.warns(UserWarning, match=f"{cls.__name__}: 1 of 1 maps are all zero"):
            assert not cls(Pairs(-2, -1), ["maps", "parts"]).attribute(INPUT, target=0).any()


def test_groups_by_hand() -> None:
    # Two directions; the third map is twice the first, and an empty one belongs to none.
    maps = torch.tensor([[[2.0, 0, 0], [0, 0, 1], [4, 0, 0], [0, 0, 0], [0, 0.1, 1]]])
    expected = torch.tensor([[[6.0, 0, 0], [0, 0.1, 2]]])
    torch.testing.assert_close(grouped(maps, 2), expected)
    # More groups than directions: the rest is empty, and the sum is kept.
    assert torch.equal(grouped(maps[:, :3], 4)[0, 2:], torch.zeros(2, 3))
    torch.testing.assert_close(grouped(maps, 3).sum(1), maps.sum(1))


@toy_cases(seeds=4)
@pytest.mark.filterwarnings("ignore:.*all zero.*:UserWarning")
def test_the_methods_agree_with_their_second_implementations(case: ToyCase) -> None:
    model, inputs, targets = case.build()
    fused = FusedGradCAM(model, LAYERS).attribute(inputs, target=targets)
    grouped = FusedGroupCAM(model, LAYERS).attribute(inputs, target=targets, groups=3)
    for i, target in enumerate(targets):
        expected = oracles.fused_grad_cam(model, inputs[i], target, LAYERS)
        torch.testing.assert_close(fused[i, 0].double(), expected, rtol=1e-4, atol=1e-5)
        expected = oracles.fused_group_cam(model, inputs[i], target, LAYERS, groups=3)
        torch.testing.assert_close(grouped[i, 0].double(), expected, rtol=1e-4, atol=1e-5)


def test_fused_grad_cam_is_what_fuse_layers_makes_of_captums_grad_cam() -> None:
    model, inputs = ConvNet(seed=2), images(3, 1, 16, 20)
    maps = [LayerGradCam(model, getattr(model, n)).attribute(inputs, target=1) for n in LAYERS]
    expected = fuse_layers(maps, (16, 20))
    torch.testing.assert_close(FusedGradCAM(model, LAYERS).attribute(inputs, target=1), expected)


def test_fused_grad_cam_takes_one_forward_row_an_image_and_leaves_no_trace() -> None:
    model, inputs = ConvNet(seed=3, in_channels=2), images(5, 2, 12, 10)
    before = state(model)
    with CountedRows(model) as counted:
        maps = FusedGradCAM(model, LAYERS).attribute(inputs, target=[0, 1, 2, 0, 1])
    assert counted.rows == 5
    assert state(model) == before
    assert maps.shape == inputs.shape
    with CountedRows(model) as counted:
        classes = FusedGradCAM(model, LAYERS).attribute_classes(inputs, [0, 1, 2])
    assert counted.rows == 5
    torch.testing.assert_close(classes[1][1], maps[1])


@pytest.mark.parametrize("groups", [1, 3, 8])
def test_fused_group_cam_takes_at_most_as_many_rows_as_groups_and_views(groups: int) -> None:
    model, inputs = ConvNet(seed=3), images(4, 1, 12, 10)
    with CountedRows(model) as counted:
        FusedGroupCAM(model, LAYERS).attribute(inputs, target=1, groups=groups)
    assert counted.rows <= 4 * (min(groups, 7) + 3)  # the deepest layer has 7 maps


@pytest.mark.parametrize("cls", [FusedGradCAM, FusedGroupCAM])
def test_another_class_has_another_map(cls: type) -> None:
    inputs = images(4, 1, 16, 20, seed=4)
    first, second = cls(ConvNet(seed=4), LAYERS).attribute_classes(inputs, [0, 1])
    for a, b in zip(first, second, strict=True):
        assert oracles.correlation(a, b) < 0.9


def test_views_are_averaged_where_the_image_shows_the_same_thing() -> None:
    # The mean of a map and that of the mirrored image, mirrored back, is symmetric for a network
    # that is; and the view of a larger image is the same map, up to interpolation.
    inputs = images(2, 1, 16, 20, seed=6)
    cam = FusedGradCAM(ConvNet(seed=6), LAYERS)
    plain = cam.attribute(inputs, target=1)
    both = cam.attribute(inputs, target=1, mirror=True)
    mirrored = cam.attribute(inputs.flip(-1), target=1, mirror=True)
    torch.testing.assert_close(mirrored.flip(-1), both)
    assert not torch.allclose(both, plain)
    larger = cam.attribute(inputs, target=1, scales=(1, 1.5))
    assert larger.shape == plain.shape
    assert not torch.allclose(larger, plain)


class OneSize(ConvNet):
    """ConvNet that takes images of 12 x 10 only."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (12, 10):
            raise AssertionError(f"wrong size {tuple(x.shape[2:])}")
        return super().forward(x)


def test_a_model_of_one_size_has_no_larger_view_unless_it_is_asked_for() -> None:
    cam, inputs = FusedGroupCAM(OneSize(seed=3), LAYERS), images(2, 1, 12, 10)
    maps = cam.attribute(inputs, target=1)
    torch.testing.assert_close(maps, cam.attribute(inputs, target=1, scales=(1,)))
    with pytest.raises(AssertionError, match=r"wrong size \(18, 15\)"):
        cam.attribute(inputs, target=1, scales=(1, 1.5))
    with pytest.raises(AssertionError, match="wrong size"):
        cam.attribute(images(1, 1, 8, 8), target=1)


def test_outputs_with_positions_have_one_view() -> None:
    model, inputs = Dense(seed=1), images(2, 1, 12, 10)
    with CountedRows(model) as counted:
        FusedGradCAM(model, LAYERS).attribute(inputs, target=(1, 2, 3), scales=(1, 2), mirror=True)
    assert counted.rows == 2


@pytest.mark.parametrize("scales", [(), (1.5,), (1, 0), (1, -2), (1, "2"), (1, float("inf"))])
def test_scales_out_of_range_are_refused(scales: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="scales must be positive numbers of which the first is 1"):
        FusedGradCAM(ConvNet(), LAYERS).attribute(images(1, 1, 8, 8), target=0, scales=scales)


@pytest.mark.parametrize("groups", [0, -1, 2.5, None])
def test_groups_out_of_range_are_refused(groups: object) -> None:
    with pytest.raises(ValueError, match="groups must be a positive integer"):
        FusedGroupCAM(ConvNet(), LAYERS).attribute(images(1, 1, 8, 8), target=0, groups=groups)
