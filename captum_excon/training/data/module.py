"""The data of a training run, for Lightning or for a plain loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch.utils.data import DataLoader

from captum_excon.training.data.datasets import LabelledImages, Split, open_dataset
from captum_excon.training.data.sampling import EpochSampler
from captum_excon.training.data.views import (
    Augmentation,
    ViewDataset,
    channel_statistics,
    collate_views,
    random_view,
)


class ExplanationDataModule(L.LightningDataModule):
    """Batches for training with explanations, exactly repeatable.

    Batches are `views.ViewBatch` of float32 images in [0, 1], (N, 3, H, W): ``standard``, the
    central square that ExCon explains and masks; in training ``view1`` and, with ``views="excon"``,
    ``view2``, random views (`views.random_view`); ``labels``; and ``indices``, which identify the
    images in their split as long as the data and the options that choose images stay the same.

    Validation images are taken from the training images, never from the test images, see
    `open_dataset`. The order of an epoch depends on (``seed``, epoch) and a view on (``seed``,
    epoch, index, view) alone; the global random state stays as it was. With several processes each
    takes its share of the epoch (`EpochSampler`).

    Args:
        source: A folder or a name, as for `open_dataset`.
        image_size: H = W.
        views: "one" random view, or "excon" for two.
        batch_size: N for each process.
        num_workers: Processes that load images, through all epochs.
        seed: Seed of order and views.
        val_fraction: Share of the training images held out for validation; 0 for no validation.
        split_seed: Seed of the choice of validation images, apart from ``seed``.
        classes: As for `open_dataset`.
        per_class: At most so many images of each class for training and validation together.
        root: Where torchvision's datasets lie.
        download: Let torchvision fetch them; do so before ``torchrun`` starts several processes.
        augment: True for the official random views, False for views equal to the standard one, or
            a function of PIL images that draws from torch's global generator.
        mean: Of each channel, for the model to normalise with; None measures it.
        std: Deviation of each channel; None measures it.
        cache_images: Hold the decoded images in memory; "auto" does below 1.5 GiB a split.
        on_corrupt: "raise" an error that names the image, or "skip" it (`LabelledImages.decoded`).
        drop_last: Leave out the last training batch unless it is full, as in `EpochSampler`.

    Raises:
        DataError: As `open_dataset`, in `setup` and in the properties.
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        image_size: int,
        *,
        views: Literal["one", "excon"] = "excon",
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int = 0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        classes: int | Sequence[str] | None = None,
        per_class: int | None = None,
        root: str | os.PathLike[str] = "data",
        download: bool = False,
        augment: bool | Augmentation = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        cache_images: bool | Literal["auto"] = "auto",
        on_corrupt: Literal["raise", "skip"] = "raise",
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        if views not in ("one", "excon"):
            raise ValueError(f"views must be 'one' or 'excon', but found {views!r}")
        counts = {"image_size": image_size, "batch_size": batch_size, "num_workers": num_workers}
        for name, number in counts.items():
            if number < (least := int(name != "num_workers")):
                raise ValueError(f"{name} must be at least {least}, but found {number}")
        if (mean is None) != (std is None):
            raise ValueError("mean and std go together: pass both, or neither to measure them")
        self.source, self.root, self.download = source, root, download
        self.classes, self.per_class = classes, per_class
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.image_size, self.random_views = image_size, 2 if views == "excon" else 1
        self.batch_size, self.drop_last, self.num_workers = batch_size, drop_last, num_workers
        self.augment = random_view(image_size) if augment is True else augment or None
        self.seed = seed
        self.cache_images, self.on_corrupt = cache_images, on_corrupt
        self._statistics = None if mean is None or std is None else (tuple(mean), tuple(std))
        self._splits: dict[Split, LabelledImages] = {}

    def images(self, split: Split) -> LabelledImages:
        """The images of a split, opened at the first call."""
        if split not in self._splits:
            images = open_dataset(
                self.source,
                split,
                root=self.root,
                download=self.download,
                classes=self.classes,
                per_class=None if split == "test" else self.per_class,
                val_fraction=self.val_fraction,
                seed=self.split_seed,
            )
            self._splits[split] = images.decoded(self.cache_images, self.on_corrupt)
        return self._splits[split]

    def prepare_data(self) -> None:
        """Downloads one of torchvision's datasets, if that is allowed."""
        if self.download:
            for split in ("train", "test"):
                open_dataset(self.source, split, root=self.root, download=True)

    def setup(self, stage: str) -> None:
        """Opens what a stage needs: "fit", "validate" or "test"."""
        if stage == "fit":
            self.images("train")
        if stage in ("fit", "validate") and self.val_fraction:
            self.images("val")
        if stage == "test":
            self.images("test")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the model's outputs."""
        opened = next(iter(self._splits.values()), None)
        return (opened or self.images("train")).class_names

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel over the pixels of the training images, in [0, 1]."""
        return self._mean_and_std()[0]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel over the same pixels."""
        return self._mean_and_std()[1]

    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        if self._statistics is None:
            self._statistics = channel_statistics(self.images("train"), self.image_size)
        return self._statistics

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches in a new order each epoch; call ``sampler.set_epoch`` in a plain loop."""
        return self.loader(self.images("train"), train=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches in the order of the files; none if ``val_fraction`` is 0."""
        return self.loader(self.images("val")) if self.val_fraction else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches in the order of the files."""
        return self.loader(self.images("test"))

    def loader(self, images: LabelledImages, train: bool = False) -> DataLoader[Any]:
        """Batches of any images as in evaluation, or shuffled and with random views."""
        dataset = ViewDataset(
            images,
            self.image_size,
            random_views=self.random_views if train else 0,
            augment=self.augment,
            seed=self.seed,
        )
        sampler = EpochSampler(
            len(images),
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            drop_last=self.drop_last and train,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        if self.trainer:
            # Workers begin before Lightning sets the epoch, which is not 0 after a resumption.
            progress: Any = self.trainer.fit_loop.epoch_progress.current
            sampler.set_epoch(progress.processed)
        return DataLoader(
            dataset,
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_views,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            # Without one of its own, a loader draws from the global generator each epoch.
            generator=torch.Generator(),
        )
