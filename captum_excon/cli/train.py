"""The command ``captum-excon train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from captum_excon._messages import one_line
from captum_excon.cli._report import table
from captum_excon.cli.console import Json, Quiet, Traceback, one_line_errors, training_module
from captum_excon.errors import UserError

DATA, ARM, NETWORK, MACHINE, OUTPUT = (
    "The data",
    "The method",
    "The network and its optimisation",
    "Where to compute",
    "Output",
)


def train(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR or NAME",
            rich_help_panel=DATA,
            help="A folder with train/CLASS/*.jpg and, if there is one, val/ or test/; a folder of "
            "classes, which is then split; Tiny ImageNet's own layout; or a dataset of torchvision "
            "such as cifar100, read from --root.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAME",
            rich_help_panel=ARM,
            help="ce: cross-entropy. supcon: supervised contrastive. excon, exconb: the same with "
            "explanation-driven views, without and with negatives from rejected ones. edda: "
            "cross-entropy with salient regions kept and dropped. random-occlusion: edda's "
            "control, the same areas at random places.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=ARM,
            help="Settings as YAML, such as those in benchmarks/training/. Options given here "
            "come before it.",
        ),
    ] = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            rich_help_panel=ARM,
            help="Any other setting of a configuration file, its value as YAML; may be repeated: "
            "--set threshold=0.4 --set drop_target=hinge.",
        ),
    ] = [],  # noqa: B006 (typer copies it)
    root: Annotated[
        str | None,
        typer.Option(metavar="DIR", rich_help_panel=DATA, help="Where torchvision's datasets lie."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="N or NAMES",
            rich_help_panel=DATA,
            help="Only these classes, separated by commas, or so many, spread evenly over the "
            "sorted list.",
        ),
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=DATA, help="At most so many training images a class."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=DATA, help="Side of the square images."),
    ] = None,
    explainer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=ARM,
            help="What explains during training, such as layer-grad-cam or input-x-gradient.",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=ARM,
            help="The layer that it explains at, as model.named_modules() gives it. By default "
            "chosen.",
        ),
    ] = None,
    start_epoch: Annotated[
        int | None,
        typer.Option(min=0, rich_help_panel=ARM, help="Epochs before the first explanation."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=NETWORK,
            help="torchvision:resnet18, timm:NAME and so on.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=NETWORK,
            help="Passes over the training images, for the encoder.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, rich_help_panel=NETWORK, help="Images a step, on each device."),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(min=0, rich_help_panel=NETWORK, help="Highest learning rate.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=NETWORK, help="Decides everything random: two runs with it are equal."
        ),
    ] = None,
    num_workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            rich_help_panel=MACHINE,
            help="Processes that read images; no result depends on it.",
        ),
    ] = None,
    accelerator: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|cuda|mps",
            rich_help_panel=MACHINE,
            help="auto: a GPU if there is one.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=MACHINE,
            help="How many of them, or how many processes on a CPU.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="32-true|bf16-mixed|16-mixed",
            rich_help_panel=MACHINE,
            help="Number format of the network's passes.",
        ),
    ] = None,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", rich_help_panel=MACHINE, help="Compile the encoder first."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            rich_help_panel=OUTPUT,
            help="Folder of the run: config.yaml, last.ckpt, best.ckpt (highest accuracy on the "
            "validation split), metrics.csv, tensorboard/, summary.json. Default: "
            "runs/METHOD-SEED.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            rich_help_panel=OUTPUT,
            help="Go on after the last whole epoch in --out, with the same settings, which need "
            "not be repeated; start if there is none. The result is that of an uninterrupted run.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", rich_help_panel=OUTPUT, help="Delete the run that is in --out."
        ),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    traceback: Traceback = False,
) -> None:
    """Trains a classifier on a folder of images, with explanations or as a control without.

    The split that selects the best checkpoint is never the one that is
    tested on. A run can be stopped at any moment, by Ctrl-C too, and resumed.
    """
    given = {
        "data": data,
        "root": root,
        "method": method,
        "classes": None if classes is None else _classes(classes),
        "per_class": per_class,
        "image_size": image_size,
        "explainer": explainer,
        "layer": layer,
        "start_epoch": start_epoch,
        "encoder": encoder,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "num_workers": num_workers,
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision,
        "compile": compiled,
    }
    with one_line_errors(traceback) as say:
        if resume and overwrite:
            raise UserError("--resume goes on with a run and --overwrite deletes it: choose one")
        runner = training_module("run.runner")
        # Each process of a distributed run runs this command.
        say = runner.rank_zero_only(say)
        flags = {name: value for name, value in given.items() if value is not None}
        flags |= _assignments(settings)
        if resume and out is not None and config is None and (out / runner.CONFIG).exists():
            config = out / runner.CONFIG
        chosen = runner.TrainConfig.load(config, flags)
        out = out or Path("runs") / f"{chosen.method}-{chosen.seed}"
        watched = sys.stderr.isatty() and not quiet
        try:
            summary = runner.train(
                chosen, out, resume=resume, overwrite=overwrite, progress=watched
            )
        except KeyboardInterrupt:
            if not quiet:
                hint = f"captum-excon: stopped; go on by: train --resume --out {out}"
                runner.rank_zero_only(typer.echo)(hint, err=True)
            raise
        if as_json:
            say(json.dumps(summary, indent=2))
        elif not quiet:
            say(_text(summary, out / runner.SUMMARY))


def _classes(text: str) -> int | list[str]:
    return int(text) if text.isdecimal() else [name.strip() for name in text.split(",")]


def _assignments(texts: list[str]) -> dict[str, Any]:
    """Reads ["a=1", "b=[x, y]"] as a mapping of YAML values."""
    import yaml

    read = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            read[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text}: the value is no YAML ({one_line(error)})") from error
        if not equals:
            raise UserError(f"--set must be NAME=VALUE, but found {text!r}")
    return read


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
