"""Which images of a part are taken: by class, by number, and by a stratified split."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from captum_excon._messages import close_names
from captum_excon.training.data._layouts import Part
from captum_excon.training.data._readers import DataError, Indices
from captum_excon.training.data.sampling import derive_seed

Flags: TypeAlias = npt.NDArray[np.bool_]


def select_classes(
    part: Part, source: str | os.PathLike[str], classes: int | Sequence[str] | None
) -> Part:
    """Keeps a number of classes, spread evenly, or those of these names, renumbered."""
    if classes is None:
        return part
    numbers = _class_numbers(part.class_names, classes, os.fspath(source))
    new = np.full(len(part.class_names), -1, dtype=np.int64)
    new[numbers] = np.arange(len(numbers))
    labels = new[part.labels]
    names = tuple(part.class_names[number] for number in numbers)
    return select_rows(replace(part, labels=labels, class_names=names), labels >= 0)


def limit_per_class(part: Part, per_class: int | None, seed: int) -> Part:
    """Keeps at most so many images of each class, drawn with the seed."""
    if per_class is None:
        return part
    return select_rows(part, _ranks(part, derive_seed(seed, 2)) < per_class)


def _class_numbers(names: Sequence[str], classes: int | Sequence[str], source: str) -> list[int]:
    if isinstance(classes, int):
        if classes > len(names):
            raise DataError(f"{source}: {classes} classes were asked for, but it has {len(names)}")
        return [number * len(names) // classes for number in range(classes)]
    for name in classes:
        if name not in names:
            raise DataError(f"{source}: no class {name!r}{close_names(name, names)}")
    if len(set(classes)) != len(classes) or not classes:
        raise DataError(f"{source}: the list of classes is empty or names one of them twice")
    return [names.index(name) for name in classes]


def _ranks(part: Part, seed: int) -> Indices:
    """Returns each image's place within its class, in an order drawn from the images' names."""
    draws = np.array([derive_seed(seed, *os.fsencode(key)) for key in part.keys], dtype=np.int64)
    order = np.lexsort((draws, part.labels))
    starts = np.searchsorted(part.labels[order], np.arange(len(part.class_names)))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order)) - starts[part.labels[order]]
    return ranks


def held_out(part: Part, fraction: float, seed: int) -> Flags:
    """Marks a share of each class's images, at least one and not all of several."""
    counts = np.bincount(part.labels, minlength=len(part.class_names))
    sizes = np.floor(fraction * counts + 0.5)
    sizes = np.where((counts > 1) & (fraction > 0), np.clip(sizes, 1, counts - 1), 0)
    return _ranks(part, seed) < sizes[part.labels]


def select_rows(part: Part, mask: Flags) -> Part:
    """Keeps the marked images."""
    rows = np.flatnonzero(mask)
    keys = tuple(part.keys[row] for row in rows)
    return replace(part, reader=part.reader.take(rows), labels=part.labels[rows], keys=keys)
