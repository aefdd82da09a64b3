"""The views of each image for training, seeded image by image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from captum_excon.models.preprocessing import standard_view
from captum_excon.training.data._readers import Pixels
from captum_excon.training.data.datasets import LabelledImages
from captum_excon.training.data.sampling import derive_seed, preserved_random_state

Augmentation = Callable[[Image.Image], Image.Image]

# Enough for three digits of the mean and the deviation.
STATISTICS_IMAGES = 5000


class Sample(NamedTuple):
    """The views of one image as uint8 arrays (H, W, 3), its label, and its number in the split."""

    standard: Pixels
    label: int
    number: int
    view1: Pixels | None = None
    view2: Pixels | None = None


class ViewBatch(NamedTuple):
    """The views of N images, (N, C, H, W) in [0, 1], in training and out of it."""

    standard: Tensor  # the whole images, without random augmentation
    labels: Tensor  # (N,) int64
    indices: Tensor  # the images' numbers in their split, (N,) int64
    view1: Tensor | None = None  # a random view of each image, in training
    view2: Tensor | None = None  # a second one, if asked for

    def view(self, name: str) -> Tensor:
        """Returns the view of this name; ValueError if the batch does not have it."""
        view: Tensor | None = getattr(self, name)
        if view is None:
            raise ValueError(
                f"the batch has no {name}: use the training loader of ExplanationDataModule, with "
                'views="excon" for view2'
            )
        return view


def channel_statistics(
    images: LabelledImages, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Measures mean and standard deviation of each channel of the standard views, in [0, 1]."""
    total, squares = np.zeros(3), np.zeros(3)
    chosen = np.linspace(0, len(images) - 1, min(len(images), STATISTICS_IMAGES)).astype(int)
    for index in chosen:
        view = standard_view(images[int(index)][0], size)
        pixels = np.asarray(view, dtype=np.float64).reshape(-1, 3) / 255
        total += pixels.mean(0)
        squares += (pixels**2).mean(0)
    mean = total / len(chosen)
    std = np.sqrt(np.maximum(squares / len(chosen) - mean**2, 1e-12))
    return tuple(mean.tolist()), tuple(std.tolist())


def random_view(size: int) -> Augmentation:
    """Returns the official code's augmentation, on PIL images, which is fastest at small sizes."""
    compose: Augmentation = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
        ]
    )
    return compose


class ViewDataset(Dataset[Sample]):
    """Views of labelled images, by (epoch, index); an index alone is that of epoch 0.

    An item is a `Sample` with the standard view and 0 to 2 random ones; `collate_views` makes
    batches. ``augment`` makes a random view, drawing from torch's global generator, which is seeded
    for view v with (``seed``, epoch, index, v) and restored afterwards: views depend neither on
    workers, nor on the order, nor on earlier draws.
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
        self.images, self.image_size = images, image_size
        self.random_views, self.augment, self.seed = random_views, augment, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int] | int) -> Sample:
        # Lightning's overfit_batches puts a sampler of indices in the place of ours.
        epoch, index = (0, key) if isinstance(key, int) else key
        image, label = self.images[index]
        standard = self._pixels(standard_view(image, self.image_size))
        if self.augment is None or not self.random_views:
            return Sample(standard, label, index, *[standard] * self.random_views)
        views = []
        with preserved_random_state() as generator:
            for number in range(1, self.random_views + 1):
                generator.manual_seed(derive_seed(self.seed, epoch, index, number))
                views.append(self._pixels(self.augment(image)))
        return Sample(standard, label, index, *views)

    def _pixels(self, view: Image.Image) -> Pixels:
        pixels = np.asarray(view)
        if pixels.shape != (self.image_size, self.image_size, 3) or pixels.dtype != np.uint8:
            raise ValueError(
                f"an augmentation must give RGB images of {self.image_size}x{self.image_size} "
                f"pixels as PIL images, but gave {type(view).__name__} of {pixels.shape}"
            )
        return pixels


def collate_views(samples: Sequence[Sample]) -> ViewBatch:
    """Makes a batch of float32 images (N, 3, H, W)."""
    standard, labels, numbers, *views = zip(*samples, strict=True)
    view1, view2 = (None if view[0] is None else _images(view) for view in views)
    return ViewBatch(_images(standard), torch.tensor(labels), torch.tensor(numbers), view1, view2)


def _images(arrays: Sequence[Pixels]) -> Tensor:
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return pixels.contiguous().float().div_(255)
