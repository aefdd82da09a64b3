"""Boxes in XML files of Pascal VOC's form, which ImageNet uses too."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from torchvision.datasets import VOCDetection

from benchmarks.explanations.data.readers.source import Box, Source, boxed_source
from captum_excon._files import SUFFIXES
from captum_excon._messages import one_line
from captum_excon.errors import UserError


def open_voc(path: Path, split: str | None) -> Source:
    """Opens one year of Pascal VOC, such as ``VOCdevkit/VOC2007``.

    Args:
        path: The folder with ``Annotations``, ``ImageSets/Main`` and ``JPEGImages``.
        split: A list in ``ImageSets/Main``; "test" if None.

    Raises:
        UserError: The layout is another, or there is no such list.
    """
    split = split or "test"
    lists = path / "ImageSets" / "Main"
    if not (lists / f"{split}.txt").is_file():
        # A list for each class, such as cat_val.txt, lies there too.
        found = sorted(file.stem for file in lists.glob("*.txt") if "_" not in file.stem)
        raise UserError(
            f"{path}: no ImageSets/Main/{split}.txt; splits here are {', '.join(found) or 'none'}"
        )
    stems = (lists / f"{split}.txt").read_text(encoding="utf-8").split()
    # VOC counts pixels from one, and the last one belongs to the box.
    images = ((f"{s}.jpg", _objects(path / "Annotations" / f"{s}.xml", first=1)) for s in stems)
    return boxed_source(path.resolve().name, split, path / "JPEGImages", images)


def open_imagenet(path: Path, split: str | None) -> Source:
    """Opens ImageNet's images and boxes, which lie somewhere below a folder.

    An image and its XML file have the same name, wherever they are.

    Args:
        path: The folder; the Kaggle archive's ``ILSVRC``, or one that holds the images' and the
            boxes' folders side by side.
        split: Only files with a folder of this name above them; "val" if None.

    Raises:
        UserError: There are no boxes with an image.
    """
    split = split or "val"
    found = [file for file in path.rglob("*") if split in file.relative_to(path).parts[:-1]]
    files = {f.stem: str(f.relative_to(path)) for f in found if f.suffix.lower() in SUFFIXES}
    tables = sorted(file for file in found if file.suffix == ".xml" and file.stem in files)
    images = ((table.stem, _objects(table, first=0)) for table in tables)
    return boxed_source("imagenet", split, path, images, files=files)


def _objects(file: Path, first: int) -> Iterator[tuple[str, Box]]:
    try:
        root = ElementTree.parse(file).getroot()
        for thing in VOCDetection.parse_voc_xml(root)["annotation"].get("object", []):
            box = {side: float(value) for side, value in thing["bndbox"].items()}
            left, top = box["xmin"] - first, box["ymin"] - first
            yield thing["name"], (left, top, box["xmax"], box["ymax"])
    except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
        raise UserError(f"{file}: not a list of boxes ({one_line(error)})") from error
