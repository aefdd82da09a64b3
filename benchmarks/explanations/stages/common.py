"""What the stages share: shards of the items, records in chunks, and errors."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from benchmarks.explanations.data.items import PlannedItem
from benchmarks.explanations.stages.plan import Plan
from benchmarks.explanations.stages.records import Record, RecordWriter, key, read_records
from captum_excon._messages import one_line
from captum_excon._provenance import PACKAGES, device_name, versions
from captum_excon.errors import UserError
from captum_excon.models import pick_device

CHUNK_SECONDS = 1.0
_PACKAGES = (*PACKAGES, "grad-cam", "quantus", "numpy")


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th item from the ``rank``-th on.

    Example:
        >>> list(Shard(1, 3).numbers(8))
        [1, 4, 7]
    """

    rank: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """Reads ``r/n``; by default the shard of RANK and WORLD_SIZE, which torchrun sets, or all.

        Raises:
            UserError: The text is not a shard, or torchrun has set one as well.
        """
        launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
        if text is None:
            return cls(*(int(os.environ[n]) for n in ("RANK", "WORLD_SIZE") if launched))
        if launched:
            raise UserError("--shard and torchrun both divide the items; use one of them")
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or int(found[1]) >= int(found[2]):
            raise UserError(
                f"--shard must be R/N with R from 0 to N - 1, such as 0/4, but found {text!r}"
            )
        return cls(int(found[1]), int(found[2]))

    def numbers(self, items: int) -> range:
        """Returns the numbers of its items."""
        return range(self.rank, items, self.of)


@dataclass
class Outcome:
    """The numbers of records that a stage added and found, and of errors among both.

    Errors are counted by explainer, metric and message.
    """

    stage: str
    done: int = 0
    skipped: int = 0
    errors: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts a record's error, if it has one."""
        if record["status"].startswith("error:"):
            what = f"{record['status'].removeprefix('error:')}: {record['message']}"
            self.errors[record["explainer"], record["metric"], what] += 1

    def lines(self) -> list[str]:
        """Returns a summary for the user, a line per kind of error."""
        lines = [f"{self.stage}: {self.done} records, {self.skipped} were there"]
        for (explainer, metric, what), count in sorted(self.errors.items()):
            lines.append(f"{explainer}, {metric}: {count} times: {what}")
        return lines


class Records:
    """The records of one stage and shard: which are there, and a file for new ones.

    New ones are written in chunks of about a second, and when the block is left, by Ctrl-C too.

    Args:
        plan: Of the run.
        stage: ``explain`` or ``score``.
        shard: Whose file it is.

    Raises:
        UserError: Another process writes this file, or a file was changed by something else.
    """

    def __init__(self, plan: Plan, stage: str, shard: Shard) -> None:
        self.outcome = Outcome(stage)
        folder = plan.folder / "records"
        self._path = folder / f"{stage}.{shard.rank}of{shard.of}.jsonl"
        self._lock = _locked(self._path)
        self._there = {key(r): r for r in read_stage(folder, stage)}
        self._writer = RecordWriter(self._path)
        self._chunk: list[Record] = []
        self._written = time.monotonic()

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._flush()
        finally:
            self._writer.__exit__(*raised)
            self._lock.close()

    def finished(
        self, fields: Record, still: Callable[[Record], bool] = lambda record: True
    ) -> bool:
        """Whether there is a record of the same key that ``still`` holds; it is counted then."""
        found = self._there.get(key(fields))
        if found is None or not still(found):
            return False
        self.outcome.skipped += 1
        self.outcome.add(found)
        return True

    def add(self, record: Record) -> None:
        """Takes a finished record."""
        self._chunk.append(record)
        self.outcome.done += 1
        self.outcome.add(record)
        if time.monotonic() - self._written > CHUNK_SECONDS:
            self._flush()

    def _flush(self) -> None:
        try:
            self._writer.append(self._chunk)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({one_line(error)})") from error
        self._chunk = []
        self._written = time.monotonic()


def read_stage(folder: Path, stage: str) -> list[Record]:
    """Returns the records of a stage, of all shards.

    Raises:
        UserError: A file was changed by something else.
    """
    try:
        return [r for r in read_records(folder) if r["stage"] == stage]
    except ValueError as error:
        raise UserError(one_line(error)) from error


def _locked(path: Path) -> TextIO:
    """Holds a lock until the returned file is closed or the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.stem}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(
            f"{path} is being written by another process; wait for it, end it, or give each "
            "process a --shard of its own"
        ) from error
    return file


def common_fields(plan: Plan, item: PlannedItem) -> Record:
    """Returns what the records of one item share."""
    planned = {name: getattr(item, name) for name in ("item", "source", "image", "label")}
    return {
        **planned,
        "dataset": plan.dataset,
        "split": plan.split,
        "class": item.target,
        "class_name": item.name,
        "model": plan.config.model.name,
        "weights": plan.weights,
        "seed": plan.config.seed,
        "versions": _versions(plan.config.device),
    }


@cache
def _versions(device: str) -> dict[str, str]:
    """The machine, since a run may continue elsewhere, and the versions of packages."""
    return {"machine": device_name(pick_device(device)), **versions(_PACKAGES)}


def failure(error: BaseException) -> dict[str, str]:
    """Returns the fields of a record that describe an error."""
    return {"status": f"error:{type(error).__name__}", "message": one_line(error)}


def forget_errors(folder: Path) -> int:
    """Removes the records of errors, so that they are tried again; returns how many there were.

    Raises:
        UserError: Another process writes records.
    """
    forgotten = 0
    for path in sorted((folder / "records").glob("*.jsonl")):
        with closing(_locked(path)):
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if b'"status": "error:' not in line]
            if len(kept) < len(lines):
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.write_bytes(b"".join(kept))
                os.replace(temporary, path)
            forgotten += len(lines) - len(kept)
    return forgotten
