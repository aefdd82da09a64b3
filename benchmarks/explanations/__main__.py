"""The entry point, kept apart so that it can say what is missing."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs the command line; exits with status 2 if its library is not installed."""
    # As in `captum_excon.__main__`: threads that spin slow each other down on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from benchmarks.explanations.cli import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        print(
            'the benchmark needs more packages: pip install "captum-excon[bench]"', file=sys.stderr
        )
        sys.exit(2)
    app(prog_name="python -m benchmarks.explanations")


if __name__ == "__main__":
    main()
