"""Drop and Increase against hand-computed values, a plain oracle and pytorch-grad-cam."""

import math

import pytest
import torch
from helpers.toys import ConvNet, CountedRows, images
from torch import Tensor

from captum_excon.metrics import (
    average_drop_increase,
    drop_increase,
    drop_increase_sweep,
    nan_reasons,
)


def total(x: Tensor) -> Tensor:
    """A score per image that is the sum of its values."""
    return x.sum((1, 2, 3))


PIXELS = torch.tensor([[[[1.0, 2.0, 3.0, -2.0]]]])  # sums to 4


@pytest.mark.parametrize(
    ("order", "fraction", "drop", "increase"),
    [
        ([1.0, 2.0, 3.0, 0.0], 0.25, 1 / 4, 0),  # 3 of 4 is left
        ([1.0, 2.0, 3.0, 0.0], 0.5, 0, 1),  # 5 is more than 4
        ([3.0, 2.0, 1.0, 0.0], 0.25, 3 / 4, 0),
        ([0.0, 1.0, 2.0, 3.0], 0.25, 6 / 4, 0),
        ([1.0, 2.0, 3.0, 0.0], 1.0, 0, 0),
    ],
)
def test_drop_and_increase_are_those_computed_by_hand(order, fraction, drop, increase) -> None:
    result = drop_increase(
        total, PIXELS, torch.tensor([[order]]), fraction=fraction, score="identity"
    )
    torch.testing.assert_close(result.drop, torch.tensor([drop], dtype=torch.float32))
    assert result.increase.tolist() == [increase]


def test_matches_a_plain_loop() -> None:
    model, x = ConvNet(in_channels=3), images(5, 3, 12, 12)
    maps = torch.rand(5, 12, 12)
    found = drop_increase(model, x, maps, fraction=0.15, fill=0.3, batch_size=3)
    for i in range(5):
        threshold = maps[i].flatten().sort(descending=True).values[round(0.15 * 144) - 1]
        masked = torch.where(maps[i] >= threshold, x[i], torch.tensor(0.3))
        with torch.no_grad():
            p = model(x[i : i + 1]).softmax(1)[0]
            o = model(masked[None]).softmax(1)[0, p.argmax()]
        p = p.max()
        assert found.drop[i].item() == pytest.approx(max(0, (p - o).item()) / p.item(), abs=1e-5)
        assert found.increase[i].item() == float(o > p)


def test_a_sweep_holds_every_fraction() -> None:
    model, x = ConvNet(in_channels=3), images(4, 3, 8, 8)
    maps = torch.rand(4, 8, 8)
    sweep = drop_increase_sweep(model, x, maps, fractions=[0.1, 0.15, 0.6])
    alone = drop_increase(model, x, maps, fraction=0.15)
    assert sweep.drop.shape == (4, 3)
    assert sweep.drop[:, 1].equal(alone.drop)
    assert sweep.increase[:, 1].equal(alone.increase)


def test_the_target_and_the_sign_of_the_score_matter() -> None:
    model, x = ConvNet(in_channels=3), images(3, 3, 8, 8)
    maps = torch.rand(3, 8, 8)
    predicted = model(x).argmax(1)
    by_default = drop_increase(model, x, maps)
    assert by_default.drop.equal(drop_increase(model, x, maps, target=predicted).drop)
    others = drop_increase(model, x, maps, target=(predicted + 1) % 3)
    assert not others.drop.equal(by_default.drop)
    negative = drop_increase(lambda x: -total(x.abs()), x, maps, score="identity")
    assert negative.drop.isnan().all()


def test_a_score_of_zero_cannot_drop() -> None:
    x = torch.tensor([[[[1.0, -1.0]]]])
    result = drop_increase(total, x, torch.tensor([[[1.0, 0.0]]]), fraction=0.5, score="identity")
    assert (result.drop.item(), result.increase.item()) == (0, 1)


