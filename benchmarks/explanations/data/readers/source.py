"""What every reader gives: pictures with a class each, and where the objects are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
        names: What tells a row from the others on any machine, such as a file below the folder.
        labels: Index into ``class_names``, one a row.
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


def boxed_rows(
    images: Iterable[tuple[str, Iterable[tuple[str, Box]]]],
) -> tuple[list[str], list[str], list[list[Box]]]:
    """Makes a row for each image and class in it.

    Args:
        images: A name for each image, and its objects' classes and boxes.

    Returns:
        For each row the image, the class, and the boxes of its objects of that class.
    """
    names, classes, boxes = [], [], []
    for name, objects in images:
        by_class: dict[str, list[Box]] = {}
        for kind, box in objects:
            by_class.setdefault(kind, []).append(box)
        for kind in sorted(by_class):
            names.append(name)
            classes.append(kind)
            boxes.append(by_class[kind])
    return names, classes, boxes
