"""Words of error messages, and warnings."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Iterable


def one_line(error: BaseException | str) -> str:
    """The message on one line; an error without a message gives its type."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def close_names(name: str, known: Iterable[str]) -> str:
    """A question about names like ``name``, empty if there are none."""
    by_key = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), by_key, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(by_key[k]) for k in close)}?" if close else ""


def warn(message: str) -> None:
    """Warns at the line outside of Captum and this package whose call led here."""
    level, frame = 1, inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").startswith(("captum.", "captum_excon.")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
