"""Progress of a stage: a bar on a terminal, lines in a log file, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from tqdm import tqdm

ProgressMode = Literal["bar", "plain", "quiet"]

_PLAIN_SECONDS = 10.0


@contextmanager
def progress(stage: str, total: int, unit: str, mode: ProgressMode) -> Iterator[tqdm[Any]]:
    """A bar with rate and time left; in plain mode a line every ten seconds."""
    lines = mode == "plain"
    with tqdm(
        desc=stage,
        total=total,
        unit=unit,
        disable=mode == "quiet",
        file=_Lines(sys.stderr) if lines else sys.stderr,
        mininterval=_PLAIN_SECONDS if lines else 0.1,
        ascii=lines,
        delay=_PLAIN_SECONDS if lines else 0,
        bar_format="{desc}: {n_fmt}/{total_fmt} {rate_fmt}, {remaining} left" if lines else None,
    ) as bar:
        yield bar


class _Lines:
    """Turns a bar that is drawn over itself into lines, for log files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip("\r\n ")
        if line and line != self._last:
            self._stream.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        self._stream.flush()
