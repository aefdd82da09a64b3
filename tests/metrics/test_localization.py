"""Localization metrics by hand, against Quantus, and on degenerate maps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_excon.metrics import (
    bbox,
    class_mean,
    difficult,
    ebpg,
    miou,
    nan_reasons,
    pointing_game,
)

MAP = torch.tensor([[[9.0, 3.0, 2.0, 1.0], [0.0, -1.0, -2.0, 5.0]]])
MASK = torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 0]]])


@pytest.mark.parametrize(
    ("metric", "options", "expected"),
    [
        (ebpg, {}, 12 / 20),
        (bbox, {}, 2 / 4),  # 9 and 3 of 9, 5, 3, 2
        (miou, {"fraction": 0.25}, 1 / 5),  # 9 and 5
        (miou, {"fraction": 0.5}, 2 / 6),
        (miou, {"fraction": 1e-9}, 1 / 4),  # at least one pixel
        (miou, {"threshold": 0.5}, 1 / 5),  # above 3.5
        (miou, {"threshold": 0.0}, 4 / 7),  # all but the least
        (pointing_game, {}, 1),
        (pointing_game, {"tolerance": 0}, 1),
    ],
)
def test_values_are_those_computed_by_hand(metric, options, expected) -> None:
    maps = torch.where(MAP == -1, 0.5, MAP) if options.get("threshold") == 0 else MAP
    torch.testing.assert_close(metric(maps, MASK, **options), torch.tensor([float(expected)]))


@pytest.mark.parametrize("metric", [ebpg, bbox, miou, pointing_game])
def test_the_mask_itself_scores_at_the_top(metric) -> None:
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[0, 2:7, 2:6] = masks[1, 5:9, 5:10] = True  # 20 % of the image
    assert metric(masks, masks).tolist() == [1, 1]


@pytest.mark.parametrize("metric", [ebpg, bbox, miou, pointing_game])
def test_chance_is_what_the_docstrings_say(metric) -> None:
    masks = torch.zeros(400, 20, 20, dtype=torch.bool)
    masks[:, :10, :10] = True
    options = {"tolerance": 0} if metric is pointing_game else {}
    chance = metric(torch.rand(400, 20, 20), masks, **options).mean().item()
    expected = 1 / 4
    if metric is miou:  # a fifth of the image with a quarter of it
        expected = (1 / 20) / (1 / 5 + 1 / 4 - 1 / 20)
    assert chance == pytest.approx(expected, abs=0.06)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_mass_and_rank_accuracy_of_quantus_are_ebpg_and_bbox(seed: int) -> None:
    quantus = pytest.importorskip("quantus")
    random = np.random.default_rng(seed)
    maps = random.random((3, 1, 9, 7), dtype=np.float32)
    masks = random.random((3, 1, 9, 7)) < random.uniform(0.05, 0.9)
    masks[:, 0, 0, 0] = True
    images = np.zeros((3, 3, 9, 7), np.float32)
    for peer, own in ((quantus.RelevanceMassAccuracy, ebpg), (quantus.RelevanceRankAccuracy, bbox)):
        metric = peer(normalise=False, disable_warnings=True)
        expected = metric(
            model=None,
            x_batch=images,
            y_batch=np.zeros(3, int),
            a_batch=maps,
            s_batch=masks,
            channel_first=True,
        )
        found = own(torch.from_numpy(maps), torch.from_numpy(masks))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from([ebpg, bbox, miou, pointing_game]))
@settings(max_examples=40, deadline=None)
def test_values_lie_in_the_unit_interval_and_know_no_batch(seed: int, metric) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(4, 6, 5, generator=generator).round(decimals=1)
    masks = torch.rand(4, 6, 5, generator=generator) < 0.3
    values = metric(maps, masks)
    defined = values[~values.isnan()]
    assert bool(((defined >= 0) & (defined <= 1)).all())
    alone = torch.cat([metric(maps[i : i + 1], masks[i : i + 1]) for i in range(4)])
    assert values.equal(alone) or values.nan_to_num(9).equal(alone.nan_to_num(9))


def test_the_tolerance_is_a_euclidean_distance_in_pixels() -> None:
    maps, masks = torch.zeros(1, 30, 30), torch.zeros(1, 30, 30)
    maps[0, 10, 10] = masks[0, 13, 14] = 1  # 3 down, 4 to the right
    assert pointing_game(maps, masks, tolerance=5).item() == 1
    assert pointing_game(maps, masks, tolerance=4.99).item() == 0
    assert pointing_game(maps, masks).item() == 1  # the papers' 15


def test_a_tie_is_decided_by_the_seed_and_not_in_favour_of_the_map() -> None:
    maps = torch.zeros(1, 20, 20)
    maps[0, 0, 0] = -1
    masks = torch.zeros(1, 20, 20)
    masks[:, :, :10] = 1
    hits = [pointing_game(maps, masks, tolerance=0, seed=s).item() for s in range(100)]
    assert 30 < sum(hits) < 70
    assert hits == [pointing_game(maps, masks, tolerance=0, seed=s).item() for s in range(100)]
    shares = [bbox(maps, masks, seed=s).item() for s in range(20)]
    assert sum(shares) / 20 == pytest.approx(0.5, abs=0.05)


def test_degenerate_maps_and_masks_are_nan_with_a_reason() -> None:
    maps, masks = torch.rand(6, 8, 8), torch.ones(6, 8, 8)
    masks[:, :4] = 0
    maps[0], maps[1], maps[2, 0, 0], maps[3] = 0, 0.1, math.nan, -maps[3]
    masks[4] = 0
    constant = "the map is constant"
    common = [constant, constant, "the map has NaN or infinite values", None, "the mask is empty"]
    assert nan_reasons(maps, masks) == [*common, None]
    for metric in (bbox, miou, pointing_game):
        assert metric(maps, masks).isnan().tolist() == [r is not None for r in [*common, None]]
    common[3] = "the map has no positive value"
    assert nan_reasons(maps, masks, mass=True) == [*common, None]
    assert ebpg(maps, masks).isnan().tolist() == [True] * 5 + [False]


def test_class_means_count_classes_alike_and_report_what_is_undefined() -> None:
    hits = torch.tensor([1.0, 1, 1, 0, 0, math.nan, math.nan])
    result = class_mean(hits, torch.tensor([5, 5, 5, 5, 2, 2, 9]))
    assert result.classes.tolist() == [2, 5, 9]
    assert result.means[:2].tolist() == [0, 0.75]
    assert result.means[2].isnan()
    assert (result.counts.tolist(), result.undefined.tolist()) == ([1, 4, 0], [1, 0, 1])
    assert result.mean.item() == 0.375


def test_difficult_images_have_small_objects_and_distractors() -> None:
    masks = torch.zeros(3, 10, 10)
    masks[0, :5, :5] = 1
    masks[1:, :5, :4] = 1
    assert difficult(masks, torch.tensor([True, True, False])).tolist() == [False, True, False]


def test_maps_and_masks_may_have_a_channel() -> None:
    maps, masks = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8) < 0.3
    for metric in (ebpg, bbox, miou, pointing_game):
        assert metric(maps, masks).equal(metric(maps.sum(1), masks[:, 0].float()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ebpg(torch.rand(2, 4, 4), torch.ones(1, 4, 4)), "masks must have shape"),
        (lambda: ebpg(torch.rand(1, 4, 4), torch.rand(1, 4, 4)), "0 and 1 only"),
        (lambda: miou(MAP, MASK, fraction=0), "fraction must lie in"),
        (lambda: miou(MAP, MASK, threshold=1.0), "threshold must lie in"),
        (lambda: pointing_game(MAP, MASK, tolerance=-1), "tolerance must be at least 0"),
        (lambda: class_mean(torch.ones(2), torch.ones(3)), "same shape"),
        (lambda: difficult(MASK, torch.ones(2)), "one flag per mask"),
    ],
)
def test_wrong_arguments_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_integer_maps_and_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match="maps must be a floating-point or Boolean tensor"):
        ebpg(MAP.long(), MASK)
    with pytest.raises(TypeError, match="maps must be"):
        ebpg(MAP.numpy(), MASK)
    with pytest.raises(TypeError, match="masks must be a tensor"):
        ebpg(MAP, MASK.numpy())
