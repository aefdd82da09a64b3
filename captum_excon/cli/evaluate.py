"""The command ``captum-excon evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captum_excon._settings import validated
from captum_excon.cli._settings_options import with_options
from captum_excon.cli.console import Json, Quiet, Traceback, one_line_errors, training_module
from captum_excon.training.settings import EvaluationSettings

WHAT, MACHINE, OUTPUT = "What to evaluate", "Where to compute", "Output"


@with_options(EvaluationSettings)
def evaluate(
    given: dict[str, Any],
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT",
            help="best.ckpt or last.ckpt of a run, or the folder of the run, for both.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR or NAME",
            rich_help_panel=WHAT,
            help="Where the data are now. By default where training found them.",
        ),
    ] = None,
    corrupted: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=WHAT,
            help="Also measure on the files of CIFAR-100-C or Tiny-ImageNet-C.",
        ),
    ] = None,
    explainers: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            rich_help_panel=WHAT,
            help="Explainers whose Drop and Increase are measured, separated by commas. By default "
            "the training's explainer and integrated-gradients, which training did not use. Random "
            "maps are always measured beside them.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda", rich_help_panel=MACHINE, help="auto: a GPU if there is one."
        ),
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=MACHINE, help="Images in a batch. By default as in training."
        ),
    ] = None,
    num_workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            rich_help_panel=MACHINE,
            help="Processes that read images. By default as in training.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            rich_help_panel=OUTPUT,
            help="Folder for evaluation.json, evaluation.csv, evaluation.md and the plots. By "
            "default evaluation/ beside the checkpoint.",
        ),
    ] = None,
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
        settings = validated(EvaluationSettings, given)
        runner = training_module("evaluation.runs")
        report = runner.evaluate_run(
            checkpoint,
            out,
            data=data,
            explainers=None if explainers is None else _names(explainers),
            settings=settings,
            corrupted=corrupted,
            device=device,
            batch_size=batch_size,
            num_workers=num_workers,
            progress=sys.stderr.isatty() and not quiet,
        )
        if as_json:
            say(json.dumps(report, indent=2))
        elif not quiet:
            say(runner.as_markdown(report["checkpoints"]).rstrip())


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
