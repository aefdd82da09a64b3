import pytest
import torch

from benchmarks.explanations.methods.controls import (
    CONTROLS,
    blurred_random,
    centre_gaussian,
    fake_cam,
    other_item,
    random_noise,
    sobel,
)

IMAGES = torch.rand(3, 3, 20, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_give_one_finite_map_an_image_whatever_the_batch(name):
    maps = CONTROLS[name](IMAGES, [4, 9, 2])
    assert maps.shape == (3, 1, 20, 28)
    assert torch.isfinite(maps).all()
    assert torch.equal(CONTROLS[name](IMAGES[1:2], [9]), maps[1:2])


def test_noise_differs_between_items_and_seeds_and_leaves_the_global_state_alone():
    state = torch.get_rng_state()
    maps = random_noise(IMAGES, [0, 1, 0])
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(random_noise(IMAGES, [0, 1, 0], seed=1), maps)
    assert torch.equal(torch.get_rng_state(), state)


def test_blurred_noise_is_smoother_than_noise():
    def roughness(maps):
        return maps.diff(dim=3).abs().mean() / maps.std()

    assert roughness(blurred_random(IMAGES, [0, 1, 2])) < 0.5 * roughness(
        random_noise(IMAGES, [0, 1, 2])
    )


def test_sobel_answers_an_edge_and_nothing_else():
    image = torch.zeros(1, 3, 6, 6)
    image[..., 3:] = 1
    edges = sobel(image, [0])[0, 0]
    assert torch.equal(edges, torch.tensor([0.0, 0, 4, 4, 0, 0]).expand(6, 6))


def test_the_centre_gaussian_peaks_at_the_centre_and_is_symmetric():
    bump = centre_gaussian(IMAGES[:1, :, :5, :5], [0])[0, 0]
    assert bump[2, 2] == 1
    assert torch.allclose(bump, bump.flip(0))
    assert torch.allclose(bump, bump.T)


def test_fake_cam_has_a_single_zero():
    assert (fake_cam(IMAGES, [0, 1, 2]) == 0).sum() == 3


def test_another_items_map_is_at_no_fixed_distance():
    # Mosaics explain their cells in turn: the same cell must come up as often as any other.
    images = list(map(str, range(400)))
    for seed in range(3):
        same = sum(other_item(i, images, seed=seed) % 4 == i % 4 for i in range(400))
        assert 70 < same < 130


def test_another_items_map_is_never_its_own():
    images = ["a", "b", "c", "c", "d"]
    for seed in range(7):
        assert all(images[other_item(i, images, seed=seed)] != images[i] for i in range(5))
    with pytest.raises(ValueError, match="at least two images"):
        other_item(0, ["a", "a"])
