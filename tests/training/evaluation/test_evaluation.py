import json
from typing import Any

import pytest
import torch
from helpers.toys import ConvNet, state
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional

from captum_excon._settings import validated
from captum_excon.training.data.views import ViewBatch
from captum_excon.training.evaluation.measures import evaluate, evaluate_corrupted, subset
from captum_excon.training.evaluation.shift import SHIFTS
from captum_excon.training.methods._settings import EvaluationSettings

IMAGES, CLASSES = 23, 3


class Toy(nn.Module):
    """A classifier of pixels in [0, 1], as the training modules are."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or ConvNet(in_channels=3, classes=CLASSES)

    def normalize(self, images: Tensor) -> Tensor:
        return functional.normalize(images, [0.5] * 3, [0.25] * 3)

    @property
    def explainable(self) -> nn.Module:
        return self.network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.normalize(images))


class Batches(list[ViewBatch]):
    """Batches as a loader gives them."""

    def __init__(self, batches: list[ViewBatch], dataset: Tensor) -> None:
        super().__init__(batches)
        self.dataset = dataset


def loader(batch_size: int = 8, count: int = IMAGES, size: int = 12) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(count, 3, size, size, generator=generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    parts = [t.split(batch_size) for t in (images, labels, torch.arange(count))]
    batches = [ViewBatch(*part) for part in zip(*parts, strict=True)]
    return Batches(batches, images)  # type: ignore[return-value]


def centre(images: Tensor, targets: Tensor) -> Tensor:
    """Maps that are largest in the middle."""
    ramp = torch.linspace(-1, 1, images.shape[-1]).abs().neg()
    return (ramp[:, None] + ramp).expand(len(images), 1, -1, -1)


def close(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(close, a, b))
    return bool(a == b if isinstance(a, (str, type(None))) else a == pytest.approx(b, abs=1e-6))


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return evaluate(Toy(), loader(), {"centre": centre}, EvaluationSettings(epsilons=(1, 8)))


def test_every_figure_is_there_and_json_holds_it(result: dict[str, Any]) -> None:
    assert result == json.loads(json.dumps(result, allow_nan=False)) | {
        "settings": {**result["settings"], "epsilons": (1, 8)}
    }
    assert result["images"] == result["subset"] == IMAGES
    assert set(result["clean"]) == {"top1", "top5", "ece10", "ece15"}
    assert set(result["explanations"]) == {"centre", "random"}
    assert set(result["attacks"]) == {"epsilons", "clean", "fgsm", "pgd"}
    assert list(result["shifts"]) == list(SHIFTS)
    assert all(len(severities) == 5 for severities in result["shifts"].values())


def test_the_batch_size_does_not_matter(result: dict[str, Any]) -> None:
    other = evaluate(Toy(), loader(5), {"centre": centre}, EvaluationSettings(epsilons=(1, 8)))
    assert close(other, result)


def test_clean_accuracy_is_that_of_the_argmax(result: dict[str, Any]) -> None:
    batch = next(iter(loader(IMAGES)))
    right = Toy()(batch.standard).argmax(1) == batch.labels
    assert result["clean"]["top1"] == pytest.approx(right.float().mean().item())
    assert result["attacks"]["clean"] == result["clean"]["top1"]


def test_attacks_do_not_help_and_the_stronger_do_more_harm(result: dict[str, Any]) -> None:
    attacks = result["attacks"]
    for attack in ("fgsm", "pgd"):
        weak, strong = attacks[attack]
        assert attacks["clean"] >= weak >= strong


def test_drop_and_increase_are_measured_for_the_predicted_class_in_normalised_space() -> None:
    toy, batch = Toy(), next(iter(loader(IMAGES)))
    inputs = toy.normalize(batch.standard)
    maps = torch.rand(1, 1, 12, 12).expand(IMAGES, -1, -1, -1)
    keep = torch.zeros(IMAGES, 144).scatter(1, maps.flatten(1).topk(22).indices, 1.0)  # 15 %
    before = toy.network(inputs).softmax(1)
    p, predicted = before.max(1, keepdim=True)
    o = toy.network(inputs * keep.view(-1, 1, 12, 12)).softmax(1).gather(1, predicted)
    expected = ((p - o).clamp(min=0) / p).mean().item(), (o > p).float().mean().item()
    found = evaluate(toy, loader(), {"mine": lambda x, t: maps[: len(x)]})["explanations"]["mine"]
    assert (found["drop"], found["increase"]) == pytest.approx(expected, abs=1e-5)
    assert found["undefined"] == 0


def test_a_map_that_says_nothing_is_counted_and_not_averaged() -> None:
    constant = evaluate(Toy(), loader(), {"flat": lambda x, t: torch.ones(len(x), 1, 12, 12)})
    assert constant["explanations"]["flat"] == {"drop": None, "increase": None, "undefined": 1.0}


def test_a_limit_restricts_explanations_and_attacks_to_the_named_images() -> None:
    seen = []

    def watched(images: Tensor, targets: Tensor) -> Tensor:
        seen.append(images)
        return centre(images, targets)

    limited = evaluate(
        Toy(), loader(5), {"watched": watched}, EvaluationSettings(limit=4, epsilons=(2,))
    )
    assert (limited["images"], limited["subset"]) == (IMAGES, 4)
    batch = next(iter(loader(IMAGES)))
    chosen = subset(IMAGES, 4)
    torch.testing.assert_close(torch.cat(seen), Toy().normalize(batch.standard[chosen]))
    right = Toy()(batch.standard[chosen]).argmax(1) == batch.labels[chosen]
    assert limited["attacks"]["clean"] == pytest.approx(right.float().mean().item())


def test_the_subset_is_fixed_and_nested() -> None:
    assert torch.equal(subset(50, 10), subset(50, 10))
    assert subset(50, 10).sum() == 10
    assert not (subset(50, 10) & ~subset(50, 20)).any()
    assert not torch.equal(subset(50, 10, seed=1), subset(50, 10))
    assert subset(3, 10).all()


def test_the_module_its_mode_and_the_random_state_are_left_alone() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), ConvNet(in_channels=3))
    toy = Toy(network).train()
    before = state(toy)
    settings = EvaluationSettings(limit=3)
    first = evaluate(toy, loader(), {"centre": centre}, settings)
    assert state(toy) == before
    assert close(
        evaluate(toy.eval(), loader(), {"centre": centre}, EvaluationSettings(limit=3)), first
    )


def test_captum_attributions_explain_and_repeat_themselves() -> None:
    from captum.attr import IntegratedGradients, LayerGradCam

    toy = Toy()
    explainers = {
        "integrated-gradients": IntegratedGradients(toy.explainable),
        "layer-grad-cam": LayerGradCam(toy.explainable, toy.network.body),
    }
    first = evaluate(toy, loader(), explainers, EvaluationSettings(limit=6))["explanations"]
    assert close(
        evaluate(toy, loader(4), explainers, EvaluationSettings(limit=6))["explanations"], first
    )
    assert all(0 <= first[name]["drop"] <= 1 for name in explainers)


def test_corrupted_images_are_scored_as_the_clean_ones(result: dict[str, Any]) -> None:
    assert evaluate_corrupted(Toy(), loader(6)) == pytest.approx(result["clean"], abs=1e-6)


def test_outputs_that_are_not_finite_are_an_error_that_says_what_to_do() -> None:
    toy = Toy()
    toy.network.head.weight.data.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"NaN or infinite.*evaluate an earlier checkpoint"):
        evaluate(toy, loader(), {})


def test_no_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate(Toy(), loader(count=0), {})


def test_the_name_of_the_control_is_taken() -> None:
    with pytest.raises(ValueError, match="'random' is taken"):
        evaluate(Toy(), loader(), {"random": centre})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit should be greater than or equal to 1"),
        ({"fraction": 1.0}, "fraction should be less than 1"),
        ({"epsilons": ()}, "epsilons: Value should have at least 1 item"),
        ({"epsilons": (0, 1)}, "epsilons should be greater than or equal to 1"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validated(EvaluationSettings, options)
