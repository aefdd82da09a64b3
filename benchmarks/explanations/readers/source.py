"""What every reader gives: pictures with a class each, and where the objects are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from PIL import Image, ImageDraw

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
    """

    dataset: str
    split: str
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: Sequence[int]
    picture: Callable[[int], Image.Image]
    mask: Callable[[int], Image.Image] | None = None


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
