"""What metrics of the same images share, and what the scorer keeps out of their scores."""

import functools

import pytest
import torch
from helpers.toys import ConvNet, CountedRows, WithArguments, images
from torch import Tensor

from captum_excon import callable_targets
from captum_excon.metrics import (
    Scorer,
    abpc,
    average_drop_increase,
    deletion,
    drop_increase,
    drop_increase_sweep,
    insertion,
    perturbation_curve,
    road,
)

MODEL = ConvNet(in_channels=3)
X = images(3, 3, 12, 12)
MAPS = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
METRICS = {
    "abpc": functools.partial(abpc, steps=4),
    "average drop": lambda *a, **k: average_drop_increase(*a, **k).drop,
    "deletion": functools.partial(deletion, steps=4),
    "drop": lambda *a, **k: drop_increase(*a, **k).drop,
    "drop sweep": lambda *a, **k: drop_increase_sweep(*a, **k).drop,
    "insertion": functools.partial(insertion, steps=4),
    "perturbation curve": lambda *a, **k: perturbation_curve(*a, fractions=[0.2], **k).scores,
    "road": functools.partial(road, fractions=[0.5]),
}


def total(x: Tensor) -> Tensor:
    """A linear model: the sum of an image's values."""
    return x.sum((1, 2, 3))


@pytest.mark.parametrize("name", METRICS)
def test_metrics_that_share_a_scorer_score_the_unmasked_images_once(name: str) -> None:
    options = {"target": [0, 1, 2], "score": "sigmoid", "batch_size": 3}
    with CountedRows(MODEL) as alone:
        expected = METRICS[name](MODEL, X, MAPS, **options)
    with CountedRows(MODEL) as counted:
        scorer = Scorer(MODEL, X, **options)
        assert counted.calls == [3]
        for _ in range(2):
            assert METRICS[name](scorer, X, MAPS).equal(expected)
    assert len(counted.calls) == 1 + 2 * (len(alone.calls) - 1)


def test_a_scorer_is_of_its_own_images_and_options() -> None:
    scorer = Scorer(MODEL, X)
    assert deletion(scorer, X.clone(), MAPS).equal(deletion(MODEL, X, MAPS))
    for others in (X.flip(0), X[:2]):
        with pytest.raises(ValueError, match="not the images of the Scorer"):
            deletion(scorer, others, MAPS[: len(others)])
    with pytest.raises(ValueError, match="score, target cannot be given beside a Scorer"):
        deletion(scorer, X, MAPS, target=1, score="identity")
    with pytest.raises(TypeError, match="fraction"):
        deletion(MODEL, X, MAPS, fraction=0.5)


def test_the_scores_of_callable_targets_are_taken_as_they_are() -> None:
    wrapped = callable_targets(MODEL, [lambda output: output[0], lambda output: output[1]])
    found = deletion(wrapped, X, MAPS, target=1)
    torch.testing.assert_close(found, deletion(MODEL, X, MAPS, target=1, score="identity"))
    one = callable_targets(MODEL, lambda output: output[1])
    torch.testing.assert_close(deletion(one, X, MAPS, target=0), found)


def test_an_expanded_scorer_scores_several_maps_of_one_image_in_the_same_passes() -> None:
    model, bias = WithArguments(in_channels=3), torch.tensor([[0.0, 1.0, 0.0]])
    options = {"additional_forward_args": (bias, 2.0), "batch_size": 4, "target": [1]}
    scorer = Scorer(model, X[:1], **options).expand(3)
    with CountedRows(model) as counted:
        found = deletion(scorer, scorer.images, MAPS, steps=4)
    assert counted.calls == [4] * 3
    for i in range(3):
        assert found[i] == deletion(model, X[:1], MAPS[i : i + 1], steps=4, **options)
    with pytest.raises(ValueError, match="only one image can be expanded"):
        Scorer(MODEL, X).expand(2)


@pytest.mark.parametrize("name", METRICS)
def test_an_ambient_autocast_changes_nothing_outside_the_model(name: str) -> None:
    if name == "road":
        pytest.importorskip("pytorch_grad_cam")
    x = X.abs()
    expected = METRICS[name](total, x, MAPS, score="identity")
    with torch.autocast("cpu", torch.bfloat16):
        found = METRICS[name](total, x, MAPS, score="identity")
    assert found.equal(expected)


def test_a_scores_callable_runs_in_full_precision_under_autocast() -> None:
    weight = torch.rand(3, 3)
    options = {"target": 0, "steps": 4, "score": lambda output: output @ weight}
    model = lambda x: x.mean((2, 3))  # noqa: E731
    expected = deletion(model, X, MAPS, **options)
    with torch.autocast("cpu", torch.bfloat16):
        assert deletion(model, X, MAPS, **options).equal(expected)


@pytest.mark.parametrize("length", [1, 2, 5, 15, 16])
def test_arguments_that_all_images_share_are_never_cut(length: int) -> None:
    prototypes = torch.rand(length, 3, generator=torch.Generator().manual_seed(1))
    x, maps = images(17, 3, 8, 8), torch.rand(17, 8, 8)

    def similarity(x: Tensor, prototypes: Tensor) -> Tensor:
        return (x.mean((2, 3)) @ prototypes.T).amax(1)

    def closed(x: Tensor) -> Tensor:
        return similarity(x, prototypes)

    options = {"score": "identity", "steps": 3}
    for rows in (1, 5, 16, 17, 64):
        found = deletion(
            similarity, x, maps, additional_forward_args=prototypes, batch_size=rows, **options
        )
        torch.testing.assert_close(found, deletion(closed, x, maps, **options))
