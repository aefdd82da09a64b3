"""The command ``captum-excon evaluate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from captum_excon.cli.console import Json, Quiet, Traceback, one_line_errors, training_module
from captum_excon.errors import UserError

WHAT, HOW, OUTPUT = "What to evaluate", "How to measure", "Output"


def evaluate(
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
            help="Where the data lie now. By default where training found them.",
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
            help="Whose Drop and Increase are measured, separated by commas. By default the "
            "training's explainer and one that training did not use, integrated-gradients. Random "
            "maps are always measured beside them.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=HOW,
            help="Measure explanations and attacks, which cost the most, on so many test images: "
            "always the same ones, drawn by --seed. The other figures are of all images.",
        ),
    ] = None,
    epsilons: Annotated[
        str,
        typer.Option(
            metavar="NUMBERS",
            rich_help_panel=HOW,
            help="Radii of FGSM and PGD in gray levels of 1/255.",
        ),
    ] = "1,2,4,8",
    pgd_steps: Annotated[
        int, typer.Option(min=1, rich_help_panel=HOW, help="Gradient steps of PGD.")
    ] = 10,
    seed: Annotated[
        int,
        typer.Option(
            min=0, rich_help_panel=HOW, help="Of --limit's choice, the noise and the attacks."
        ),
    ] = 0,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda", rich_help_panel=HOW, help="auto: a GPU if there is one."
        ),
    ] = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=HOW, help="Images a batch; by default as in training."),
    ] = None,
    num_workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            rich_help_panel=HOW,
            help="Processes that read images; by default as in training.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            rich_help_panel=OUTPUT,
            help="Folder for evaluation.json, evaluation.csv, evaluation.md and the plots. "
            "Default: evaluation/ beside the checkpoint.",
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
        runner = training_module("evaluation.runs")
        try:
            settings = runner.Settings(
                limit=limit, epsilons=_levels(epsilons), pgd_steps=pgd_steps, seed=seed
            )
        except ValueError as error:
            raise UserError(str(error)) from error
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


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(
            f"--epsilons must be whole gray levels separated by commas, but found {text!r}"
        ) from error
