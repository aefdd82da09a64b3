"""Images whose explanation is known pixel by pixel, and the network that it is known for.

Each image holds one object of red and green stripes, whose class is their direction, and one bluish
distractor with stripes of another direction, before a background of smooth colours. The network
first measures by how much red and green exceed the other colours,

    e₁ = ReLU(red - (green + blue) / 2 - 0.3)  and  e₂ = ReLU(green - (red + blue) / 2 - 0.3),

which are exactly 0 everywhere but on the object, and everything after that maps 0 to 0. So whatever
colours of excess up to 0.3 (black, grey and white among them) stand outside of the object, they
change no bit of the logits, and the gradients there are exactly 0. Of the object's own pixels more
than nine in ten raise the logit of its class. The object's mask is therefore what a faithful
explanation at pixel level must find: a fact about the network, not an opinion on it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional

from benchmarks.explanations.data.readers.source import Source

CLASSES = ("horizontal", "rising", "vertical", "falling")
MAX_EXCESS = 0.3  # of the colours that the network does not see
_PERIOD = 4.0  # of the stripes, in pixels
_NOISE = 0.04
_GAIN = 300.0  # makes the logits those of a confident network


class SyntheticItem(NamedTuple):
    """One image and all there is to know about it.

    Attributes:
        image: (3, S, S) float32 in [0, 1], which the network takes as it is.
        label: Index into `CLASSES`.
        mask: (S, S) bool, the object's pixels.
        distractor: (S, S) bool, the pixels of the object that the network does not see.
    """

    image: Tensor
    label: int
    mask: Tensor
    distractor: Tensor


class SyntheticObjects(Dataset[SyntheticItem]):
    """Objects and distractors of random shape, size, place and stripes.

    An item depends on the seed and its own number alone: not on how many there are, nor on which
    were asked for before. Labels take turns, so that the classes are equally frequent.

    Args:
        count: The number of images.
        size: The side S of an image, at least 48 pixels.
        seed: Where the randomness starts.

    Raises:
        ValueError: If there is no image, or if they are too small for two objects.

    Example:
        >>> item = SyntheticObjects(count=2)[1]
        >>> item.image.shape, CLASSES[item.label]
        (torch.Size([3, 64, 64]), 'rising')
    """

    def __init__(self, count: int = 64, size: int = 64, seed: int = 0) -> None:
        if count < 1 or size < 48:
            raise ValueError(
                f"count must be at least 1 and size at least 48, but found {count} and {size}"
            )
        self.count = count
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> SyntheticItem:
        if not 0 <= index < self.count:
            raise IndexError(f"there is no item {index} among {self.count}")
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + index)
        label = index % len(CLASSES)
        other = (label + 1 + _integer(len(CLASSES) - 1, generator)) % len(CLASSES)
        mask, distractor = self._shapes(generator)
        image = self._background(generator)
        for where, direction, colours in (
            # Both colours of the object's stripes are seen, neither of the distractor's.
            (distractor, other, ((0.6, 0.9, 0.95), (0.1, 0.2, 0.6))),
            (mask, label, ((0.9, 0.1, 0.15), (0.1, 0.9, 0.15))),
        ):
            stripe = self._stripes(direction, generator)
            first, second = torch.tensor(colours)[..., None, None]
            image = torch.where(where, torch.where(stripe, first, second), image)
        noise = torch.rand(image.shape, generator=generator)
        return SyntheticItem((image + _NOISE * (noise - 0.5)).clamp(0, 1), label, mask, distractor)

    def _grid(self) -> tuple[Tensor, Tensor]:
        y, x = torch.meshgrid(*[torch.arange(self.size) + 0.5] * 2, indexing="ij")
        return y, x

    def _shapes(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two shapes whose surrounding circles lie inside of the image and apart."""
        while True:
            radius = self.size * (0.14 + 0.1 * torch.rand(2, generator=generator))
            low, span = radius[:, None], (self.size - 2 * radius)[:, None]
            centre = low + span * torch.rand(2, 2, generator=generator)
            if (centre[0] - centre[1]).norm() > radius.sum() + 1:
                break
        first, second = (self._shape(c, r, generator) for c, r in zip(centre, radius, strict=True))
        return first, second

    def _shape(self, centre: Tensor, radius: Tensor, generator: torch.Generator) -> Tensor:
        y, x = self._grid()
        turn = 2 * math.pi * torch.rand((), generator=generator)
        v, u = (y - centre[0]) / radius, (x - centre[1]) / radius
        u, v = u * turn.cos() + v * turn.sin(), v * turn.cos() - u * turn.sin()
        distance = (u**2 + v**2).sqrt()
        shapes = (
            distance < 1,  # disk
            (distance < 1) & (distance > 0.45),  # ring
            (u.abs() < 0.7) & (v.abs() < 0.7),  # square
            (v < 0.5) & (v > 3**0.5 * u.abs() - 1),  # triangle
        )
        return shapes[_integer(len(shapes), generator)]

    def _background(self, generator: torch.Generator) -> Tensor:
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        colours = F.interpolate(coarse, (self.size,) * 2, mode="bilinear")[0]
        grey = colours.mean(0)
        # Below the limit by more than the noise that is added to the three colours.
        limit = MAX_EXCESS - 2 * _NOISE
        excess = 1.5 * (colours[:2] - grey).amax(0)
        return grey + (colours - grey) * limit / excess.clamp(min=limit)

    def _stripes(self, direction: int, generator: torch.Generator) -> Tensor:
        phase = 2 * math.pi * torch.rand((), generator=generator)
        return (2 * math.pi / _PERIOD * _across(direction, *self._grid()) + phase).cos() > 0


