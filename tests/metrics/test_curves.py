"""Perturbation curves: closed forms on a linear model, RISE's loop, ROAD's peer, exactness."""

import functools
import math

import numpy as np
import pytest
import torch
from helpers.toys import ConvNet, CountedRows, Limited, Normalised, WithArguments, images, state
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from captum_excon.metrics import (
    abpc,
    average_drop_increase,
    deletion,
    drop_increase,
    insertion,
    nan_reasons,
    perturbation_curve,
    road,
)

MODEL = ConvNet(in_channels=3)
CURVES = {
    "insertion": insertion,
    "deletion": deletion,
    "abpc": abpc,
    "road, most": functools.partial(road, fractions=[0.1, 0.5]),
    "road, least": functools.partial(road, fractions=[0.1, 0.5], order="lerf"),
}
ALL = {
    **CURVES,
    "drop": lambda *a, **k: drop_increase(*a, **k).drop,
    "average drop": lambda *a, **k: average_drop_increase(*a, **k).drop,
}


def total(x: Tensor) -> Tensor:
    """A linear model: the sum of an image's values."""
    return x.sum((1, 2, 3))


def trapezoid(values: list[float]) -> float:
    return (sum(values) - (values[0] + values[-1]) / 2) / (len(values) - 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_areas_on_a_linear_model_have_a_closed_form(seed: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, 6, 4, generator=generator, dtype=torch.float64)
    maps = torch.rand(2, 6, 4, generator=generator)
    found = {
        "deletion": deletion(total, x, maps, steps=steps, score="identity"),
        "insertion": insertion(total, x, maps, steps=steps, score="identity", fill=0.0),
    }
    for i in range(2):
        values = x[i].sum(0).flatten()[maps[i].flatten().argsort(descending=True)]
        shown = torch.cat([values.new_zeros(1), values.cumsum(0)])  # by the top k pixels
        counts = [round(step / steps * 24) for step in range(steps + 1)]
        left = [shown[24] - shown[k] for k in counts]
        right = [shown[24 - k] for k in counts]
        for name, curve in (("deletion", left), ("insertion", right)):
            area = integrate.trapezoid(curve, np.array(counts) / 24)
            assert found[name][i].item() == pytest.approx(area.item(), rel=1e-5)
    if steps > 1:
        gap = abpc(total, x, maps, steps=steps, score="identity")
        torch.testing.assert_close(gap, found["insertion"] - found["deletion"])


def test_matches_the_plain_loop_of_rise() -> None:
    x, steps = images(2, 3, 16, 16), 8
    maps = torch.rand(2, 16, 16)
    areas = {"deletion": [], "insertion": []}
    with torch.no_grad():
        for i in range(2):
            blurred = F.gaussian_blur(x[i], [11, 11], [5.0, 5.0])
            target = MODEL(x[i : i + 1]).argmax()
            order = maps[i].flatten().argsort(descending=True)
            starts = {"deletion": (x[i], torch.zeros(3, 16, 16)), "insertion": (blurred, x[i])}
            for name, (start, finish) in starts.items():
                current, scores = start.flatten(1).clone(), []
                for step in range(steps + 1):
                    scores.append(MODEL(current.view(1, 3, 16, 16)).softmax(1)[0, target].item())
                    pixels = order[step * 32 : (step + 1) * 32]
                    current[:, pixels] = finish.flatten(1)[:, pixels]
                areas[name].append(trapezoid(scores))
    for name, metric in (("deletion", deletion), ("insertion", insertion)):
        found = metric(MODEL, x, maps, steps=steps)
        torch.testing.assert_close(found, torch.tensor(areas[name]), atol=1e-5, rtol=0)


def test_road_agrees_with_pytorch_grad_cam_where_nothing_ties(monkeypatch) -> None:
    pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.metrics import perturbation_confidence as peer
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    from captum_excon.metrics import _imputation

    silent = functools.partial(_imputation.noisy_linear_imputer, noise=0)
    monkeypatch.setattr(_imputation, "noisy_linear_imputer", lambda noise: silent())
    x, maps = images(3, 3, 12, 12), torch.rand(3, 12, 12)
    targets = [ClassifierOutputSoftmaxTarget(i) for i in range(3)]
    kinds = {"morf": peer.RemoveMostRelevantFirst, "lerf": peer.RemoveLeastRelevantFirst}
    for order, kind in kinds.items():
        expected = []
        for percentile in (75, 50):  # that share of the pixels stays
            metric = peer.PerturbationConfidenceMetric(
                kind(percentile, NoisyLinearImputer(noise=0))
            )
            with pytest.warns(DeprecationWarning, match="__array_wrap__"):
                expected.append(metric(x, maps.numpy(), targets, MODEL, return_diff=False))
        found = road(MODEL, x, maps, order=order, fractions=[0.25, 0.5], target=[0, 1, 2])
        np.testing.assert_allclose(found.numpy(), np.mean(expected, 0), atol=1e-5)


def test_the_imputers_noise_comes_from_the_seed_alone() -> None:
    x, maps = images(2, 3, 8, 8), torch.rand(2, 8, 8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = road(MODEL, x, maps, fractions=[0.5])
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(2)
    assert road(MODEL, x, maps, fractions=[0.5]).equal(first)
    assert not road(MODEL, x, maps, fractions=[0.5], seed=1).equal(first)


def test_noisy_linear_imputation_stays_within_what_surrounds_it() -> None:
    x = torch.full((1, 1, 8, 8), 3.0)
    curve = perturbation_curve(
        lambda x: x.amax((2, 3)),
        x,
        torch.rand(1, 8, 8),
        fill="noisy-linear",
        fractions=[0, 0.5],
        score="identity",
    )
    assert curve.scores[0, 0] == 3
    assert curve.scores[0, 1].item() == pytest.approx(3, abs=0.06)


@pytest.mark.parametrize("name", ALL)
def test_an_images_value_is_the_same_bit_for_bit_in_any_company(name: str) -> None:
    x, maps = images(7, 3, 12, 12), torch.rand(7, 12, 12)
    together = ALL[name](MODEL, x, maps)
    alone = torch.cat([ALL[name](MODEL, x[i : i + 1], maps[i : i + 1]) for i in range(7)])
    assert together.equal(alone)
    assert together.equal(ALL[name](MODEL, x, maps))
    flipped = ALL[name](MODEL, x.flip(0), maps.flip(0)).flip(0)
    assert together.equal(flipped)


@pytest.mark.parametrize("name", ALL)
def test_the_batch_size_changes_nothing_but_the_last_bits(name: str) -> None:
    x, maps = images(3, 3, 12, 12), torch.rand(3, 12, 12)
    reference = ALL[name](MODEL, x, maps)
    for size in (1, 5, 1000):
        found = ALL[name](MODEL, x, maps, batch_size=size)
        torch.testing.assert_close(found, reference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_degenerate_maps_are_nan_and_the_others_are_not(name: str) -> None:
    x, maps = images(5, 3, 12, 12), torch.rand(5, 12, 12)
    expected = ALL[name](MODEL, x, maps)[4]
    maps[0], maps[1], maps[2, 0, 0], maps[3, 0, 0] = 0, 7, math.nan, -math.inf
    found = ALL[name](MODEL, x, maps)
    assert [r is not None for r in nan_reasons(maps)] == found.isnan().tolist()
    assert found[4] == expected


def test_the_model_sees_full_batches_across_images_and_steps() -> None:
    with CountedRows(MODEL) as counted:
        deletion(MODEL, images(3, 3, 8, 8), torch.rand(3, 8, 8), batch_size=10, steps=28)
    assert counted.calls == [10] * (1 + math.ceil(3 * 28 / 10))
    with CountedRows(MODEL) as counted:
        abpc(MODEL, images(2, 3, 8, 8), torch.rand(2, 8, 8), batch_size=9, steps=28)
    assert counted.calls == [9] * (1 + 2 * 2 * 27 // 9)


def test_the_whole_image_is_scored_once_however_often_it_is_asked_for() -> None:
    x, maps = images(2, 3, 8, 8), torch.rand(2, 8, 8)
    with CountedRows(MODEL) as counted:
        curve = perturbation_curve(MODEL, x, maps, fractions=[0, 0.001, 0.5], batch_size=2)
    assert counted.calls == [2, 2]
    assert curve.fractions.tolist() == [0, 0, 0.5]
    assert curve.scores[:, 0].equal(curve.scores[:, 1])
    with torch.no_grad():
        torch.testing.assert_close(curve.scores[:, 0], MODEL(x).softmax(1).amax(1))
    assert perturbation_curve(MODEL, x, maps, fractions=[0]).scores.shape == (2, 1)


def test_batches_are_halved_until_they_fit_the_memory() -> None:
    x, maps = images(3, 3, 8, 8), torch.rand(3, 8, 8)
    limited = Limited(MODEL, 5)
    found = deletion(limited, x, maps, steps=4)
    assert limited.refused > 0
    torch.testing.assert_close(found, deletion(MODEL, x, maps, steps=4))
    with pytest.raises(torch.OutOfMemoryError):
        deletion(Limited(MODEL, 0), x, maps)


def test_ties_are_broken_by_the_seed_alike_in_all_images() -> None:
    x = images(1, 3, 12, 12).expand(2, -1, -1, -1)
    maps = torch.zeros(2, 12, 12)
    maps[:, 3:6, 3:6] = 1
    values = deletion(MODEL, x, maps)
    assert values[0] == values[1]
    assert deletion(MODEL, x, maps, seed=1)[0] != values[0]


def test_no_corner_is_preferred_among_ties() -> None:
    rows = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 16)
    maps = torch.zeros(1, 16, 16)
    maps[0, 0, 0] = 1
    area = deletion(total, rows, maps, score="identity", steps=16) / total(rows)
    assert area.item() == pytest.approx(0.5, abs=0.05)  # 0.33 or 0.67 in the pixels' order


def test_every_target_form_and_further_arguments() -> None:
    model, x, maps = WithArguments(in_channels=3), images(2, 3, 8, 8), torch.rand(2, 8, 8)
    bias = torch.tensor([[0.0, 1.0, 0.0], [2.0, 0.0, 0.0]])
    options = {"additional_forward_args": (bias, 2.0), "steps": 4, "batch_size": 3}
    found = deletion(model, x, maps, target=torch.tensor([1, 0]), **options)
    assert found.equal(deletion(model, x, maps, target=[1, 0], **options))
    for i, target in enumerate((1, 0)):
        alone = {**options, "additional_forward_args": (bias[i : i + 1], 2.0)}
        assert found[i] == deletion(model, x[i : i + 1], maps[i : i + 1], target=target, **alone)
    dense = lambda x: model(x, bias[:1]).view(-1, 3, 1).expand(-1, 3, 2)  # noqa: E731
    assert deletion(dense, x, maps, target=(0, 1)).shape == (2,)
    with pytest.raises(ValueError, match="no single predicted class"):
        deletion(dense, x, maps)


def test_nothing_of_the_model_or_the_inputs_changes() -> None:
    model = ConvNet(in_channels=3, inplace=True)
    x, maps = images(2, 3, 12, 12), torch.rand(2, 12, 12, requires_grad=True)
    copies, before = (x.clone(), maps.detach().clone()), state(model)
    for metric in ALL.values():
        result = metric(model, x, maps)
        assert not result.requires_grad
        assert not result.is_inference()
    assert state(model) == before
    assert x.equal(copies[0])
    assert maps.equal(copies[1])


def test_a_model_in_training_mode_is_left_as_it_was() -> None:
    model, maps = Normalised().train(), torch.rand(2, 8, 8)
    before = state(model)
    with pytest.warns(UserWarning, match="training mode"):
        deletion(model, images(2, 1, 8, 8), maps, steps=2)
    assert state(model) == before


def test_double_precision_and_channels_last_are_kept() -> None:
    x, maps = images(2, 3, 12, 12), torch.rand(2, 12, 12)
    expected = deletion(MODEL, x, maps)
    double = ConvNet(in_channels=3).double()
    torch.testing.assert_close(deletion(double, x.double(), maps), expected)
    last = deletion(MODEL, x.to(memory_format=torch.channels_last), maps)
    torch.testing.assert_close(last, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "best"}, "order must be"),
        ({"fill": "median"}, "fill must be"),
        ({"fill": torch.zeros(5)}, "fill of shape"),
        ({"fractions": []}, "ascending shares"),
        ({"fractions": [0.5, 0.1]}, "ascending shares"),
        ({"fractions": [0.5, 1.1]}, "ascending shares"),
        ({"fractions": 0}, "at least one step"),
        ({"fill": "noisy-linear"}, "cannot remove all pixels"),
        ({"score": lambda x: x * math.nan}, "NaN or infinite scores"),
    ],
)
def test_wrong_options_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        perturbation_curve(MODEL, images(1, 3, 8, 8), torch.rand(1, 8, 8), **options)


def test_images_too_small_to_blur_and_gaps_of_one_step_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 6 pixels"):
        insertion(MODEL, images(1, 3, 5, 5), torch.rand(1, 5, 5))
    with pytest.raises(ValueError, match="at least 2"):
        abpc(MODEL, images(1, 3, 8, 8), torch.rand(1, 8, 8), steps=1)


def test_a_missing_imputer_names_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pytorch_grad_cam.metrics.road", None)
    with pytest.raises(ImportError, match=r"captum-excon\[bench\]"):
        road(MODEL, images(1, 3, 8, 8), torch.rand(1, 8, 8))


@pytest.mark.parametrize("name", ALL)
def test_an_empty_batch_gives_no_values(name: str) -> None:
    assert ALL[name](MODEL, torch.zeros(0, 3, 8, 8), torch.zeros(0, 8, 8)).shape == (0,)
