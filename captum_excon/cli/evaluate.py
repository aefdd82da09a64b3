"""The command ``captum-excon evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ConfigDict

from captum_excon._settings import option
from captum_excon.cli._settings_options import checked, with_options
from captum_excon.cli.console import Json, Quiet, Traceback, one_line_errors, training_module
from captum_excon.training.methods._settings import EvaluationSettings, Positive


class _What(EvaluationSettings):
    """What `EvaluationSettings` measures."""

    model_config = ConfigDict(title="What to evaluate")

    data: str | None = option("--data", metavar="DIR or NAME")
    """Where the data are now. By default where training found them."""
    corrupted: str | None = option("--corrupted", metavar="DIR")
    """Also measure on the files of CIFAR-100-C or Tiny-ImageNet-C."""
    explainers: list[str] | None = option("--explainers", metavar="NAMES")
    """Explainers whose Drop and Increase are measured, separated by commas. By default the
    training's explainer and integrated-gradients, which training did not use. Random maps are
    always measured beside them."""


class _Machine(_What):
    """Where to measure."""

    model_config = ConfigDict(title="Where to compute")

    device: str = option("--device", default="auto", metavar="auto|cpu|cuda")
    """auto: a GPU if there is one."""
    batch_size: Positive | None = None
    """Images in a batch. By default as in training."""
    num_workers: int | None = option("--workers", ge=0)
    """Processes that read images. By default as in training."""


class EvaluateOptions(_Machine):
    """All of ``evaluate``."""

    model_config = ConfigDict(title="Output")

    out: str | None = option("--out", "-o", metavar="DIR")
    """Folder for evaluation.json, evaluation.csv, evaluation.md and the plots. By default
    evaluation/ beside the checkpoint."""


@with_options(EvaluateOptions)
def evaluate(
    given: dict[str, Any],
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="best.ckpt or last.ckpt of a run, or the folder of the run, for both.",
        ),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Measures what a trained classifier can do, on test images that training never saw.

    Top-1 and top-5 accuracy; Drop and Increase of explanations; accuracy under
    FGSM and PGD; calibration error, clean and under noise, blur, brightness,
    contrast and rotation at five severities. Figures, tables and plots go to
    --out.
    """
    with one_line_errors(traceback) as say:
        options = checked(EvaluateOptions, given)
        settings = EvaluationSettings(
            **options.model_dump(include={*EvaluationSettings.model_fields})
        )
        runner = training_module("evaluation.runs")
        report = runner.evaluate_run(
            checkpoint,
            Path(options.out) if options.out else None,
            settings=settings,
            corrupted=Path(options.corrupted) if options.corrupted else None,
            **options.model_dump(
                include={"data", "explainers", "device", "batch_size", "num_workers"}
            ),
            progress=sys.stderr.isatty() and not quiet,
        )
        if as_json:
            say(json.dumps(report, indent=2))
        elif not quiet:
            say(runner.as_markdown(report["checkpoints"]).rstrip())
