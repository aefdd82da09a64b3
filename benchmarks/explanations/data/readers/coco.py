"""COCO's boxes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.explanations.data.readers.source import Box, Source, boxed_source
from captum_excon._messages import one_line
from captum_excon.errors import UserError


def open_coco(path: Path, split: str | None) -> Source:
    """Opens ``path/annotations/instances_<split>.json`` and the images in ``path/<split>``.

    Crowds, whose box is that of many objects, are left out.

    Args:
        path: The folder.
        split: Such as "val2014"; "val2017" if None.

    Raises:
        UserError: The annotation is missing or not a COCO annotation.
    """
    split = split or "val2017"
    file = path / "annotations" / f"instances_{split}.json"
    try:
        annotation = json.loads(file.read_text(encoding="utf-8"))
        kinds = {kind["id"]: kind["name"] for kind in annotation["categories"]}
        names = {image["id"]: image["file_name"] for image in annotation["images"]}
        objects: dict[int, list[tuple[str, Box]]] = {number: [] for number in names}
        for thing in annotation["annotations"]:
            if not thing.get("iscrowd"):
                left, top, width, height = thing["bbox"]
                box = (left, top, left + width, top + height)
                objects[thing["image_id"]].append((kinds[thing["category_id"]], box))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a COCO annotation ({one_line(error)})") from error
    images = ((names[number], objects[number]) for number in sorted(names))
    class_names = [kinds[number] for number in sorted(kinds)]
    return boxed_source("coco", split, path / split, images, class_names)
