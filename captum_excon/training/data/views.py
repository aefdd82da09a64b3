"""The views of each image that training sees, seeded image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from captum_excon.training.data._readers import Pixels
from captum_excon.training.data.datasets import LabelledImages
from captum_excon.training.data.sampling import derive_seed, preserved_random_state

Augmentation = Callable[[Image.Image], Image.Image]


def standard_view(image: Image.Image, size: int) -> Image.Image:
    """The whole image, or its central square, at size x size: what is explained and evaluated."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # Not resize's own box: its filter reads pixels beyond that.
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def random_view(size: int) -> Augmentation:
    """The official code's augmentation, of PIL images, which is the fastest at small sizes.

    A random crop of 0.2 to 1 of the area, resized; a flip with probability 0.5; jitter of
    brightness, contrast and saturation by 0.4 and of hue by 0.1 with probability 0.8; gray with
    probability 0.2.

    Example:
        >>> random_view(32)(Image.new("RGB", (40, 50))).size
        (32, 32)
    """
    compose: Augmentation = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
        ]
    )
    return compose


class ViewDataset(Dataset[dict[str, Any]]):
    """Views of labelled images, by (epoch, index).

    What is random about view v of an image depends on (``seed``, epoch, index, v) only: torch's
    global generator is seeded with these for the augmentation, and is afterwards as it was. So the
    views do not depend on workers, on the order, nor on what was drawn before.

    Args:
        images: The images.
        image_size: Side of the square views.
        random_views: How many, beside the standard one.
        augment: What makes a random view; it draws from torch's global generator.
        seed: Of the random views.

    An item holds "standard", "view1", ... as uint8 arrays (H, W, 3), "label" and "index"; make
    batches of them with `collate_views`.
    """

    def __init__(
        self,
        images: LabelledImages,
        image_size: int,
        *,
        random_views: int = 0,
        augment: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.images = images
        self.image_size = image_size
        self.random_views = random_views
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        image, label = self.images[index]
        standard = self._pixels(standard_view(image, self.image_size))
        item: dict[str, Any] = {"standard": standard, "label": label, "index": index}
        names = [f"view{number}" for number in range(1, self.random_views + 1)]
        if self.augment is None or not names:
            return item | dict.fromkeys(names, standard)
        with preserved_random_state() as generator:
            for number, name in enumerate(names, start=1):
                generator.manual_seed(derive_seed(self.seed, epoch, index, number))
                item[name] = self._pixels(self.augment(image))
        return item

    def _pixels(self, view: Image.Image) -> Pixels:
        pixels = np.asarray(view)
        if pixels.shape != (self.image_size, self.image_size, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                f"an augmentation must give RGB images of {self.image_size}x{self.image_size} "
                f"pixels as PIL images, but gave {type(view).__name__} of {pixels.shape}"
            )
        return pixels


def collate_views(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Makes a batch: images (N, 3, H, W) float32 in [0, 1]; "label" and "index" (N,) int64."""
    batch = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if isinstance(first, np.ndarray):
            pixels = torch.from_numpy(np.stack(values)).permute(0, 3, 1, 2)
            batch[name] = pixels.contiguous().float().div_(255)
        else:
            batch[name] = torch.tensor(values)
    return batch
