"""The entry point of the command line, kept apart so that it can say what is missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs ``captum-excon``; exits with status 2 if its library is not installed."""
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
