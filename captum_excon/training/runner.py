"""One training run from its settings to its summary, resumable at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from captum_excon._images import UserError
from captum_excon.training.config import TrainConfig


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains, tests the best and the last checkpoint, and returns what ``summary.json`` holds."""
    raise UserError("training is being built")


def load_run(
    checkpoint: Path, *, data: str | None = None
) -> tuple[L.LightningModule, L.LightningDataModule, TrainConfig]:
    """Rebuilds the module with its weights, and the data, of a checkpoint of `train`."""
    raise UserError("training is being built")
