"""Training methods, one file each: names, what they do, their settings, defaults and module.

A file of this folder that has a list ``METHODS`` is found by itself: its methods and settings
are known to the command line, YAML files, `build_module` and the comparison. It imports neither
torch nor Lightning, so that ``--help`` answers at once; the module's class is named as text.
"""

from __future__ import annotations

import importlib
import pkgutil

from captum_excon._messages import close_names
from captum_excon.training.methods._method import Method

__all__ = ["METHODS", "Method", "find_method"]


def _discovered() -> dict[str, Method]:
    files = sorted(f.name for f in pkgutil.iter_modules(__path__) if f.name[0] != "_")
    found = [importlib.import_module(f"{__name__}.{name}") for name in files]
    return {method.name: method for file in found for method in file.METHODS}


METHODS: dict[str, Method] = _discovered()


def find_method(name: str) -> Method:
    """Returns the method of this name.

    Raises:
        ValueError: There is no such method.
    """
    if name not in METHODS:
        raise ValueError(
            f"there is no method {name!r}{close_names(str(name), METHODS)}; "
            f"methods are {', '.join(METHODS)}"
        )
    return METHODS[name]
