"""Labelled images from folders and from torchvision, and their split into training and held out."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from captum_excon.training.data._layouts import LAYOUTS, Part, find_parts
from captum_excon.training.data._readers import (
    CorruptImageError,
    DataError,
    Indices,
    Reader,
    decode_all,
    decoded_bytes,
)
from captum_excon.training.data._subsets import (
    held_out,
    limit_per_class,
    select_classes,
    select_rows,
)
from captum_excon.training.data.sampling import derive_seed

__all__ = ["CorruptImageError", "DataError", "LabelledImages", "Split", "open_dataset"]

Split = Literal["train", "val", "test"]

# CIFAR-100 decoded takes 150 MB, Tiny ImageNet 1.2 GB.
CACHE_BELOW = 1.5 * 2**30

# A folder of classes alone is split into training and test images by this share.
TEST_FRACTION = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LabelledImages(Dataset[tuple[Image.Image, int]]):
    """RGB images: ``images[i]`` is a PIL image of its own size and the number of its class."""

    reader: Reader
    labels: Indices  # (N,) int64, numbers of classes
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()  # names of the images left out since they cannot be read

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.reader.read(index), int(self.labels[index])

    def name(self, index: int) -> str:
        """Returns an image's file, or another text that identifies it."""
        return self.reader.name(index)

    def take(self, indices: Sequence[int] | Indices) -> LabelledImages:
        """Returns the images with these numbers, in this order, with the same classes."""
        rows = np.asarray(indices, dtype=np.int64)
        return replace(self, reader=self.reader.take(rows), labels=self.labels[rows])

    def decoded(
        self,
        cache_images: bool | Literal["auto"] = "auto",
        on_corrupt: Literal["raise", "skip"] = "raise",
    ) -> LabelledImages:
        """Returns the same images, decoded into memory or checked, as requested.

        Args:
            cache_images: Hold the decoded images in memory; "auto" does below about 1.5 GiB.
            on_corrupt: "raise" fails when an unreadable image is read; "skip" decodes all images
                once, logs a warning that names the unreadable ones, and leaves them out.

        Raises:
            DataError: No image can be read, or (a CorruptImageError) one of those to cache cannot.
            ValueError: An option is not one of those above.
        """
        if cache_images not in (True, False, "auto"):
            raise ValueError(f"cache_images must be True, False or 'auto', not {cache_images!r}")
        if on_corrupt not in ("raise", "skip"):
            raise ValueError(f"on_corrupt must be 'raise' or 'skip', but found {on_corrupt!r}")
        skip, keep = on_corrupt == "skip", cache_images is True
        if cache_images == "auto":
            keep = decoded_bytes(self.reader) < CACHE_BELOW
        if not keep and not skip:
            return self
        reader, readable = decode_all(self.reader, keep=keep, skip=skip)
        bad = np.setdiff1d(np.arange(len(self)), readable)
        names = tuple(self.name(int(index)) for index in bad)
        if names:
            listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            counts = f"{len(names)} of {len(self)}"
            _log.warning("%s images cannot be read and are left out: %s", counts, listed)
        if not len(readable):
            raise DataError(f"none of the {len(self)} images can be read, the first is {names[0]}")
        return replace(self, reader=reader, labels=self.labels[readable], skipped=names)


def open_dataset(
    source: str | os.PathLike[str],
    split: Split,
    *,
    root: str | os.PathLike[str] = "data",
    download: bool = False,
    classes: int | Sequence[str] | None = None,
    per_class: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> LabelledImages:
    """Opens one split of a labelled set of images.

    | ``source`` | "train" and "val" | "test" |
    | --- | --- | --- |
    | ``DIR/train/<class>/``, ``DIR/test/<class>/`` | split of ``train`` | ``test`` |
    | the same with ``val`` instead of ``test`` (ImageNet) | split of ``train`` | ``val`` |
    | all three | ``train`` and ``val`` | ``test`` |
    | ``DIR/<class>/`` alone | split of four fifths | one fifth |
    | Tiny ImageNet as published | split of ``train`` | ``val``, whose labels are known |
    | "cifar10", "cifar100", "fashion-mnist", "stl10", "svhn" | split of training set | test set |

    So "test" never serves to choose a checkpoint. A held-out folder alone opens as "test" only.
    Classes are numbered in the order of their folders' names, as by torchvision's ``ImageFolder``;
    images may lie in sub-folders of a class.

    A split is stratified: of each class with n > 1 images, ``max(1, round(val_fraction n))`` are
    held out. Which ones depends on ``seed`` and each image's name alone: not on the machine, the
    classes taken, or other files.

    Args:
        source: A folder or the name of one of torchvision's datasets.
        split: "train", "val" or "test".
        root: Where torchvision's datasets lie, as its classes take it.
        download: Let torchvision fetch them.
        classes: Only so many classes, spread evenly over the sorted names, or those of these
            names, numbered in this order.
        per_class: At most so many images of each class, chosen as a split is; of "train" and "val"
            together where one is split from the other.
        val_fraction: Share of the training images that is held out as "val".
        seed: Seed of the choice of images.

    Raises:
        DataError: The folder, the split or its images are not there, or a class is not known.
        ValueError: An option is out of range.
    """
    _check_options(split, classes, per_class, val_fraction)
    parts = find_parts(source, Path(root).expanduser(), download)
    if "all" in parts:
        part = select_classes(parts["all"](), source, classes)
        test = held_out(part, TEST_FRACTION, derive_seed(seed, 1))
        part = select_rows(part, test if split == "test" else ~test)
        complete = split == "test"
    else:
        complete = split == "test" or "val" in parts
        folder = split if complete else "train"
        if folder not in parts:
            raise DataError(
                f"{source}: it has {' and '.join(map(repr, sorted(parts)))} images alone, and none "
                f"for {split!r}; expected {LAYOUTS}"
            )
        part = select_classes(parts[folder](), source, classes)
    part = limit_per_class(part, per_class, seed)
    if not complete:
        val = held_out(part, val_fraction, seed)
        part = select_rows(part, val if split == "val" else ~val)
    _check_images(part, source, split)
    return LabelledImages(part.reader, part.labels, part.class_names)


def _check_options(
    split: str, classes: int | Sequence[str] | None, per_class: int | None, val_fraction: float
) -> None:
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', but found {split!r}")
    if isinstance(classes, str) or (isinstance(classes, int) and classes < 1):
        raise ValueError(f"classes must be a positive number or a list, but found {classes!r}")
    if per_class is not None and per_class < 1:
        raise ValueError(f"per_class must be at least 1, but found {per_class}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be in [0, 1), but found {val_fraction}")


def _check_images(part: Part, source: str | os.PathLike[str], split: str) -> None:
    if not len(part.labels):
        raise DataError(
            f"{source}: there are no images for {split!r}; add images, or raise val_fraction"
        )
    counts = np.bincount(part.labels, minlength=len(part.class_names))
    empty = [part.class_names[number] for number in np.flatnonzero(counts == 0)]
    if split == "train" and empty:
        raise DataError(
            f"{source}: no training images of {', '.join(map(repr, empty[:3]))}"
            f"{', ...' if len(empty) > 3 else ''}; add some, or list the other classes"
        )
