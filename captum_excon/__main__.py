"""The entry point of the command line, kept apart so that it can say what is missing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs ``captum-excon``; exits with status 2 if its library is not installed."""
    # OpenMP's threads spin while they wait for each other: on a machine that others use too, two
    # threads were five times slower than one. It must be told before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from captum_excon.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        print(
            'captum-excon: the command line needs typer: pip install "captum-excon[cli]"',
            file=sys.stderr,
        )
        sys.exit(2)
    app(prog_name="captum-excon")


if __name__ == "__main__":
    main()
