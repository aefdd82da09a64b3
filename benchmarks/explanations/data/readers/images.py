"""Labelled images without annotation: folders of classes, a table, torchvision's data sets."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from benchmarks.explanations.data.readers.source import Source
from captum_excon._messages import one_line
from captum_excon.errors import UserError
from captum_excon.training.data._layouts import find_parts
from captum_excon.training.data._readers import FileReader

# What a table's column with the class may be called, the most telling first.
CLASS_COLUMNS = ("wnid", "class", "label", "name")


def open_images(path: str, split: str) -> Source:
    """Opens labelled images.

    Args:
        path: A table (CSV with a heading: ``file`` and one of `CLASS_COLUMNS`), a folder with such
            a table named ``labels.csv``, or what `find_parts` takes. A table's classes are sorted
            as text, or as numbers if all are whole numbers.
        split: Of data that have splits; others are taken whole.

    Raises:
        UserError: There are no such data.
    """
    place = Path(path).expanduser()
    table = place / "labels.csv" if place.is_dir() else place
    if table.suffix == ".csv" and table.is_file():
        return _open_table(table)
    parts = find_parts(path, Path("data"), False)
    if "all" not in parts and split not in parts:
        raise UserError(f"{path}: no split {split!r}; splits are {', '.join(sorted(parts))}")
    part = parts["all" if "all" in parts else split]()
    return Source(
        place.name,
        "all" if "all" in parts else split,
        part.class_names,
        part.keys,
        part.labels.tolist(),
        part.reader.read,
    )


def _open_table(table: Path) -> Source:
    try:
        frame = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, ValueError) as error:  # the parser's errors are ValueErrors
        raise UserError(f"{table}: cannot be read ({one_line(error)})") from error
    column = next((name for name in CLASS_COLUMNS if name in frame), None)
    if "file" not in frame or column is None or frame.empty:
        raise UserError(
            f"{table}: expected lines below a heading with 'file' and one of "
            f"{', '.join(CLASS_COLUMNS)}, found the columns {', '.join(frame) or 'none'}"
        )
    if (broken := (frame[["file", column]] == "").any(axis=1)).any():
        raise UserError(f"{table}, line {broken.argmax() + 2}: the file or its class is missing")
    files = frame["file"].tolist()
    classes = sorted(set(frame[column]))
    numbered = all(re.fullmatch(r"\s*-?\d+\s*", name) for name in classes)
    if numbered:
        classes.sort(key=int)  # as text, 10 stands before 2
    numbers = {name: number for number, name in enumerate(classes)}
    inside = table.parent / "images"
    folder = inside if (inside / files[0]).is_file() else table.parent
    return Source(
        table.parent.resolve().name,
        "all",
        tuple(classes),
        files,
        frame[column].map(numbers).tolist(),
        FileReader(folder, files).read,
        numbered=numbered,
    )
