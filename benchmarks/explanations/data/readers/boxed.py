"""A source of files and boxes, however the boxes were written down."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from PIL import Image

from benchmarks.explanations.data.readers.source import (
    Box,
    Source,
    boxed_rows,
    mask_of_boxes,
    stored_picture,
)
from captum_excon.errors import UserError


def boxed_source(
    dataset: str,
    split: str,
    root: Path,
    images: Iterable[tuple[str, Iterable[tuple[str, Box]]]],
    class_names: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Source:
    """Makes a source of images in files and boxes with class names.

    Args:
        dataset: Its name.
        split: The part of it.
        root: The folder of the images.
        images: For each image its file below ``root`` and its objects' classes and boxes.
        class_names: In the data set's own order; those that occur, sorted, if None.
        files: Where a file of ``images`` lies below ``root``, if not at its name.

    Raises:
        UserError: There are no boxes.
    """
    names, classes, boxes = boxed_rows(images)
    if not names:
        raise UserError(f"{root}: there are no boxes for the split {split!r}")
    class_names = tuple(class_names or sorted(set(classes)))
    numbers = {name: number for number, name in enumerate(class_names)}
    # An image of several classes has several rows, and each needs a name of its own.
    several = {name for name, following in pairwise(names) if name == following}

    def picture(row: int) -> Image.Image:
        return stored_picture(root / (files[names[row]] if files else names[row]))

    def mask(row: int) -> Image.Image:
        return mask_of_boxes(picture(row).size, boxes[row])

    return Source(
        dataset,
        split,
        class_names,
        [f"{n}#{k}" if n in several else n for n, k in zip(names, classes, strict=True)],
        [numbers[kind] for kind in classes],
        picture,
        mask,
        images=names,
    )
