import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_excon.training.evaluation.shift import LADDER, SEVERITIES, SHIFTS, shifted


def smooth_images(count: int = 3, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear").clamp(0, 1)


@pytest.mark.parametrize("shift", SHIFTS)
def test_each_severity_moves_the_images_further(shift: str) -> None:
    images = smooth_images(8)
    moved = [
        (shifted(images, shift, severity) - images).square().mean().item()
        for severity in SEVERITIES
    ]
    assert moved[0] > 0
    assert all(b > a for a, b in itertools.pairwise(moved))


@settings(deadline=None, max_examples=60)
@given(
    shift=st.sampled_from(SHIFTS),
    severity=st.sampled_from(SEVERITIES),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_shape_dtype_range_and_the_given_images_are_kept(
    shift: str, severity: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    images = torch.rand(2, channels, height, width, dtype=dtype)
    before, state = images.clone(), torch.get_rng_state()
    result = shifted(images, shift, severity)
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shift_repeats_itself_and_does_not_depend_on_the_batching(shift: str) -> None:
    images = smooth_images(5)
    whole = shifted(images, shift, 3, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    parts = [shifted(part, shift, 3, generator=generator) for part in images.split([2, 2, 1])]
    assert torch.equal(torch.cat(parts), whole)


def test_noise_has_the_ladder_s_deviation_and_differs_between_images() -> None:
    images = torch.full((2, 3, 64, 64), 0.5)
    noise = shifted(images, "gaussian-noise", 1) - images
    assert noise.std().item() == pytest.approx(LADDER["gaussian-noise"][0], rel=0.05)
    assert not torch.equal(noise[0], noise[1])


def test_contrast_shrinks_the_distance_from_the_mean() -> None:
    images = torch.tensor([0.2, 0.6]).view(1, 1, 1, 2).expand(1, 3, 1, 2)  # mean 0.4, gray
    low, high = shifted(images, "contrast", 4)[0, 0, 0].tolist()  # a quarter of the contrast
    assert low == pytest.approx(0.35, abs=1e-3)
    assert high == pytest.approx(0.45, abs=1e-3)


def test_blur_spreads_a_point_as_a_gaussian_of_the_side_s_share() -> None:
    side, severity = 64, 4
    images = torch.zeros(1, 1, side, side)
    images[0, 0, 32, 32] = 1
    sigma = LADDER["gaussian-blur"][severity - 1] * side
    spread = shifted(images, "gaussian-blur", severity)[0, 0]
    assert (spread[32, 34] / spread[32, 32]).item() == pytest.approx(
        math.exp(-(2**2) / (2 * sigma**2)), rel=1e-3
    )


def test_rotation_turns_counter_clockwise_and_leaves_black_corners() -> None:
    images = torch.zeros(1, 1, 33, 33)
    images[0, 0, 16, 26] = 1  # to the right of the centre
    turned = shifted(images, "rotation", 5)[0, 0]  # 45 degrees: to the upper right
    row, column = divmod(int(turned.argmax()), 33)
    assert (row, column) == (9, 23)
    assert shifted(torch.ones(1, 1, 33, 33), "rotation", 5)[0, 0, 0, 0] == 0


def test_an_empty_batch_stays_empty() -> None:
    for shift in SHIFTS:
        assert shifted(torch.rand(0, 3, 8, 8), shift, 1).shape == (0, 3, 8, 8)


def test_wrong_calls_are_refused() -> None:
    images = torch.rand(1, 3, 4, 4)
    with pytest.raises(ValueError, match="shift must be one of gaussian-noise"):
        shifted(images, "fog", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="severity must be 1, 2, 3, 4 or 5, but found 0"):
        shifted(images, "contrast", 0)
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\), but found \(3, 4, 4\)"):
        shifted(images[0], "contrast", 1)
    with pytest.raises(TypeError, match="uint8"):
        shifted(images.to(torch.uint8), "contrast", 1)
