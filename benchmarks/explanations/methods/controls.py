"""Maps that know nothing, too much or the wrong thing: what every table is read against.

Each control looks like an explainer from outside, ``control(images, item) -> maps``, but never
calls the model. A metric on which a control does well does not measure what it should.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

Control = Callable[[Tensor, Sequence[int]], Tensor]


def random_noise(images: Tensor, items: Sequence[int], *, seed: int = 0) -> Tensor:
    """Independent uniform noise, the same for an item whatever batch it is in.

    Args:
        images: (N, C, H, W).
        items: The items' numbers, which seed the noise.
        seed: Of the benchmark.

    Returns:
        (N, 1, H, W) in [0, 1).
    """
    maps = []
    for item in items:
        generator = torch.Generator().manual_seed(1_000_003 * seed + item)
        maps.append(torch.rand(1, *images.shape[2:], generator=generator))
    return torch.stack(maps).to(images.device)


def blurred_random(images: Tensor, items: Sequence[int], *, seed: int = 0) -> Tensor:
    """Random noise blurred to the coarseness of a class activation map, (N, 1, H, W)."""
    sigma = min(images.shape[2:]) / 14
    size = 2 * round(2 * sigma) + 1
    noise = random_noise(images, items, seed=seed + 1)
    blurred: Tensor = functional.gaussian_blur(noise, [size, size], [sigma, sigma])
    return blurred


def sobel(images: Tensor, items: Sequence[int]) -> Tensor:
    """Edge strength: the norm of the Sobel gradients of the channels' mean, (N, 1, H, W)."""
    gray = images.mean(1, keepdim=True)
    gray = torch.nn.functional.pad(gray, (1, 1, 1, 1), mode="replicate")
    horizontal = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).to(gray)
    kernels = torch.stack([horizontal, horizontal.T])[:, None]
    gradients: Tensor = torch.nn.functional.conv2d(gray, kernels)
    strength: Tensor = gradients.norm(dim=1, keepdim=True)
    return strength


def centre_gaussian(images: Tensor, items: Sequence[int]) -> Tensor:
    """A Gaussian at the centre, σ a quarter of each side: photographers' habit, (N, 1, H, W)."""
    height, width = images.shape[2:]
    y = torch.linspace(-2, 2, height, device=images.device)[:, None]
    x = torch.linspace(-2, 2, width, device=images.device)[None, :]
    bump = torch.exp(-(x**2 + y**2) / 2)
    return bump.expand(len(images), 1, height, width).clone()


def fake_cam(images: Tensor, items: Sequence[int]) -> Tensor:
    """Fake-CAM (Poppi et al., 2021): one everywhere but for a zero in the first pixel.

    The soft Average Drop takes it for nearly perfect.
    """
    maps = torch.ones(len(images), 1, *images.shape[2:], device=images.device)
    maps[:, :, 0, 0] = 0
    return maps


def ground_truth(masks: Tensor) -> Tensor:
    """The annotated region itself, (N, 1, H, W) in {0, 1}: the best that localization can be."""
    return masks.to(torch.float32)


def other_item(item: int, images: Sequence[str], *, seed: int = 0) -> int:
    """The item whose map stands in for ``item``'s: drawn from those of other images.

    Drawn, since classes and the cells of mosaics take turns: at a fixed distance the other item
    would have the same one always or never.

    Args:
        item: Its number.
        images: Of which image each item is.
        seed: Of the benchmark.

    Raises:
        ValueError: All items are of one image.
    """
    others = [i for i, image in enumerate(images) if image != images[item]]
    if not others:
        raise ValueError("another image's map needs at least two images; raise the data's count")
    generator = torch.Generator().manual_seed(1_000_003 * seed + item)
    return others[int(torch.randint(len(others), (), generator=generator))]


CONTROLS: dict[str, Control] = {
    "random": random_noise,
    "blurred-random": blurred_random,
    "sobel": sobel,
    "centre-gaussian": centre_gaussian,
    "fake-cam": fake_cam,
}
