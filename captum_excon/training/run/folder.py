"""The folder of a run: whether it can be used, and what a new run removes from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from captum_excon._files import check_writable, written_whole
from captum_excon.errors import UserError
from captum_excon.training.run.checkpoints import BEST, LAST, METRICS
from captum_excon.training.run.config import MACHINE, TrainConfig

CONFIG, SUMMARY, TENSORBOARD = "config.yaml", "summary.json", "tensorboard"


def check_folder(out: Path, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """Creates the folder if needed, and checks that a run, or its resumption, can use it.

    Raises:
        UserError: The folder cannot be written to, holds something and neither ``resume`` nor
            ``overwrite`` was asked for, or holds a run with other settings.
    """
    check_writable(out)
    if resume and (out / CONFIG).exists():
        _refuse_other_settings(out, config)
    elif any(out.iterdir()) and not (resume or overwrite):
        raise UserError(
            f"{out} is not empty: continue the run in it with --resume, replace it with "
            "--overwrite, or choose another folder with --out"
        )


def claim_folder(out: Path, config: TrainConfig, *, overwrite: bool) -> None:
    """Removes an earlier run if asked to, and writes the settings into the folder."""
    if overwrite:
        for name in (CONFIG, SUMMARY, LAST, BEST, METRICS):
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / TENSORBOARD, ignore_errors=True)
    config.save(out / CONFIG)


def _refuse_other_settings(out: Path, config: TrainConfig) -> None:
    before, now = TrainConfig.load(out / CONFIG, {}).model_dump(), config.model_dump()
    changed = [name for name in now if name not in MACHINE and now[name] != before[name]]
    if changed:
        listed = ", ".join(f"{name} was {before[name]!r}, now {now[name]!r}" for name in changed)
        raise UserError(
            f"--resume: {out} holds a run with other settings ({listed}): leave them out, or start "
            "a new run with --overwrite or another --out"
        )


def read_summary(out: Path) -> dict[str, Any] | None:
    """Returns the summary of a finished run, None if it has not finished."""
    try:
        text = (out / SUMMARY).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    summary: dict[str, Any] = json.loads(text)
    return summary


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Writes the summary, whole or not at all."""
    with written_whole(out / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
