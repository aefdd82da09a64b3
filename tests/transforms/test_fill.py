import pytest
import torch
from helpers.toys import images

from captum_excon.transforms._fill import fill_values


def test_a_number_fills_all_channels() -> None:
    x = images(2, 3, 4, 4)
    assert torch.equal(fill_values(x, 0.5), torch.full_like(x, 0.5))


def test_the_mean_is_each_images_own_colour() -> None:
    x = torch.arange(16.0).view(2, 2, 2, 2)
    assert fill_values(x, "mean")[..., 1, 1].tolist() == [[1.5, 5.5], [9.5, 13.5]]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (5, 9), (32, 32)])
def test_blur_takes_images_of_every_size_and_smooths(size) -> None:
    x = torch.rand(2, 3, *size)
    blurred = fill_values(x, "blur")
    assert blurred.shape == x.shape
    assert (blurred.amax((2, 3)) <= x.amax((2, 3)) + 1e-6).all()
    if min(size) > 10:
        assert blurred.std() < 0.5 * x.std()


def test_noise_has_each_channels_mean_and_spread() -> None:
    x = torch.tensor([0.0, 10.0, -3.0]).view(1, 3, 1, 1) + 2 * torch.randn(1, 3, 64, 64)
    noise = fill_values(x, "noise", torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise.mean((2, 3)), x.mean((2, 3)), atol=0.15, rtol=0)
    torch.testing.assert_close(noise.std((2, 3)), x.std((2, 3)), atol=0.15, rtol=0)
    assert not torch.equal(noise[0, 0], noise[0, 1] - 10)


def test_a_generator_repeats_noise_and_leaves_the_global_state() -> None:
    x, before = images(2, 3, 4, 4), torch.get_rng_state()
    draws = [fill_values(x, "noise", torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(fill_values(x, "noise"), fill_values(x, "noise"))


def test_a_function_may_return_anything_that_expands() -> None:
    x = images(2, 3, 4, 4)
    assert torch.equal(fill_values(x, lambda v: v.flip(0)), x.flip(0))
    colour = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).view(3, 1, 1)
    values = fill_values(x, lambda _: colour)
    assert values.dtype == x.dtype
    assert values[1, :, 2, 3].tolist() == [1, 2, 3]


def test_a_function_with_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4, 4\), but returned \(2, 1, 3, 3\)"):
        fill_values(images(2, 3, 4, 4), lambda v: v[:, :1, :3, :3])


@pytest.mark.parametrize("fill", [7, "mean", "blur", "noise", lambda v: v])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float64])
def test_values_have_the_images_dtype(fill, dtype) -> None:
    x = (torch.rand(1, 3, 8, 8) * 255).to(dtype)
    values = fill_values(x, fill)
    assert values.dtype == dtype
    assert values.shape == x.shape


def test_integer_values_are_rounded_and_stay_in_range() -> None:
    x = torch.tensor([0, 255, 255, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert fill_values(x, "mean")[0, 0, 0, 0] == 191
    noise = fill_values(x.repeat(1, 1, 16, 16), "noise", torch.Generator().manual_seed(0))
    assert (noise == 255).float().mean() > 0.15  # clipped, not wrapped around


@pytest.mark.parametrize("fill", ["median", None])
def test_an_unknown_fill_is_refused(fill) -> None:
    with pytest.raises(ValueError, match="fill must be a number"):
        fill_values(images(1, 3, 4, 4), fill)


def test_only_the_region_changes() -> None:
    x = images(2, 3, 4, 4)
    where = torch.rand(2, 1, 4, 4) > 0.5
    changed = (torch.where(where, fill_values(x, 9.0), x) != x).all(1, keepdim=True)
    assert torch.equal(changed, where)


@pytest.mark.parametrize("fill", [-1, 0.5, 256.0, float("nan")])
def test_a_number_that_the_images_dtype_cannot_hold_is_refused(fill) -> None:
    with pytest.raises(ValueError, match="whole number from 0 to 255"):
        fill_values(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), fill)


def test_a_functions_values_are_rounded_and_clipped_to_integer_images() -> None:
    images = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    values = fill_values(images, lambda _: torch.tensor([-1.0, 1.6, 300.0]))
    assert values.flatten().tolist() == [0, 2, 255]


@pytest.mark.parametrize("fill", [0, "mean", "blur", "noise"])
def test_an_empty_batch_is_filled_with_nothing(fill) -> None:
    assert fill_values(torch.zeros(0, 3, 4, 4), fill).shape == (0, 3, 4, 4)
