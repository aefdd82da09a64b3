"""The command ``captum-excon train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captum_excon._settings import parse_assignments
from captum_excon.cli._report import table
from captum_excon.cli._settings_options import with_options
from captum_excon.cli.console import Json, Quiet, Traceback, one_line_errors, training_module
from captum_excon.errors import UserError
from captum_excon.training.run.config import TrainConfig

FILES, OUTPUT = "Settings from a file", "Output"


@with_options(TrainConfig)
def train(
    given: dict[str, Any],
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=FILES,
            help="Settings as YAML, such as those in benchmarks/training/. Options override it.",
        ),
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            rich_help_panel=FILES,
            help="A setting by its name in a file, its value as YAML; may be repeated: "
            "--set threshold=0.4 --set drop_target=hinge.",
        ),
    ] = [],  # noqa: B006 (typer copies it)
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            show_default="runs/METHOD-SEED",
            rich_help_panel=OUTPUT,
            help="Folder of the run: config.yaml, last.ckpt, best.ckpt (highest accuracy on the "
            "validation split), metrics.csv, tensorboard/, summary.json.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=OUTPUT,
            help="Continue after the last complete epoch in --out with the same settings, which "
            "need not be repeated; start if there is none. The result is that of an uninterrupted "
            "run.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=OUTPUT, help="Delete the run in --out.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Trains a classifier on a folder of images, with explanations or as a control without.

    The best checkpoint is chosen on validation images, never on those that
    are tested. A run can be stopped at any moment, by Ctrl-C too, and resumed.
    """
    with one_line_errors(traceback) as say:
        if resume and overwrite:
            raise UserError("--resume continues a run and --overwrite deletes it: choose one")
        runner = training_module("run.runner")
        # Each process of a distributed run runs this command.
        say = runner.rank_zero_only(say)
        if resume and out is not None and config is None and (out / runner.CONFIG).exists():
            config = out / runner.CONFIG
        chosen = TrainConfig.load(config, given | parse_assignments(settings))
        out = out or Path("runs") / f"{chosen.method}-{chosen.seed}"
        watched = sys.stderr.isatty() and not quiet
        try:
            summary = runner.train(
                chosen, out, resume=resume, overwrite=overwrite, progress=watched
            )
        except KeyboardInterrupt:
            if not quiet:
                hint = f"captum-excon: stopped; continue with: train --resume --out {out}"
                runner.rank_zero_only(typer.echo)(hint, err=True)
            raise
        if as_json:
            say(json.dumps(summary, indent=2))
        elif not quiet:
            say(_text(summary, out / runner.SUMMARY))


def _text(summary: dict[str, Any], path: Path) -> str:
    head = (
        f"{summary['method']}, seed {summary['seed']}: {summary['epochs']} epochs in "
        f"{summary['seconds']:.0f} s, {summary['explain_seconds']:.0f} s of them explaining"
    )
    rows = [
        [
            f"{name} (epoch {figures['epoch']})",
            f"{figures['val_accuracy']:.1%}",
            f"{figures['test_accuracy']:.1%}" if figures["test_accuracy"] is not None else "-",
        ]
        for name, figures in (("best", summary["best"]), ("last", summary["last"]))
    ]
    return f"{head}\n\n{table(['checkpoint', 'validation', 'test'], rows)}\n\n{path}"
