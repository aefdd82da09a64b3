"""The command line: ``captum-excon explain | layers | train | evaluate``.

torch and what needs it are imported inside functions, so that ``--help`` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from captum_excon._version import __version__
from captum_excon.cli.evaluate import evaluate
from captum_excon.cli.explain import EPILOG, explain
from captum_excon.cli.layers import show_layers
from captum_excon.cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Shows what an image classifier looks at, by Integrated Grad-CAM, SISE and Ada-SISE, and "
    "trains classifiers with explanations.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"captum-excon {__version__}")
        raise typer.Exit


app.command(epilog=EPILOG)(explain)
app.command("layers")(show_layers)
app.command(
    epilog="""\b
Examples:
  captum-excon train --data flowers/ --method excon --epochs 50
  captum-excon train --data cifar100 --root data --config benchmarks/training/laptop-cifar100.yaml
  captum-excon train --out runs/excon-0 --resume
  captum-excon train --data flowers/ --method edda --set drop_target=hinge --set keep_ratio=0.2

\b
Exit status: 0 when the run is finished, 2 if it cannot be (one line on standard error says why),
130 after Ctrl-C."""
)(train)
app.command(
    epilog="""\b
Examples:
  captum-excon evaluate runs/excon-0/best.ckpt
  captum-excon evaluate runs/excon-0 --limit 1000 --corrupted CIFAR-100-C --out figures/excon"""
)(evaluate)
