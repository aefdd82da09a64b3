"""Settings in YAML files: read, and checked against the fields of a dataclass."""

from __future__ import annotations

import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from captum_excon._images import UserError, close_names, one_line


def read_settings(path: Path) -> dict[str, Any]:
    """Reads a YAML file that maps names of settings to values.

    Raises:
        UserError: The file cannot be read, is no YAML or is no mapping.
    """
    import yaml

    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML ({one_line(error)})") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected lines of 'setting: value', found {settings!r}")
    return settings


def refuse_unknown(names: Iterable[Any], known: Iterable[str]) -> None:
    """Refuses a name that is not among those of the settings.

    Raises:
        UserError: With the closest known names.
    """
    known = list(known)
    for name in names:
        if name not in known:
            hint = close_names(str(name), known) or f"; settings are {', '.join(known)}"
            raise UserError(f"unknown setting {name!r}{hint}")


def checked(name: str, value: Any, hint: Any) -> Any:
    """Returns the value in the field's type.

    Args:
        name: The setting, for the message.
        value: As YAML gives it.
        hint: The field's type: a plain one, a ``Literal``, a list, a dict, or a union.

    Raises:
        TypeError: The value is of another type.
    """
    for option in get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,):
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif get_origin(option) is list:
            try:
                if isinstance(value, (list, tuple)):
                    return [checked(name, v, *get_args(option)) for v in value]
            except TypeError:
                continue
        elif get_origin(option) is dict:
            if isinstance(value, dict):
                return dict(value)
        elif option is float:
            try:
                if not isinstance(value, bool):
                    # YAML reads 1e-4, which lacks a dot, as a string.
                    return float(value)
            except (TypeError, ValueError):
                continue
        elif isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    raise TypeError(f"{name} must be {_described(hint)}, but found {value!r}")


def _described(hint: Any) -> str:
    if get_origin(hint) in (types.UnionType, Union):
        return " or ".join(map(_described, get_args(hint)))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    names |= {list[str]: "a list of texts", list[float]: "a list of numbers"}
    names |= {list[int]: "a list of whole numbers"}
    names |= {dict[str, Any]: "a mapping", type(None): "null"}
    return names[hint]
