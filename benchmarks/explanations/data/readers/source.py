"""What every reader returns: pictures with a class each, and where the objects are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageDraw

from captum_excon._files import read_image
from captum_excon.errors import UserError

Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True)
class Source:
    """Rows of a data set; an image of several classes has a row for each.

    Attributes:
        dataset: Its name, for the records.
        split: The part of it.
        class_names: In the data set's own order.
        names: Unique for each row and the same on any machine, such as a file below the folder.
        labels: Index into ``class_names``, one per row.
        picture: From a row to its RGB picture.
        mask: From a row to a picture "L" of the same size, white where objects of its class are;
            None without annotation.
        images: The name of each row's picture, where several rows may be of one; None where
            ``names`` are those.
        numbered: The class names are whole numbers that the data's author gave.
    """

    dataset: str
    split: str
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: Sequence[int]
    picture: Callable[[int], Image.Image]
    mask: Callable[[int], Image.Image] | None = None
    images: Sequence[str] | None = None
    numbered: bool = False

    def image(self, row: int) -> str:
        """The name of a row's picture, without the class."""
        return (self.images or self.names)[row]


def stored_picture(path: Path) -> Image.Image:
    """Reads an annotated picture without turning it: annotations count the pixels as stored.

    Raises:
        UserError: The file cannot be read as an image.
    """
    try:
        return read_image(path, upright=False)
    except UserError as error:
        raise UserError(f"{path}: {error}; mend this file, or take other images") from error


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
    rows: list[tuple[str, str, list[Box]]] = []  # one for each image and class in it
    names = []
    for image, objects in images:
        by_class: dict[str, list[Box]] = {}
        for kind, box in objects:
            by_class.setdefault(kind, []).append(box)
        rows += [(image, kind, by_class[kind]) for kind in sorted(by_class)]
        several = len(by_class) > 1
        names += [f"{image}#{kind}" if several else image for kind in sorted(by_class)]
    if not rows:
        raise UserError(f"{root}: there are no boxes for the split {split!r}")
    class_names = tuple(class_names or sorted({kind for _, kind, _ in rows}))
    numbers = {name: number for number, name in enumerate(class_names)}

    def picture(row: int) -> Image.Image:
        image = rows[row][0]
        return stored_picture(root / (files[image] if files else image))

    def mask(row: int) -> Image.Image:
        return mask_of_boxes(picture(row).size, rows[row][2])

    labels = [numbers[kind] for _, kind, _ in rows]
    shown = [image for image, *_ in rows]
    return Source(dataset, split, class_names, names, labels, picture, mask, images=shown)


def mask_of_boxes(size: tuple[int, int], boxes: Iterable[Box]) -> Image.Image:
    """Draws boxes white on black.

    Args:
        size: Width and height in pixels.
        boxes: (left, top, right, bottom) with the right and bottom edges outside of the object.

    Example:
        >>> mask = mask_of_boxes((4, 2), [(1, 0, 3, 1)])
        >>> mask.getextrema(), sum(mask.tobytes()) // 255
        ((0, 255), 2)
    """
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for box in boxes:
        left, top, right, bottom = map(round, box)
        if right > left and bottom > top:
            draw.rectangle((left, top, right - 1, bottom - 1), fill=255)
    return mask