def open_synthetic(count: int, size: int, seed: int) -> Source:
    """Opens `SyntheticObjects` as pictures of eight bits, with their exact masks."""
    objects = SyntheticObjects(count, size, seed)

    def picture(row: int) -> Image.Image:
        image: Image.Image = functional.to_pil_image(objects[row].image)
        return image

    def mask(row: int) -> Image.Image:
        white: Image.Image = functional.to_pil_image(objects[row].mask[None].float())
        return white

    names = [f"{size}px-seed{seed}-{number}" for number in range(count)]
    labels = [number % len(CLASSES) for number in range(count)]
    return Source("synthetic", "all", CLASSES, names, labels, picture, mask)


class SyntheticNet(nn.Module):
    """The network of hand-set weights that tells the direction of red and green stripes.

    Three convolutional blocks, (N, 3, H, W) -> logits (N, 4):

    1. The excesses e, and from e₁ - e₂ the two signs of four Gabor filters along the stripes.
    2. The energy of each direction, inhibited by the others'.
    3. For each class the evidence for it, and that against it, which is the others'.

    The logits weigh the means of these maps. No layer after the excesses has a bias, so that the
    logits are positively homogeneous in e: they are equal to the sum of e times their gradient.
    Averages do the down-sampling, since a maximum would not depend on every pixel. The weights are
    parameters, but nothing is random.

    Example:
        >>> items = SyntheticObjects(count=4)
        >>> images = torch.stack([item.image for item in items])
        >>> SyntheticNet()(images).argmax(1)
        tensor([0, 1, 2, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        k = len(CLASSES)
        same, others = torch.eye(k), 1 - torch.eye(k)
        blur = torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])) / 16

        excess = torch.tensor([[1, -0.5, -0.5], [-0.5, 1, -0.5]])
        self.excess = nn.Sequential(_conv(excess[..., None, None], -MAX_EXCESS), nn.ReLU())

        gabors = torch.stack([_gabor(direction) for direction in range(k)])
        signs = torch.tensor([[1.0, -1], [-1, 1]])
        filters = torch.einsum("se,khw->skehw", signs, gabors).flatten(0, 1)
        self.block1 = nn.Sequential(_conv(filters), nn.ReLU())

        energy = (same - others / 2).repeat(1, 2)[..., None, None] * blur
        self.block2 = nn.Sequential(nn.AvgPool2d(2), _conv(energy), nn.ReLU())

        evidence = torch.cat([same, others])[..., None, None] * blur
        self.block3 = nn.Sequential(nn.AvgPool2d(2), _conv(evidence), nn.ReLU())

        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * k, k, bias=False, device="meta")
        self.head.weight = nn.Parameter(_GAIN * torch.cat([same, -same / 2], 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, 4) of images (N, 3, H, W) in [0, 1], H and W at least 4."""
        maps = self.block3(self.block2(self.block1(self.excess(images))))
        logits: Tensor = self.head(self.pool(maps).flatten(1))
        return logits


def _conv(weight: Tensor, bias: float | None = None) -> nn.Conv2d:
    channels_out, channels_in, side = weight.shape[:3]
    # On "meta" nothing is drawn from the random state.
    conv = nn.Conv2d(
        channels_in, channels_out, side, padding=side // 2, bias=bias is not None, device="meta"
    )
    conv.weight = nn.Parameter(weight.clone())
    if bias is not None:
        conv.bias = nn.Parameter(torch.full((channels_out,), bias))
    return conv


def _across(direction: int, y: Tensor, x: Tensor) -> Tensor:
    """The coordinate across stripes of a direction: y for horizontal ones."""
    angle = math.pi * direction / len(CLASSES)
    return y * math.cos(angle) + x * math.sin(angle)


def _gabor(direction: int) -> Tensor:
    """An even filter (7, 7) of the stripes' period, with sum 0 and absolute sum 1."""
    y, x = torch.meshgrid(*[torch.arange(-3.0, 4.0)] * 2, indexing="ij")
    envelope = torch.exp(-(x**2 + y**2) / (2 * 1.8**2))
    wave = (2 * math.pi / _PERIOD * _across(direction, y, x)).cos()
    wave = envelope * (wave - (envelope * wave).sum() / envelope.sum())
    return wave / wave.abs().sum()


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))
