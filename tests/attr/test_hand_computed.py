"""Networks small enough to explain with pencil and paper; every expected number is derived here.

Linear up-sampling without aligned corners puts output i of n at (i + 1/2) s - 1/2 with s = small/n,
clamped to the ends: 2 -> 6 gives [a, a, 2a/3 + b/3, a/3 + 2b/3, b, b]; 3 -> 4 reads the positions
0, 0.625, 1.375, 2.
"""

import math

import pytest
import torch
from helpers.toys import CountedRows
from torch import Tensor, nn

from captum_excon.attr import RISE, AdaptiveHybridCAM, IntegratedGradCAM, MultiLayerSISE, ScoreCAM


class Sums(nn.Module):
    """Classes are weighted sums of the maps' means over pairs or triples of positions.

    maps = relu(kernel * x + shift), parts = averages of `pool` neighbours,
    logits[c] = sum over k of weights[c, k] * sum of parts[k].
    """

    def __init__(
        self,
        kernel: list[list[float]],
        weights: list[list[float]],
        *,
        shift: list[float] | None = None,
        pool: int = 1,
        rectified: bool = True,
    ) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv1d(1, len(kernel), len(kernel[0])), nn.ReLU() if rectified else nn.Identity()
        )
        self.parts = nn.AvgPool1d(pool)
        self.weights = nn.Parameter(torch.tensor(weights))
        self.maps[0].weight.data = torch.tensor(kernel)[:, None]
        self.maps[0].bias.data = torch.tensor(shift or [0.0] * len(kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(self.maps(x)).sum(2) @ self.weights.T


class Squares(Sums):
    """logits[c] = sum over k of weights[c, k] * (sum of maps[k])² / 2.

    d logits[c] / d maps[k] is weights[c, k] * (sum of maps[k]) at every position, so that this
    product is also the mean gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x).sum(2).square() @ self.weights.T / 2


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[None, None]


# SISE. x = [6, 0, 0, 0, 0, -3]; maps: A_0 = relu(x) = [6, 0, 0, 0, 0, 0], A_1 = relu(-x) =
# [0, 0, 0, 0, 0, 3]; parts (averages of three): B_0 = [2, 0], B_1 = [0, 1]; y_0 = ΣB_0 + ΣB_1 / 2.
# Gradients, summed over positions: parts 2 [1, 1/2] = [2, 1]; maps 6 [1, 1/2] / 3 = [2, 1].
# Both maps of both layers have a positive gradient.
#
# maps: masks m_0 = [1, 0, 0, 0, 0, 0] and m_1 = [0, 0, 0, 0, 0, 1], areas 1 and 1.
#   x m_0 = [6, 0, ...]: y_0 = 2.  x m_1 = [..., -3]: y_0 = 1/2.
#   V = (2 m_0 + m_1 / 2) / 2 = [1, 0, 0, 0, 0, 1/4], min-max leaves it.
# parts: masks m_0 = [1, 1, 2/3, 1/3, 0, 0] and m_1 = 1 - m_0, areas 3 and 3.
#   x m_0 = [6, 0, ...]: y_0 = 2.  x m_1 = [..., -3]: y_0 = 1/2.
#   V = (2/3 m_0 + 1/6 m_1) / 2, increasing in m_0, so min-max gives m_0.
# Otsu of {0, 0, 1/3, 2/3, 1, 1}: between-class variance n_0 n_1 (mean_0 - mean_1)²
#   after 0: 2 * 4 * (3/4)² = 4.5; after 1/3: 3 * 3 * (7/9)² = 5.44; after 2/3: 4.5.
#   1/3 is in bin 85 of 256, whose centre is 85.5 / 256 = 0.33398: the first three stay.
SISE_INPUT = row(6.0, 0.0, 0.0, 0.0, 0.0, -3.0)
PARTS_MAP = [1, 1, 2 / 3, 1 / 3, 0, 0]


def sise_model(*, dead_class: bool = False) -> Sums:
    other = [-1.0, -1.0] if dead_class else [0.0, 0.0]
    return Sums([[1.0], [-1.0]], [[1.0, 0.5], other], pool=3)


def test_sise_adds_the_layer_maps_from_shallow_to_deep_and_masks_by_the_otsu_region() -> None:
    model = sise_model()
    sise = MultiLayerSISE(model, layers=["maps", "parts"])
    attribution, layer_maps = sise.attribute(
        SISE_INPUT, target=0, score="identity", return_layer_maps=True
    )
    torch.testing.assert_close(layer_maps[0], row(1, 0, 0, 0, 0, 0.25))
    torch.testing.assert_close(layer_maps[1], row(*PARTS_MAP))
    # (V_1 + V_2) on the first three positions
    torch.testing.assert_close(attribution, row(2, 1, 2 / 3, 0, 0, 0))


def test_sise_in_the_other_order_masks_by_the_other_layer() -> None:
    # Otsu of [1, 0, 0, 0, 0, 1/4]: after 0: 4 * 2 * (0.625)² = 3.125; after 1/4: 5 * 1 * 0.95² =
    # 4.51: the threshold is the centre of the bin of 1/4 (bin 64: [0.25, 0.2539], centre 0.25195),
    # so only the first position stays: 1 + 1.
    sise = MultiLayerSISE(sise_model(), layers=["parts", "maps"])
    attribution = sise.attribute(SISE_INPUT, target=0, score="identity")
    torch.testing.assert_close(attribution, row(2, 0, 0, 0, 0, 0))


def test_sise_divides_by_the_area_and_scores_with_the_softmax_probability() -> None:
    # The logits are (y_0, 0), so the probability is sigmoid(y_0): sigmoid(2) and sigmoid(1/2) for
    # the two masks of `maps`: V = (sigmoid(2) m_0 + sigmoid(1/2) m_1) / 2.
    sise = MultiLayerSISE(sise_model(), layers=["maps"])
    expected = row(1, 0, 0, 0, 0, 0.62245933 / 0.88079708)
    torch.testing.assert_close(sise.attribute(SISE_INPUT, target=0), expected)
    torch.testing.assert_close(sise.attribute(SISE_INPUT, target=0, score="sigmoid"), expected)


def test_sise_of_masks_of_different_areas() -> None:
    # x = [0, 0, 1, -1]; kernels [1, 1] and [1, 0]: A_0 = [0, 1, 0], A_1 = [0, 0, 1];
    #   y = ΣA_0 + ΣA_1.
    # Up-sampled to four: [0, 5/8, 5/8, 0], whose maximum is *not* that of A_0, and [0, 0, 3/8, 1].
    # m_0 = [0, 1, 1, 0], area 2; x m_0 = [0, 0, 1, 0]: A_0 = [0, 1, 1], A_1 = [0, 0, 1]: y = 3.
    # m_1 = [0, 0, 3/8, 1], area 11/8; x m_1 = [0, 0, 3/8, -1]: A_0 = [0, 3/8, 0],
    #   A_1 = [0, 0, 3/8]: y = 3/4.
    # 2 V = 3/2 m_0 + (3/4) / (11/8) m_1 = [0, 3/2, 3/2 + (6/11)(3/8), 6/11]
    #     = [0, 1.5, 1.704545, 0.545455]; divided by 1.704545: [0, 0.88, 1, 0.32].
    model = Sums([[1.0, 1.0], [1.0, 0.0]], [[1.0, 1.0]])
    sise = MultiLayerSISE(model, layers=["maps"])
    attribution = sise.attribute(row(0.0, 0.0, 1.0, -1.0), target=0, score="identity")
    torch.testing.assert_close(attribution, row(0, 0.88, 1, 0.32))


def test_sise_shows_the_baseline_where_a_mask_hides() -> None:
    # With b = 1 the masked inputs are [6, 1, 1, 1, 1, 1]: B_0 sums to 11/3, y = 11/3, and
    # [1, 1, 1, 1, 1, -3]: B_0 sums to 5/3, B_1 to 1, y = 5/3 + 1/2 = 13/6.
    sise = MultiLayerSISE(sise_model(), layers=["maps"])
    for baseline in (1, 1.0, torch.ones(1, 1, 6)):
        attribution = sise.attribute(SISE_INPUT, baseline, target=0, score="identity")
        torch.testing.assert_close(attribution, row(1, 0, 0, 0, 0, (13 / 6) / (11 / 3)))


def test_sise_threshold_is_a_fraction_of_the_largest_gradient_and_strict() -> None:
    # The gradients are [2, 1]: at 0.5 the second does not exceed 1, just below it does.
    model = sise_model()
    sise = MultiLayerSISE(model, layers=["maps"])
    for threshold, masks in [(0.0, 2), (0.49, 2), (0.5, 1), (0.99, 1)]:
        with CountedRows(model) as counted:
            attribution = sise.attribute(
                SISE_INPUT, target=0, score="identity", threshold=threshold
            )
        assert counted.rows == masks + 1
        torch.testing.assert_close(attribution, row(1, 0, 0, 0, 0, 0.25 if masks == 2 else 0))


def test_sise_keeps_what_exceeds_the_otsu_threshold_and_not_what_equals_it() -> None:
    # The only mask is x itself, of area 2, and its score is 1: V = x / 2, scaled back to x.
    # Otsu of {0, c, 1 - c, 1} with c = 64.5 / 256 splits after c (2 * 2 * 0.748² against
    # 1 * 3 * 0.667²), and c is the centre of its bin, so it equals the threshold.
    c = 64.5 / 256
    sise = MultiLayerSISE(Sums([[1.0]], [[1.0]]), layers=["maps", "parts"])
    attribution = sise.attribute(
        row(0, c, 1 - c, 1), target=0, score=lambda output: 1 + output - output.detach()
    )
    assert torch.equal(attribution, row(0, 0, 2 * (1 - c), 2))


def test_sise_fusion_sum_is_the_plain_sum_of_the_layer_maps() -> None:
    sise = MultiLayerSISE(sise_model(), layers=["maps", "parts"])
    attribution = sise.attribute(SISE_INPUT, target=0, score="identity", fusion="sum")
    torch.testing.assert_close(attribution, row(2, 1, 2 / 3, 1 / 3, 0, 0.25))


def test_sise_fusion_soft_otsu_weighs_by_a_sigmoid() -> None:
    # t = 85.5 / 256 = 0.333984; half of the positions exceed 1.5 t, so t stays.
    # Position 3: 1/3 * sigmoid(100 (1/3 - t)) = 1/3 * sigmoid(-0.0651) = 1/3 * 0.48373;
    # position 5: 1/4 * sigmoid(-33.4), less than 1e-14.
    sise = MultiLayerSISE(sise_model(), layers=["maps", "parts"])
    attribution = sise.attribute(SISE_INPUT, target=0, score="identity", fusion="soft_otsu")
    torch.testing.assert_close(attribution, row(2, 1, 2 / 3, 0.161243, 0, 0), rtol=1e-4, atol=1e-6)


def test_sise_fusion_soft_otsu_raises_the_threshold_when_few_positions_exceed_it() -> None:
    # Two layers with the same map, x itself: 10 zeros, 0.0025, 0.6, 1. Otsu: the lower class ends
    # in bin 0 (11 * 2 * 0.8² = 14.08) rather than after 0.6 (12 * 1 * 0.95² = 10.83), so that
    # t = 0.5 / 256 = 0.001953. Two of 13 positions, 15 %, exceed 1.5 t = 0.00293: t stays.
    # With 20 zeros it is two of 23, 9 %: t is raised to 1.5 t.
    # It shows at 0.0025: 2 * 0.0025 * sigmoid(100 (0.0025 - t)), where the sigmoid is 0.513668 for
    # t and 0.489259 for 1.5 t; at 0.6 and 1 it is 1.
    model = Sums([[1.0]], [[1.0]])
    sise = MultiLayerSISE(model, layers=["maps", "parts"])
    for zeros, expected in [(10, 0.513668), (20, 0.489259)]:
        x = row(*[0.0] * zeros, 0.0025, 0.6, 1.0)
        attribution = sise.attribute(x, target=0, score="identity", fusion="soft_otsu")
        assert attribution[0, 0, zeros].item() == pytest.approx(0.005 * expected, rel=1e-4)
        torch.testing.assert_close(attribution[0, 0, -2:], torch.tensor([1.2, 2.0]))


def test_sise_rectifies_signed_maps_unless_told_otherwise() -> None:
    # maps = x = [-2, 0, 1, 2], one mask: rectified [0, 0, 1/2, 1], else (x + 2) / 4.
    model = Sums([[1.0]], [[1.0]], rectified=False)
    sise = MultiLayerSISE(model, layers=["maps"])
    x = row(-2.0, 0.0, 1.0, 2.0)
    attribution = sise.attribute(x, target=0, score="identity")
    torch.testing.assert_close(attribution, row(0, 0, 0.5, 1))
    attribution = sise.attribute(x, target=0, score="identity", rectify=False)
    torch.testing.assert_close(attribution, row(0, 0.5, 0.75, 1))


def test_sise_drops_constant_maps() -> None:
    # A_1 = relu(0 x + 1) = 1 has the largest gradient and makes no mask.
    model = Sums([[1.0], [0.0]], [[1.0, 2.0]], shift=[0.0, 1.0])
    sise = MultiLayerSISE(model, layers=["maps"])
    with CountedRows(model) as counted:
        attribution = sise.attribute(row(0.0, 1.0, 2.0, 4.0), target=0, score="identity")
    assert counted.rows == 2
    torch.testing.assert_close(attribution, row(0, 0.25, 0.5, 1))


def test_sise_without_a_positive_gradient_is_zero_and_warns_once() -> None:
    sise = MultiLayerSISE(sise_model(dead_class=True), layers=["maps", "parts"])
    with pytest.warns(UserWarning, match="positive gradient") as warned:
        attribution = sise.attribute(SISE_INPUT.expand(3, 1, 6), target=1, score="identity")
    assert len(warned) == 1
    assert torch.equal(attribution, torch.zeros(3, 1, 6))


def test_sise_of_masks_that_cancel_out_is_zero_and_not_their_rounding_errors() -> None:
    # The masks of `parts` are m and 1 - m. With equal scores, V is the same everywhere.
    sise = MultiLayerSISE(Sums([[1.0], [-1.0]], [[1.0, 1.0]], pool=3), layers=["parts"])
    for value in (6.0, 0.7, 1.1, 3.3):
        with pytest.warns(UserWarning, match="all zero"):
            attribution = sise.attribute(row(value, 0, 0, 0, 0, -value), target=0, score="identity")
        assert torch.equal(attribution, torch.zeros(1, 1, 6))


# Ada-SISE. x = [1, 2, 3, 4]; A_k = relu(x - s_k) with s = 3, 2, 1, 0: [0, 0, 0, 1], [0, 0, 1, 2],
# [0, 1, 2, 3], [1, 2, 3, 4]; y = 1 ΣA_0 + 0.9 ΣA_1 + 0.2 ΣA_2 + 0.1 ΣA_3 - 1 ΣA_4, A_4 = relu(x).
# The positive gradients, relative to the largest: {1, 0.9, 0.2, 0.1}. Otsu: after 0.1:
# 1 * 3 * 0.6² = 1.08; after 0.2: 2 * 2 * 0.8² = 2.56; after 0.9: 1.08. 0.2 is below the centre of
# its bin (51.5 / 256 = 0.2012), so {1, 0.9} are kept.
# m_0 = [0, 0, 0, 1]: x m_0 = [0, 0, 0, 4]: ΣA = 1, 2, 3, 4, 4: y = 1 + 1.8 + 0.6 + 0.4 - 4 = -0.2.
#   The score adds 10 to keep it positive: 9.8; area 1.
# m_1 = [0, 0, 1/2, 1]: x m_1 = [0, 0, 1.5, 4]: ΣA = 1, 2, 3.5, 5.5, 5.5: y = 1 + 1.8 + 0.7 + 0.55 -
#   5.5 = -1.45: 8.55; area 1.5: 5.7 m_1.
# 2 V = [0, 0, 2.85, 15.5] -> [0, 0, 0.183871, 1].
def test_ada_sise_keeps_the_maps_above_the_otsu_threshold_of_the_gradients() -> None:
    weights, shift = [1.0, 0.9, 0.2, 0.1, -1.0], [-3.0, -2.0, -1.0, 0.0, 0.0]
    model = Sums([[1.0]] * 5, [weights], shift=shift)
    x = row(1.0, 2.0, 3.0, 4.0)
    with CountedRows(model) as counted:
        attribution = AdaptiveHybridCAM(model, layers=["maps"]).attribute(
            x, target=0, score=lambda output: output + 10
        )
    assert counted.rows == 2 + 1
    torch.testing.assert_close(attribution, row(0, 0, 2.85 / 15.5, 1))
    with CountedRows(model) as counted:
        MultiLayerSISE(model, layers=["maps"]).attribute(
            x, target=0, score=lambda output: output + 10
        )
    assert counted.rows == 4 + 1


def test_ada_sise_keeps_a_single_positive_gradient() -> None:
    model = Sums([[1.0], [-1.0]], [[1.0, -1.0]])
    with CountedRows(model) as counted:
        attribution = AdaptiveHybridCAM(model, layers=["maps"]).attribute(
            row(-1.0, 0.0, 1.0, 4.0), target=0, score="identity"
        )
    assert counted.rows == 1 + 1
    torch.testing.assert_close(attribution, row(0, 0, 0.25, 1))


# Integrated Grad-CAM. y = (ΣA_0)² / 2 - (ΣA_1)² / 2, A_0 = relu(x), A_1 = relu(-x),
# x = [2, 1, 0, -1]: ΣA_0 = 3, ΣA_1 = 1. From the zero baseline A(s x) = s A(x) and
# α(s x) = s [3, -1], so a step is s² relu(3 [2, 1, 0, 0] - [0, 0, 0, 1]) = s² [6, 3, 0, 0]
# (without relu: -s² in the last place).
CAM_INPUT = row(2.0, 1.0, 0.0, -1.0)


@pytest.mark.parametrize(
    ("method", "n_steps", "mean_of_squares"),
    [
        ("riemann_right", 2, (1 / 4 + 1) / 2),
        ("riemann_right", 4, (1 + 4 + 9 + 16) / 16 / 4),
        ("riemann_left", 2, (0 + 1 / 4) / 2),
        ("riemann_middle", 2, (1 / 16 + 9 / 16) / 2),
        ("gausslegendre", 2, 1 / 3),  # exact for polynomials up to degree 3
        ("riemann_trapezoid", 3, (0 / 2 + 1 / 4 + 1 / 2) / 3),  # Captum's weights: 1/n, halved ends
    ],
)
def test_integrated_grad_cam_is_the_mean_of_the_rectified_steps(
    method: str, n_steps: int, mean_of_squares: float
) -> None:
    cam = IntegratedGradCAM(Squares([[1.0], [-1.0]], [[1.0, -1.0]]), "maps")
    attribution = cam.attribute(CAM_INPUT, target=0, method=method, n_steps=n_steps)
    torch.testing.assert_close(attribution, mean_of_squares * row(6, 3, 0, 0))
    signed = cam.attribute(
        CAM_INPUT, target=0, method=method, n_steps=n_steps, relu_attributions=False
    )
    torch.testing.assert_close(signed, mean_of_squares * row(6, 3, 0, -1))


def test_integrated_grad_cam_subtracts_the_activations_at_the_baseline() -> None:
    # From x' = 1, A(x') = [1, 1, 1, 1], [0, 0, 0, 0]; two right steps:
    # s = 1/2: x = [1.5, 1, 0.5, 0]: ΣA = 3, 0: 3 ([1.5, 1, 0.5, 0] - 1) = [1.5, 0, -1.5, -3];
    # s = 1: x = [2, 1, 0, -1]: ΣA = 3, 1: 3 ([2, 1, 0, 0] - 1) - [0, 0, 0, 1] = [3, 0, -3, -4].
    # Without the subtraction: [4.5, 3, 1.5, 0] and [6, 3, 0, -1].
    cam = IntegratedGradCAM(Squares([[1.0], [-1.0]], [[1.0, -1.0]]), "maps")
    for baseline in (1, 1.0, torch.ones(1, 1, 4), torch.ones(2, 1, 4)):
        inputs = CAM_INPUT.expand(2, 1, 4)
        attribution = cam.attribute(inputs, baseline, target=0, n_steps=2)
        torch.testing.assert_close(attribution, row(2.25, 0, 0, 0).expand(2, 1, 4))
    signed = cam.attribute(CAM_INPUT, 1, target=0, n_steps=2, relu_attributions=False)
    torch.testing.assert_close(signed, row(2.25, 0, -2.25, -3.5))
    unsubtracted = cam.attribute(CAM_INPUT, 1, target=0, n_steps=2, subtract_baseline=False)
    torch.testing.assert_close(unsubtracted, row(5.25, 3, 0.75, 0))


def test_integrated_grad_cam_rectifies_each_step_before_the_sum() -> None:
    # One position: A_0 = relu(x), A_1 = relu(x - 1), y = A_0² / 2 - 4 A_1², x = 2, two right steps:
    # x = 1: 1 * 1 = 1; x = 2: 2 * 2 - 8 * 1 = -4. Inside: (1 + 0) / 2; outside it would be 0.
    cam = IntegratedGradCAM(Squares([[1.0], [1.0]], [[1.0, -8.0]], shift=[0.0, -1.0]), "maps")
    attribution = cam.attribute(row(2.0), target=0, n_steps=2)
    torch.testing.assert_close(attribution, row(0.5))


def test_integrated_grad_cam_uses_the_mean_gradient_and_the_logit() -> None:
    # y = 2 x_0 + 4 x_1 has the gradients 2 and 4, of mean 3, on both positions; the mean of the
    # two right nodes is 3/4: 3/4 * 3 * [5, 7].
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maps = nn.Identity()
            self.register_buffer("weights", torch.tensor([2.0, 4.0]))

        def forward(self, x: Tensor) -> Tensor:
            return (self.maps(x) * self.weights).sum(2)

    attribution = IntegratedGradCAM(Weighted(), "maps").attribute(row(5, 7), target=0, n_steps=2)
    torch.testing.assert_close(attribution, row(11.25, 15.75))


def test_integrated_grad_cam_of_several_layers_is_a_list_of_maps_at_their_own_resolution() -> None:
    # y = ΣB_0 + ΣB_1 / 2 is linear: gradients 1/3, 1/6 of the maps, 1, 1/2 of the parts; times the
    # mean 3/4 of two right nodes: maps 6/3 and 3/6, parts 2 and 1/2, all times 3/4.
    cam = IntegratedGradCAM(sise_model(), ["maps", "parts"])
    maps, parts = cam.attribute(SISE_INPUT, target=0, n_steps=2)
    torch.testing.assert_close(maps, row(1.5, 0, 0, 0, 0, 0.375))
    torch.testing.assert_close(parts, row(1.5, 0.375))


# Score-CAM. x = [2, 0, 0, -2], A_0 = relu(x), A_1 = relu(-x), y = a ΣA_0 with 2 a = log 3. The
# masks are [1, 0, 0, 0] and [0, 0, 0, 1]; y = log 3 and 0; softmax [3/4, 1/4]; the map is
# 3/4 [2, 0, 0, 0] + 1/4 [0, 0, 0, 2].
def test_score_cam_weighs_the_maps_by_the_softmax_of_their_scores() -> None:
    model = Sums([[1.0], [-1.0]], [[math.log(3) / 2, 0.0]])
    attribution = ScoreCAM(model, "maps").attribute(row(2.0, 0.0, 0.0, -2.0), target=0)
    torch.testing.assert_close(attribution, row(1.5, 0, 0, 0.5))


def test_rise_of_a_constant_score_is_the_mean_mask_over_the_probability() -> None:
    # The score is 2 for every mask; the mean mask over p goes to 1 with the number of masks.
    rise = RISE(lambda x: torch.full((len(x), 1), 2.0))
    attribution = rise.attribute(torch.zeros(1, 1, 12), target=0, n_masks=4000, score="identity")
    torch.testing.assert_close(attribution, torch.full((1, 1, 12), 2.0), rtol=0.08, atol=0)
