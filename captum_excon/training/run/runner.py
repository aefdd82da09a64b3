"""One training run from its settings to its summary, resumable at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.seed import isolate_rng

from captum_excon._provenance import provenance
from captum_excon._settings import validated
from captum_excon.training.data.module import ExplanationDataModule
from captum_excon.training.methods import find_method
from captum_excon.training.methods._settings import DataSettings
from captum_excon.training.modules.base import ExplainedModule
from captum_excon.training.modules.factory import build_module, load_module
from captum_excon.training.run.checkpoints import (
    BEST,
    LAST,
    SELECTED_BY,
    AtomicCheckpointIO,
    RunFolder,
    read_checkpoint,
    run_state,
)
from captum_excon.training.run.config import TrainConfig
from captum_excon.training.run.defaults import completed
from captum_excon.training.run.folder import (
    CONFIG,
    SUMMARY,
    TENSORBOARD,
    check_folder,
    claim_folder,
    read_summary,
    write_summary,
)
from captum_excon.training.run.messages import as_user_errors, calm, settings_as_user_errors

__all__ = ["CONFIG", "SUMMARY", "TrainConfig", "load_run", "rank_zero_only", "train"]


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains, tests the best and the last checkpoint, and returns what ``summary.json`` holds.

    A run that was killed, even with ``kill -9``, and resumed has bit for bit the weights of an
    uninterrupted one on the same CPU. A finished run that is resumed returns its summary at once.

    Args:
        config: What to train.
        out: Folder of the run; made if needed.
        resume: Continue the run in ``out``, or start if there is none.
        overwrite: Delete the run in ``out`` first.
        progress: Show a progress bar.

    Returns:
        ``method``, ``seed``, ``epochs``, ``seconds``, ``explain_seconds``; for the checkpoint that
        is ``best`` on the validation split and for the ``last`` one the ``epoch``, the
        ``val_accuracy`` and the ``test_accuracy``; ``config``, ``command``, ``versions`` and
        ``hardware``.

    Raises:
        UserError: ``out`` holds something else or another run, the data or settings are wrong, or
            the disk is full.
    """
    # The other processes of a distributed run start when the folder is in use.
    rank_zero_only(check_folder)(out, config, resume=resume, overwrite=overwrite)
    summary = None if overwrite else read_summary(out)
    if summary is not None:
        return summary
    last = out / LAST if (out / LAST).exists() and not overwrite else None
    with calm(), isolate_rng(), as_user_errors():
        with settings_as_user_errors():
            complete = completed(config)
            datamodule, module = _build(complete)
            rounds = module.epochs_per_round
            trainer = _trainer(complete, out, rounds=rounds, progress=progress, last=last)
        rank_zero_only(claim_folder)(out, config, overwrite=overwrite)
        trainer.fit(module, datamodule=datamodule, ckpt_path=last)
        figures = {}
        for name, file in (("best", BEST), ("last", LAST)):
            row = run_state(out / file)["history"][-1]
            (tested,) = trainer.test(module, datamodule, ckpt_path=out / file, verbose=False)
            figures[name] = {
                "epoch": int(row["epoch"]) // rounds + 1,
                "val_accuracy": row[SELECTED_BY],
                "test_accuracy": tested["test/accuracy"],
            }
    history = run_state(out / LAST)["history"]
    found = provenance(trainer.strategy.root_device, "lightning")
    found["hardware"]["devices"] = trainer.num_devices
    summary = {
        "method": config.method,
        "seed": config.seed,
        "epochs": config.epochs,
        "seconds": sum(row["seconds"] for row in history),
        "explain_seconds": sum(row["train/explain_seconds"] for row in history),
        **figures,
        "config": config.model_dump(),
        **found,
    }
    rank_zero_only(write_summary)(out, summary)
    return summary


def load_run(
    checkpoint: Path, *, data: str | None = None
) -> tuple[ExplainedModule, ExplanationDataModule, TrainConfig]:
    """Rebuilds the module with its weights, and the data, of a checkpoint of `train`.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of a run's folder.
        data: Where the data lie now; None for where they were.

    Returns:
        The module in eval mode on the CPU, not compiled; the data module, which opens nothing
        before it is asked to; and the settings.

    Raises:
        UserError: The file is not such a checkpoint.
    """
    settings = {**run_state(checkpoint)["config"], "compile": False}
    config = validated(
        TrainConfig, settings if data is None else {**settings, "data": data}, checkpoint
    )
    module = load_module(checkpoint, compile=False)
    statistics = {"mean": module.hparams["mean"], "std": module.hparams["std"]}
    return module, _data(config, **statistics), config


def _data(config: TrainConfig, **statistics: Any) -> ExplanationDataModule:
    options = config.model_dump(include={*DataSettings.model_fields, "seed"} - {"data"})
    views = find_method(config.method).views
    return ExplanationDataModule(config.data, views=views, **options, **statistics)


def _build(config: TrainConfig) -> tuple[ExplanationDataModule, ExplainedModule]:
    datamodule = _data(config)
    rank_zero_only(datamodule.prepare_data)()
    # Both now: an error about the test images should not wait for the end of the training.
    datamodule.setup("fit")
    datamodule.setup("test")
    torch.manual_seed(config.seed)
    stem = {"cifar_stem": config.cifar_stem, "pretrained": config.pretrained}
    module = build_module(
        config.method,
        config.encoder,
        datamodule.num_classes,
        encoder_args={**config.encoder_args, **stem},
        mean=datamodule.mean,
        std=datamodule.std,
        **config.model_dump(include={*find_method(config.method).settings.model_fields}),
    )
    return datamodule, module


def _trainer(
    config: TrainConfig, out: Path, *, rounds: int, progress: bool, last: Path | None
) -> L.Trainer:
    # What a killed run had logged after its checkpoint is purged, since it comes again.
    step = None if last is None else read_checkpoint(last)["global_step"]
    board = TensorBoardLogger(
        out, name=TENSORBOARD, version="", default_hp_metric=False, purge_step=step
    )
    callbacks: list[L.Callback] = [RunFolder(out, config)]
    return L.Trainer(
        default_root_dir=out,
        accelerator=config.accelerator,
        devices=config.devices,
        strategy="ddp" if config.devices > 1 else "auto",
        precision=cast(Any, config.precision),
        deterministic=config.deterministic,
        max_epochs=config.epochs * rounds,
        check_val_every_n_epoch=rounds,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[*callbacks, TQDMProgressBar()] if progress else callbacks,
        logger=board,
        plugins=[AtomicCheckpointIO()],
        log_every_n_steps=10,
        enable_progress_bar=progress,
        enable_model_summary=False,
    )