def test_degenerate_maps_are_nan_with_a_reason_and_leave_the_others_alone() -> None:
    model, x = ConvNet(in_channels=3), images(5, 3, 8, 8)
    maps = torch.rand(5, 8, 8)
    alone = [f(model, x, maps).drop[4] for f in (drop_increase, average_drop_increase)]
    maps[0], maps[1], maps[2, 0, 0], maps[3, 0, 0] = 0, 0.1, torch.nan, torch.inf
    constant, broken = "the map is constant", "the map has NaN or infinite values"
    assert nan_reasons(maps) == [constant, constant, broken, broken, None]
    for metric, expected in zip((drop_increase, average_drop_increase), alone, strict=True):
        drop, increase = metric(model, x, maps)
        assert drop.isnan().tolist() == increase.isnan().tolist() == [True] * 4 + [False]
        assert drop[4] == expected


def test_soft_metrics_agree_with_pytorch_grad_cam() -> None:
    peers = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model, x = ConvNet(in_channels=3), images(6, 3, 12, 12)
    maps = torch.rand(6, 12, 12)
    maps = (maps - maps.amin((1, 2), True)) / (maps.amax((1, 2), True) - maps.amin((1, 2), True))
    targets = [ClassifierOutputSoftmaxTarget(i % 3) for i in range(6)]
    arguments = (x, maps.numpy(), targets, model)
    lost = torch.from_numpy(peers.DropInConfidence()(*arguments))
    grown = torch.from_numpy(peers.IncreaseInConfidence()(*arguments))
    found = average_drop_increase(model, x, maps, target=[i % 3 for i in range(6)])
    with torch.no_grad():
        p = model(x).softmax(1)[range(6), [i % 3 for i in range(6)]]
    assert 0 < grown.sum() < 6
    torch.testing.assert_close(found.drop * p, lost)
    assert found.increase.equal(grown)


def test_fake_cam_wins_the_soft_metric_and_not_the_binary_one() -> None:
    x = torch.rand(3, 1, 16, 16)
    fake = torch.ones(3, 16, 16)
    fake[:, 0, 0] = 0
    assert average_drop_increase(total, x, fake, score="identity").drop.max() < 0.01
    assert drop_increase(total, x, fake, score="identity").drop.min() > 0.8


def test_maps_with_channels_are_summed() -> None:
    model, x = ConvNet(in_channels=3), images(2, 3, 8, 8)
    maps = torch.rand(2, 3, 8, 8)
    found = drop_increase(model, x, maps).drop
    assert found.equal(drop_increase(model, x, maps.sum(1)).drop)
    assert found.equal(drop_increase(model, x, maps.sum(1, keepdim=True)).drop)


def test_every_forward_pass_is_full() -> None:
    model, x = ConvNet(in_channels=3), images(5, 3, 8, 8)
    with CountedRows(model) as counted:
        drop_increase_sweep(model, x, torch.rand(5, 8, 8), fractions=[0.1, 0.2, 0.5], batch_size=4)
    assert counted.calls == [4] * (math.ceil(5 / 4) + math.ceil(15 / 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "fraction must lie in"),
        ({"fraction": 1.5}, "fraction must lie in"),
        ({"fill": torch.zeros(7)}, "fill of shape"),
        ({"fill": math.nan}, "fill contains NaN"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
        ({"score": "logit"}, "score must be"),
        ({"maps": torch.rand(1, 8, 8)}, "one map per image"),
        ({"maps": torch.rand(2, 8)}, "maps must have shape"),
        ({"images": torch.rand(2, 8, 8)}, "images must have shape"),
        ({"images": torch.full((2, 3, 8, 8), math.nan)}, "images contain NaN"),
    ],
)
def test_wrong_options_are_named(options, message) -> None:
    arguments = {"images": images(2, 3, 8, 8), "maps": torch.rand(2, 8, 8), **options}
    with pytest.raises(ValueError, match=message):
        drop_increase(ConvNet(in_channels=3), **arguments)


def test_empty_batches_and_sweeps() -> None:
    model = ConvNet(in_channels=3)
    assert drop_increase(model, torch.zeros(0, 3, 8, 8), torch.zeros(0, 8, 8)).drop.shape == (0,)
    with pytest.raises(ValueError, match="fractions is empty"):
        drop_increase_sweep(model, images(1, 3, 8, 8), torch.rand(1, 8, 8), fractions=[])
