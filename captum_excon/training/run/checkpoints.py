"""Checkpoints and figures that a run writes while it trains, and that survive interruptions."""

from __future__ import annotations

import csv
import io
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from captum_excon._files import written_whole
from captum_excon._messages import one_line
from captum_excon.errors import UserError
from captum_excon.training.run.config import TrainConfig

LAST, BEST, METRICS = "last.ckpt", "best.ckpt", "metrics.csv"
SELECTED_BY = "val/accuracy"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, written beside their destination and then renamed.

    Lightning writes into the system's folder for temporary files and moves the result, which is a
    copy when that folder lies on another disk: a kill while copying leaves half a checkpoint.
    """

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads a checkpoint and runs no code in it, in any version of Lightning."""
        loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return loaded

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Writes the checkpoint, whole or not at all; raises UserError on a full disk."""
        path = Path(path)
        # Serialised first: torch reports a failed write as an error that does not name its cause.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(
                f"{path}: the checkpoint cannot be written ({one_line(error)}); the earlier ones "
                "are intact: free some space, then run the same command with --resume"
            ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU; runs no code in it.

    Raises:
        UserError: The file is missing or not a checkpoint of a run.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["callbacks"][RunFolder.__name__]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    except Exception as error:  # torch.load raises almost anything on a file of another kind
        raise UserError(
            f"{path}: not a checkpoint of captum-excon train ({one_line(error)})"
        ) from error
    return checkpoint


def run_state(path: Path) -> dict[str, Any]:
    """Returns what `RunFolder` wrote into a checkpoint: ``config`` and ``history``."""
    state: dict[str, Any] = read_checkpoint(path)["callbacks"][RunFolder.__name__]
    return state


class RunFolder(Checkpoint):
    """Keeps ``last.ckpt``, ``best.ckpt`` and ``metrics.csv`` in a folder, once an epoch.

    The best checkpoint is that with the highest accuracy on the validation split; the earlier one
    of equals. The figures of all epochs are part of every checkpoint, so that the file of a
    resumed run equals that of an uninterrupted one.

    Lightning's `ModelCheckpoint` is not used since it forgets which checkpoint was best when the
    folder has been moved, as one does when a disk is full, and its `CSVLogger` since that deletes
    the figures of the run that it resumes.

    Args:
        folder: An existing folder.
        config: Settings of the run, written into the checkpoints.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.folder, self.config = folder, config
        self.history: list[dict[str, float]] = []
        self._started = time.perf_counter()

    @property
    def state_key(self) -> str:
        """The name under which checkpoints hold the state."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values, which load without running code."""
        return {"config": self.config.model_dump(), "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the figures of the epochs before."""
        self.history = list(state_dict["history"])

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, and drops the figures of the epoch before, which Lightning keeps."""
        trainer.callback_metrics.clear()
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes the epoch's figures and writes the checkpoints, after the module's own hook."""
        epoch = trainer.current_epoch
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seconds = time.perf_counter() - self._started
        accuracy = figures.get(SELECTED_BY)
        improved = accuracy is not None and all(
            accuracy > row.get(SELECTED_BY, -1.0) for row in self.history
        )
        self.history.append(
            {"epoch": epoch, "step": trainer.global_step, "seconds": seconds, **figures}
        )
        # The best one first: after a kill in between, this epoch is repeated and written again.
        for name in (BEST, LAST) if improved else (LAST,):
            trainer.save_checkpoint(self.folder / name)
        if trainer.is_global_zero:
            self._write_metrics()

    def _write_metrics(self) -> None:
        names = dict.fromkeys(name for row in self.history for name in row)
        with (
            written_whole(self.folder / METRICS) as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows(self.history)
