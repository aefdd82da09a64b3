"""CIFAR-10-C, CIFAR-100-C and Tiny-ImageNet-C: readers for files that the user has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from captum_excon.training.data._layouts import Part, folder_classes, folder_part
from captum_excon.training.data._readers import ArrayReader, DataError
from captum_excon.training.data._subsets import select_classes
from captum_excon.training.data.datasets import LabelledImages

SEVERITIES = (1, 2, 3, 4, 5)


def corruptions(source: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns the names of the corruptions in a folder, sorted; DataError if there are none.

    The folder is CIFAR-10-C's or CIFAR-100-C's (``<corruption>.npy`` and ``labels.npy``), or
    Tiny-ImageNet-C's (``<corruption>/<severity>/<class>/image``).
    """
    path = _folder(source)
    if (path / "labels.npy").is_file():
        found = {file.stem for file in path.glob("*.npy")} - {"labels"}
    else:
        found = {name for name in folder_classes(path) if (path / name / "1").is_dir()}
    if not found:
        raise DataError(
            f"{path}: no corruptions in it; expected <corruption>.npy and labels.npy (CIFAR-C), or "
            "<corruption>/<severity>/<class>/ (Tiny-ImageNet-C)"
        )
    return tuple(sorted(found))


def open_corrupted(
    source: str | os.PathLike[str],
    corruption: str,
    severity: int,
    class_names: Sequence[str],
    *,
    all_class_names: Sequence[str] | None = None,
) -> LabelledImages:
    """Opens the images of one corruption and severity, labelled as the clean test set is.

    Reference: Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations*, ICLR 2019.

    Args:
        source: As for `corruptions`.
        corruption: One of those.
        severity: 1 to 5.
        class_names: The classes of the model, in the order of its outputs; images of others are
            left out.
        all_class_names: The classes that CIFAR-C's labels count, when ``class_names`` are only
            some of them. In Tiny-ImageNet-C the folders name the classes.

    Raises:
        DataError: Files are missing or do not belong together.
        ValueError: The severity is out of range.
    """
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1 to 5, but found {severity}")
    path = _folder(source)
    if corruption not in (known := corruptions(path)):
        raise DataError(f"{path}: no corruption {corruption!r} in it; it has {', '.join(known)}")
    if (path / "labels.npy").is_file():
        part = _cifar(path, corruption, severity, tuple(all_class_names or class_names))
    else:
        part = folder_part(_folder(path / corruption / str(severity)))
    part = select_classes(part, path, class_names)
    return LabelledImages(part.reader, part.labels, part.class_names)


def _cifar(path: Path, corruption: str, severity: int, names: tuple[str, ...]) -> Part:
    pixels = np.load(path / f"{corruption}.npy", mmap_mode="r")
    labels = np.load(path / "labels.npy").astype(np.int64)
    count, rest = divmod(len(pixels), len(SEVERITIES))
    if rest or pixels.ndim != 4 or len(labels) not in (count, len(pixels)):
        raise DataError(
            f"{path / corruption}.npy: expected (5 N, 32, 32, 3) images and N or 5 N labels, but "
            f"found {pixels.shape} and {len(labels)}"
        )
    if labels.max() >= len(names):
        raise DataError(
            f"{path / 'labels.npy'}: label {labels.max()} is none of the {len(names)} classes; "
            "give the names of all classes"
        )
    rows = np.arange(count * (severity - 1), count * severity)
    labels = labels[rows] if len(labels) == len(pixels) else labels
    reader = ArrayReader(pixels, f"{corruption}.npy", rows)
    return Part(reader, labels, names, tuple(map(str, rows)))


def _folder(source: str | os.PathLike[str]) -> Path:
    path = Path(source).expanduser()
    if not path.is_dir():
        raise DataError(f"{path}: no such folder")
    return path
