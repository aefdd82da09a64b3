"""Finds the parts of a folder of images, or of one of torchvision's datasets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torchvision.datasets
from torchvision.datasets.folder import make_dataset

from captum_excon._files import SUFFIXES
from captum_excon._messages import close_names, one_line
from captum_excon.training.data._readers import (
    ArrayReader,
    DataError,
    FileReader,
    Indices,
    Pixels,
    Reader,
)

# Torchvision's classes whose images lie in an array, and the argument for the split.
NAMED: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "cifar10": ("CIFAR10", {"train": {"train": True}, "test": {"train": False}}),
    "cifar100": ("CIFAR100", {"train": {"train": True}, "test": {"train": False}}),
    "fashion-mnist": ("FashionMNIST", {"train": {"train": True}, "test": {"train": False}}),
    "stl10": ("STL10", {"train": {"split": "train"}, "test": {"split": "test"}}),
    "svhn": ("SVHN", {"train": {"split": "train"}, "test": {"split": "test"}}),
}

LAYOUTS = (
    "DIR/train/<class>/ with DIR/test/<class>/ or DIR/val/<class>/, DIR/<class>/ alone, or Tiny "
    "ImageNet's own layout"
)


@dataclass(frozen=True)
class Part:
    """The images of one folder: pixels, labels, names of classes, and a key for each image."""

    reader: Reader
    labels: Indices
    class_names: tuple[str, ...]
    keys: tuple[str, ...]


Parts: TypeAlias = dict[str, Callable[[], Part]]


def find_parts(source: str | os.PathLike[str], root: Path, download: bool) -> Parts:
    """Finds the parts of a dataset, each of which is read on demand.

    They are "all" for a folder of classes alone, otherwise some of "train", "val" and "test".
    """
    name = os.fspath(source)
    if name in NAMED:
        return {
            split: partial(_named_part, name, split, root, download) for split in NAMED[name][1]
        }
    path = Path(name).expanduser()
    if not path.is_dir():
        known = f"; a folder, or one of {', '.join(NAMED)}" if os.sep not in name else ""
        raise DataError(f"{name}: no such folder{known}{close_names(name, NAMED)}")
    if (path / "val" / "val_annotations.txt").is_file():
        return _tiny_imagenet_parts(path)
    found = {split: path / split for split in ("train", "val", "test") if (path / split).is_dir()}
    # Beside other folders, a "train" without class folders is a class of that name.
    classes = set(folder_classes(path)) - set(found)
    if not found or (classes and not any(map(folder_classes, found.values()))):
        return {"all": partial(folder_part, path)}
    if "test" not in found and "val" in found:
        found["test"] = found.pop("val")
    # Labels are numbered by the training classes wherever these are known.
    names = folder_classes(found["train"]) if "train" in found else None
    return {split: partial(folder_part, folder, names) for split, folder in found.items()}


def folder_classes(folder: Path) -> tuple[str, ...]:
    """Returns the names of the sub-folders, sorted as by torchvision's ``ImageFolder``."""
    return tuple(sorted(e.name for e in os.scandir(folder) if e.is_dir() and e.name[0] != "."))


def folder_part(folder: Path, class_names: tuple[str, ...] | None = None) -> Part:
    """Reads ``folder/<class>/**/image``; DataError without images or with an unknown class."""
    found = folder_classes(folder)
    if not found:
        raise DataError(f"{folder}: no class folders in it; expected {LAYOUTS}")
    names = class_names or found
    if unknown := sorted(set(found) - set(names)):
        raise DataError(
            f"{folder}: {len(unknown)} of its classes are not among the training classes "
            f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''})"
        )
    numbers = {name: names.index(name) for name in found}
    samples = make_dataset(folder, numbers, extensions=SUFFIXES, allow_empty=True)
    inside = ((file.removeprefix(f"{folder}{os.sep}"), number) for file, number in samples)
    return _file_part(folder, inside, names)


def _file_part(folder: Path, samples: Iterable[tuple[str, int]], names: tuple[str, ...]) -> Part:
    # "._cat.jpg" and the like are metadata of an operating system.
    kept = [(file, n) for file, n in samples if not os.path.basename(file).startswith(".")]
    if not kept:
        raise DataError(f"{folder}: no images in it; looked for {', '.join(SUFFIXES)}")
    files = tuple(file for file, _ in kept)
    labels = np.array([n for _, n in kept], dtype=np.int64)
    keys = tuple(file.replace(os.sep, "/") for file in files)
    return Part(FileReader(folder, files), labels, names, keys)


def _tiny_imagenet_parts(path: Path) -> Parts:
    # Not from wnids.txt, which does not fit a copy of only some of the classes.
    table, train = path / "val" / "val_annotations.txt", path / "train"
    trained = folder_classes(train) if train.is_dir() else None

    def validation() -> Part:
        rows = [line.split("\t") for line in table.read_text().splitlines() if line]
        if any(len(row) < 2 for row in rows):
            raise DataError(f"{table}: expected a file, a class and a box in each line, with tabs")
        names = trained or tuple(sorted({row[1] for row in rows}))
        if unknown := {row[1] for row in rows} - set(names):
            raise DataError(f"{table}: no training images of class {min(unknown)!r}")
        samples = [(row[0], names.index(row[1])) for row in rows]
        return _file_part(path / "val" / "images", samples, names)

    parts: Parts = {"test": validation}
    return parts if trained is None else parts | {"train": partial(folder_part, train, trained)}


def _named_part(name: str, split: str, root: Path, download: bool) -> Part:
    class_name, splits = NAMED[name]
    try:
        data = getattr(torchvision.datasets, class_name)(root, download=download, **splits[split])
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{name}: not found in {root} ({one_line(error)}); name the folder that holds it with "
            f"root, let it be fetched with download, or write ./{name} if a folder of images is "
            "meant"
        ) from error
    targets = data.targets if hasattr(data, "targets") else data.labels
    labels = np.asarray(targets, dtype=np.int64)
    names = tuple(getattr(data, "classes", None) or map(str, range(labels.max() + 1)))
    keys = tuple(f"{split}/{number}" for number in range(len(labels)))
    return Part(ArrayReader(_as_rgb(data.data), f"{name}/{split}"), labels, names, keys)


def _as_rgb(data: Any) -> Pixels:
    """Converts (N, H, W), (N, 3, H, W) or (N, H, W, 3) to the last."""
    pixels = np.asarray(data)
    if pixels.ndim == 3:
        return np.repeat(pixels[..., None], 3, axis=3)
    return pixels if pixels.shape[3] == 3 else np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
