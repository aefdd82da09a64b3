import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_excon.transforms._region import displaced, kept_area, salient_region

NAN, INF = float("nan"), float("inf")


def test_the_golden_mask_keeps_the_last_pixel_only() -> None:
    region, constant = salient_region(torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]]), 0.5)
    assert region.tolist() == [[[[False, False], [False, True]]]]
    assert constant.tolist() == [False]


def test_signed_maps_are_scaled_from_their_minimum() -> None:
    region, _ = salient_region(torch.tensor([[[[-4.0, 0.0, 0.1, 4.0]]]]), 0.5)
    assert region.flatten().tolist() == [False, False, True, True]


def test_the_largest_values_are_taken_and_of_equal_ones_the_first() -> None:
    maps = torch.tensor([[[[1.0, 5.0, 2.0], [2.0, 2.0, 0.0]]]])
    region, _ = salient_region(maps, keep_ratio=0.5)
    assert region.int().tolist() == [[[[0, 1, 1], [1, 0, 0]]]]


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"keep_ratio": 0.5}])
@pytest.mark.parametrize(
    "values", [[0.0] * 4, [7.0] * 4, [1.0, 1.0, 1.0, 1.0 + 1e-7], [0, 1, 2, NAN], [0, 1, 2, INF]]
)
def test_maps_that_say_nothing_are_told_and_have_no_region(values, options) -> None:
    maps = torch.tensor([values, [0.0, 1.0, 2.0, 3.0]]).view(2, 1, 2, 2)
    region, constant = salient_region(maps, **options)
    assert constant.tolist() == [True, False]
    assert not region[0].any()
    assert region[1].any()


@given(
    st.integers(1, 7), st.integers(2, 7), st.floats(0.01, 0.99), st.integers(0, 3), st.integers(0)
)
def test_the_kept_share_is_exact_whatever_the_ties(height, width, ratio, levels, seed) -> None:
    generator = torch.Generator().manual_seed(seed % 2**32)
    maps = torch.randint(0, levels + 2, (3, 1, height, width), generator=generator).float()
    region, constant = salient_region(maps, keep_ratio=ratio)
    count = max(1, round(ratio * height * width))
    assert region.flatten(1).sum(1).tolist() == [0 if c else count for c in constant]
    inside = maps.masked_fill(~region, INF).flatten(1).amin(1)
    outside = maps.masked_fill(region, -INF).flatten(1).amax(1)
    assert (constant | (inside >= outside)).all()


@pytest.mark.parametrize("placement", ["shift", "shuffle"])
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_displaced_regions_have_exactly_the_same_areas(placement, height, width, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    region = torch.rand(4, 1, height, width, generator=generator) > 0.5
    moved = displaced(region, placement, generator)
    assert moved.shape == region.shape
    assert torch.equal(moved.flatten(1).sum(1), region.flatten(1).sum(1))


def test_a_shift_rolls_each_image_by_its_own_offset() -> None:
    region = torch.zeros(60, 1, 3, 4, dtype=torch.bool)
    region[..., 0, 0] = region[..., 0, 1] = region[..., 1, 0] = True
    moved = displaced(region, "shift", torch.Generator().manual_seed(0))
    rolls = {(y, x): region[0].roll((y, x), (1, 2)).flatten() for y in range(3) for x in range(4)}
    seen = {
        next(offset for offset, roll in rolls.items() if torch.equal(roll, m))
        for m in moved.flatten(1)
    }
    assert seen == set(rolls)  # every one of the 12 offsets, among 60 images


def test_a_shuffle_reaches_every_pixel_equally() -> None:
    region = torch.zeros(4000, 1, 2, 2, dtype=torch.bool)
    region[..., 0, 0] = True
    shares = displaced(region, "shuffle", torch.Generator().manual_seed(0)).float().mean(0)
    torch.testing.assert_close(shares, torch.full((1, 2, 2), 0.25), atol=0.03, rtol=0)


@pytest.mark.parametrize("placement", ["shift", "shuffle"])
def test_a_generator_repeats_places_and_the_global_state_is_used_without_one(placement) -> None:
    region = torch.rand(2, 1, 8, 8) > 0.7
    before = torch.get_rng_state()
    draws = [displaced(region, placement, torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(displaced(region, placement), displaced(region, placement))


def test_the_kept_area_leaves_out_maps_that_say_nothing() -> None:
    region = torch.zeros(3, 1, 2, 2, dtype=torch.bool)
    region[0, 0, 0] = region[1, 0, 0, 0] = True
    assert kept_area(region, torch.tensor([False, False, True])).item() == 0.375
    assert kept_area(region[2:], torch.tensor([True])).item() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": None}, "both are None"),
        ({"threshold": 1.0}, "threshold must be"),
        ({"threshold": -0.1}, "threshold must be"),
        ({"keep_ratio": 0.0}, "keep_ratio must lie"),
        ({"keep_ratio": 1}, "keep_ratio must lie"),
    ],
)
def test_options_out_of_range_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        salient_region(torch.rand(1, 1, 2, 2), **options)


def test_an_unknown_placement_is_refused() -> None:
    with pytest.raises(ValueError, match="placement must be"):
        displaced(torch.ones(1, 1, 2, 2, dtype=torch.bool), "mirror")
