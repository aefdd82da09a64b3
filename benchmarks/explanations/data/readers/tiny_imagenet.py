"""Tiny ImageNet's validation images, each with the box of its object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.explanations.data.readers.source import Box, Source, boxed_source
from captum_excon.errors import UserError
from captum_excon.training.data._layouts import find_parts


def open_tiny_imagenet(path: Path, split: str | None) -> Source:
    """Opens ``path/val/val_annotations.txt`` and ``path/val/images``.

    Raises:
        UserError: The layout is another, or a line of the table has no box.
    """
    table = path / "val" / "val_annotations.txt"
    if not table.is_file() or split not in (None, "val"):
        raise UserError(f"{path}: expected {table}; boxes are there for the split 'val' alone")
    part = find_parts(path, path, False)["test"]()

    def images() -> Iterator[tuple[str, list[tuple[str, Box]]]]:
        lines = filter(None, table.read_text(encoding="utf-8").splitlines())
        for number, line in enumerate(lines, 1):
            file, kind, *numbers = line.split("\t")
            try:
                left, top, right, bottom = map(int, numbers)
            except ValueError:
                raise UserError(
                    f"{table}, line {number}: expected a file, a class and four whole numbers "
                    f"with tabs, found {line!r}"
                ) from None
            # The last column and row belong to the box: 63 occurs, of 64 pixels.
            yield file, [(kind, (left, top, right + 1, bottom + 1))]

    return boxed_source("tiny-imagenet", "val", path / "val" / "images", images(), part.class_names)
