import pytest
import torch
from helpers.toys import ConvNet, state
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_excon.training.evaluation.robustness import ATTACKS, attacked


def linear(classes: int = 3, gain: float = 1.0, seed: int = 0) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, classes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data.normal_(0, gain, generator=generator)
    return model.eval()


@settings(deadline=None, max_examples=40)
@given(
    attack=st.sampled_from(ATTACKS),
    epsilon=st.floats(1e-3, 2.0),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_the_result_stays_within_epsilon_and_the_pixel_range(
    attack: str, epsilon: float, steps: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 3, 4, 4, generator=generator).round(decimals=1)  # 0 and 1 occur
    labels = torch.tensor([0, 1, 2])
    result = attacked(linear(), images, labels, attack, epsilon, steps=steps, generator=generator)
    assert (result - images).abs().max().item() <= epsilon + 1e-6
    assert result.min() >= 0
    assert result.max() <= 1
    assert not result.requires_grad


def test_fgsm_moves_each_pixel_by_epsilon_against_its_label() -> None:
    def model(x: Tensor) -> Tensor:  # bright left halves are class 0, bright right halves class 1
        return x.mean((1, 2))

    images = torch.full((2, 1, 2, 2), 0.5)
    result = attacked(model, images, torch.tensor([0, 1]), "fgsm", 0.125)
    left_down, left_up = [[0.375, 0.625]] * 2, [[0.625, 0.375]] * 2
    assert result[:, 0].tolist() == [left_down, left_up]


def test_the_gradient_signs_are_those_of_the_cross_entropy() -> None:
    model, images = ConvNet(in_channels=3), torch.rand(4, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 0])
    probe = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(
        nn.functional.cross_entropy(model(probe), labels, reduction="sum"), probe
    )
    expected = (images + 0.01 * gradient.sign()).clamp(0, 1)
    result = attacked(model, images, labels, "fgsm", 0.01)
    agree = (result - expected).abs() < 1e-6
    assert agree.float().mean() > 0.99  # signs of gradients that are 0 up to rounding may differ


def test_pgd_on_a_linear_model_reaches_the_corner_that_is_the_worst_point_of_the_ball() -> None:
    model, images = linear(classes=2), torch.full((1, 3, 4, 4), 0.5)
    weight = model[1].weight
    worst = images - 0.1 * (weight[0] - weight[1]).sign().view(1, 3, 4, 4)
    result = attacked(model, images, torch.tensor([0]), "pgd", 0.1)
    torch.testing.assert_close(result, worst)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_very_confident_model_is_attacked_none_the_less(attack: str) -> None:
    # Its probabilities round to 1 and its gradients are far below Captum's threshold of 1e-6.
    model = linear(classes=2, gain=20.0)
    images = torch.rand(4, 3, 4, 4)
    labels = model(images).argmax(1)
    assert (model(images).softmax(1).amax(1) == 1).sum() == 3
    result = attacked(model, images, labels, attack, 1.0)
    assert (model(result).argmax(1) != labels).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_batch_size_does_not_matter(attack: str) -> None:
    model, images = ConvNet(in_channels=3), torch.rand(5, 3, 8, 8)
    labels = torch.tensor([0, 1, 2, 0, 1])
    whole = attacked(model, images, labels, attack, 0.05)
    generator = torch.Generator().manual_seed(0)
    parts = [
        attacked(model, x, y, attack, 0.05, generator=generator)
        for x, y in zip(images.split(2), labels.split(2), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_pgd_starts_where_the_generator_says() -> None:
    def constant(x: Tensor) -> Tensor:  # no gradient: the attack ends where it started
        return x.sum((1, 2, 3), keepdim=False)[:, None] * torch.zeros(2)

    images, labels = torch.full((1, 3, 4, 4), 0.5), torch.tensor([0])

    def start(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return attacked(constant, images, labels, "pgd", 0.1, generator=generator)

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))
    assert 0.05 < (start(1) - images).abs().max() <= 0.1


@pytest.mark.parametrize("attack", ATTACKS)
def test_model_images_and_the_global_random_state_are_left_alone(attack: str) -> None:
    model, images = ConvNet(in_channels=3), torch.rand(2, 3, 8, 8)
    before, kept = state(model), images.clone()
    attacked(model, images, torch.tensor([0, 1]), attack, 0.1)
    assert state(model) == before
    assert torch.equal(images, kept)
    assert not images.requires_grad
    assert images.grad is None


def test_the_random_state_is_restored_when_the_model_raises() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    images, before = torch.rand(1, 3, 4, 4), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no memory"):
        attacked(broken, images, torch.tensor([0]), "pgd", 0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_attack_works_under_no_grad() -> None:
    images = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        result = attacked(linear(), images, torch.tensor([0]), "fgsm", 0.1)
    assert not torch.equal(result, images)


def test_an_empty_batch_stays_empty() -> None:
    empty = torch.rand(0, 3, 4, 4)
    for attack in ATTACKS:
        assert attacked(linear(), empty, torch.zeros(0).long(), attack, 0.1).shape == empty.shape


def test_wrong_calls_are_refused() -> None:
    images, labels = torch.rand(1, 3, 4, 4), torch.tensor([0])
    with pytest.raises(ValueError, match="attack must be one of fgsm, pgd, but found 'cw'"):
        attacked(linear(), images, labels, "cw", 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epsilon must be positive and finite, but found 0"):
        attacked(linear(), images, labels, "fgsm", 0)
    with pytest.raises(ValueError, match="steps must be a positive integer, but found 0"):
        attacked(linear(), images, labels, "pgd", 0.1, steps=0)
    with pytest.raises(ValueError, match="images must lie in"):
        attacked(linear(), images * 3 - 1, labels, "fgsm", 0.1)
    with pytest.raises(ValueError, match="images must lie in"):
        attacked(linear(), images * torch.nan, labels, "fgsm", 0.1)
