"""What a figure depends on beside its settings: the command and the versions."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path


def command_line() -> str:
    """The command that runs, without the folder that its program lies in."""
    path = Path(sys.argv[0])
    program = ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]
    return shlex.join([*program, *sys.argv[1:]])


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of Python and of installed packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
