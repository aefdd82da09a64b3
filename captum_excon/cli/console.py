"""What the command line says: results on standard output, everything else on standard error."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Annotated

import typer
from tqdm import tqdm

from captum_excon._messages import one_line
from captum_excon.errors import UserError

Json = Annotated[
    bool,
    typer.Option("--json", rich_help_panel="Output", help="Print the facts as JSON on stdout."),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", rich_help_panel="Output", help="Only warnings and errors, no progress."
    ),
]
Traceback = Annotated[
    bool, typer.Option("--traceback", rich_help_panel="Output", help="Show errors in full.")
]


@contextmanager
def one_line_errors(traceback: bool) -> Iterator[Callable[[str], None]]:
    """Turns errors into one line and exit status 2, Ctrl-C into 130, warnings into one line.

    Yields what prints to standard output. Everything else that is printed meanwhile, by libraries
    or a user's model, goes to standard error.
    """
    say = functools.partial(tqdm.write, file=sys.stdout)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.showwarning = lambda message, *_, **__: complain("warning", str(message))
        try:
            yield say
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except UserError as error:
            if traceback:
                raise
            complain("error", str(error))
            raise typer.Exit(2) from None


def note(message: str) -> None:
    """Prints one line about what goes on to standard error."""
    tqdm.write(f"captum-excon: {one_line(message)}", file=sys.stderr)


def complain(kind: str, message: str) -> None:
    """Prints one line to standard error, past a progress bar."""
    tqdm.write(f"captum-excon: {kind}: {one_line(message)}", file=sys.stderr)


def training_module(name: str) -> ModuleType:
    """Imports a module of `captum_excon.training`.

    Raises:
        UserError: A package of the extra is missing.
    """
    try:
        return importlib.import_module(f"captum_excon.training.{name}")
    except ModuleNotFoundError as error:
        raise UserError(
            f"training and evaluation need the package {error.name!r}, which is not installed: "
            'pip install "captum-excon[train]"'
        ) from error
