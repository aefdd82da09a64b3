"""Runs of the command line in folders of their own: several at once, each skipped when finished."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captum_excon.errors import UserError
from captum_excon.training.run.config import MACHINE, TrainConfig

PROGRAM = [sys.executable, "-m", "captum_excon"]


@dataclass(frozen=True)
class Job:
    """One arm with one seed.

    Attributes:
        config: The settings of the training.
        folder: Of the run; its log lies beside it.
        arguments: What ``captum-excon train`` is given, the folder aside.
        checkpoints: Which are evaluated: ("best",) or ("best", "last").
        limit: ``captum-excon evaluate --limit``.
    """

    config: TrainConfig
    folder: Path
    arguments: list[str]
    checkpoints: tuple[str, ...] = ("best",)
    limit: int | None = None

    @property
    def log(self) -> Path:
        """Where the output of the commands goes."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def commands(self) -> list[list[str]]:
        """The commands that remain to be run.

        Raises:
            UserError: The folder holds a run with other settings.
        """
        # An unfinished run is refused by the command itself if its settings are others.
        train = ["train", *self.arguments, f"--out={self.folder}", "--resume", "--quiet"]
        evaluate = ["evaluate", f"--out={self.folder / 'evaluation'}", "--quiet"]
        evaluate += [] if self.limit is None else [f"--limit={self.limit}"]
        both = len(self.checkpoints) > 1
        evaluate.append(str(self.folder if both else self.folder / f"{self.checkpoints[0]}.ckpt"))
        if not self.trained():
            return [train, evaluate]
        return [] if self.evaluated() else [evaluate]

    def trained(self) -> dict[str, Any] | None:
        """The summary of the training, None if it is not finished.

        Raises:
            UserError: The folder holds a run with other settings.
        """
        summary = _read(self.folder / "summary.json")
        if summary is not None:
            now, before = self.config.model_dump(), summary["config"]
            ignored = (*MACHINE, "root")
            changed = [k for k in now if k not in ignored and now[k] != before.get(k)]
            if changed:
                raise UserError(
                    f"{self.folder} holds a run with other settings ({', '.join(changed)}): "
                    "remove it, or choose another --out"
                )
        return summary

    def evaluated(self) -> dict[str, Any] | None:
        """The evaluation of the checkpoints as they are now, None if there is none."""
        evaluation = _read(self.folder / "evaluation" / "evaluation.json")
        if evaluation is None or tuple(evaluation["checkpoints"]) != self.checkpoints:
            return None
        for name, found in evaluation["checkpoints"].items():
            data = (self.folder / f"{name}.ckpt").read_bytes()
            if found["sha256"] != hashlib.sha256(data).hexdigest():
                return None
            if found["settings"]["limit"] != self.limit:
                return None
        return evaluation


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds a folder's lock; who inherits the yielded file descriptor holds it as well.

    Raises:
        UserError: Another process holds it, perhaps a run of a comparison that was killed.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder} is in use by another comparison, or by a run that a killed one has "
                "left: wait for it or end it"
            ) from error
        yield file.fileno()


def run_all(jobs: Sequence[Job], parallel: int, lock: int) -> dict[str, str]:
    """Does what remains of each job, ``parallel`` of them at once.

    One that fails does not hold up the others. If this function is left by an exception, such as
    Ctrl-C, the commands that run are ended; nothing that they have finished is lost.

    Returns:
        What went wrong, by the name of the run.
    """
    workers = _Workers(parallel, lock)
    failures = {}
    pool = ThreadPoolExecutor(parallel)
    try:
        futures = {pool.submit(workers.run, job): job for job in jobs}
        # None hides the bar where standard error is not a terminal.
        for future in tqdm(as_completed(futures), total=len(jobs), unit="run", disable=None):
            job = futures[future]
            try:
                future.result()
            except UserError as error:
                failures[job.folder.name] = str(error)
                tqdm.write(f"{job.folder.name}: {error}", file=sys.stderr)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        workers.stop()
        raise
    finally:
        pool.shutdown()
    return failures


class _Workers:
    """The commands that run now."""

    def __init__(self, parallel: int, lock: int) -> None:
        self.lock = lock
        self.children: set[subprocess.Popen[bytes]] = set()
        self.stopping = False
        self.guard = threading.Lock()
        threads = max(1, len(os.sched_getaffinity(0)) // parallel)
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}

    def run(self, job: Job) -> None:
        for command in job.commands():
            with job.log.open("ab") as log:
                with self.guard:
                    if self.stopping:
                        return
                    child = subprocess.Popen(
                        [*PROGRAM, *command],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=self.environment,
                        pass_fds=[self.lock],
                    )
                    self.children.add(child)
                status = child.wait()
                with self.guard:
                    self.children.discard(child)
            if status:
                lines = job.log.read_text(errors="replace").strip().splitlines() or ["no output"]
                raise UserError(f"{command[0]} failed ({lines[-1]}); see {job.log}")

    def stop(self) -> None:
        with self.guard:
            self.stopping = True
            for child in self.children:
                child.terminate()
