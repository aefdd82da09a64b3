"""Records: a JSON line for each finding, on the disk before it counts as done, so that an
interrupted run loses nothing that it had written.

A record is identified by its *key*: the fields named in `KEY`. A stage asks for the keys that are
there, and does the rest. Shards append to files of their own; reading merges them, whatever their
number was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

KEY = ("stage", "item", "explainer", "metric", "seed", "config")
Record = dict[str, Any]
Key = tuple[Any, ...]


def key(record: Mapping[str, Any]) -> Key:
    """Returns the fields that identify a record."""
    return tuple(record.get(field) for field in KEY)


class RecordWriter:
    """Appends records to one file; every `append` is on the disk when it returns.

    A line that an earlier process left unfinished is cut off first: its record was never
    reported as done.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _cut_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes records as one chunk; NaN and infinities become null, as JSON has none.

        Raises:
            OSError: The disk is full or cannot be written.
        """
        lines = [json.dumps(_plain(record), sort_keys=True, allow_nan=False) for record in records]
        if lines:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())


def read_records(folder: Path) -> list[Record]:
    """Reads the records of all shards in a folder, the first of each key, in the keys' order.

    A torn last line, as a killed process leaves it, is passed over. Any other line that is not
    JSON is an error: the file was changed by something else.

    Raises:
        ValueError: A line other than the last is not a JSON object.
    """
    found: dict[Key, Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in _lines(path):
            found.setdefault(key(record), record)
    return [found[k] for k in sorted(found, key=_order)]


def _order(key: Key) -> list[tuple[str, Any]]:
    # Numbers by size, names by letter, and the two (or None) never against each other.
    return [(type(part).__name__, 0 if part is None else part) for part in key]


def _lines(path: Path) -> Iterator[Record]:
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}, is not a record: the file was changed by something else "
                "than the benchmark; delete the line, and run the same command again"
            ) from error
        if "value" in record and record["value"] is None:
            record["value"] = math.nan
        yield record


def _cut_torn_line(path: Path) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
