"""Declared settings as texts: for the command line's options, and for a table in a document."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from captum_excon._messages import one_line
from captum_excon._settings import Settings, read_value


def groups(cls: type[Settings]) -> dict[str, dict[str, FieldInfo]]:
    """Returns the fields of settings under the titles of the classes that declare them."""
    found: dict[str, dict[str, FieldInfo]] = {}
    for name, field in cls.model_fields.items():
        base = next(b for b in reversed(cls.__mro__) if name in inspect.get_annotations(b))
        title = base.__dict__["model_config"].get("title") or base.__name__
        found.setdefault(title, {})[name] = field
    return found


def flags(name: str, field: FieldInfo) -> list[str]:
    """Returns the names of a setting's option, such as ``["--batch-size"]``."""
    return list(_extra(field).get("flags") or [f"--{name.replace('_', '-')}"])


def is_flag(field: FieldInfo) -> bool:
    """Whether a setting is switched on and off, ``--NAME`` and ``--no-NAME``."""
    return isinstance(field.default, bool)


def allowed(field: FieldInfo) -> str:
    """Describes a setting's type and range, such as ``N>=1`` or ``raise|skip``."""
    return _extra(field).get("metavar") or "|".join(dict.fromkeys(_described(field)))


def default_text(field: FieldInfo) -> str:
    """Describes a setting's default; empty where its help does."""
    if field.is_required():
        return "none, it must be given"
    if is_flag(field):
        return "on" if field.default else "off"
    if isinstance(field.default, tuple):
        return ",".join(map(str, field.default))
    return "" if field.default in (None, {}) else str(field.default)


def from_text(field: FieldInfo, text: str) -> Any:
    """Reads a value from an option's text: as it is for a setting that may be a text, else as YAML.

    Example:
        >>> class Data(Settings):
        ...     folder: str = "."
        ...     classes: int | list[str] | None = None
        >>> fields = Data.model_fields
        >>> from_text(fields["folder"], "7"), from_text(fields["classes"], "7")
        ('7', 7)
        >>> from_text(fields["classes"], "cat,dog")
        ['cat', 'dog']
    """
    members = [member for member, _ in _members(field.annotation, [])]
    lists = [member for member in members if get_origin(member) in (list, Sequence)]
    if lists and (len(members) == 1 or not text.isdecimal()):
        parts = [part.strip() for part in text.split(",")]
        return parts if list[str] in lists else [read_value(part) for part in parts]
    if str in members or any(text in get_args(m) for m in members if get_origin(m) is Literal):
        return text
    return read_value(text)


def markdown_tables(cls: type[Settings]) -> str:
    """Writes a table of all settings for each of their groups."""
    parts = []
    for title, fields in groups(cls).items():
        rows = [
            f"| `{name}` | {_cell(allowed(field))} | {_cell(default_text(field))} "
            f"| {_cell(one_line(field.description or ''))} |"
            for name, field in fields.items()
        ]
        head = "| setting | values | default | |\n| --- | --- | --- | --- |"
        parts.append("\n".join([f"### {title}\n", head, *rows]))
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def _members(annotation: Any, metadata: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The members of a union that can be written as text, with the constraints on each."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        constraints = [part for o in own for part in getattr(o, "metadata", [o])]
        yield from _members(inner, [*metadata, *constraints])
    elif get_origin(annotation) in (types.UnionType, Union):
        for member in get_args(annotation):
            yield from _members(member, metadata)
    elif annotation is not type(None) and get_origin(annotation) is not Callable:
        yield annotation, metadata


_NAMES: dict[Any, str] = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


def _described(field: FieldInfo) -> Iterator[str]:
    for member, constraints in _members(field.annotation, list(field.metadata)):
        if get_origin(member) is Literal:
            yield from map(str, get_args(member))
        elif get_origin(member) is list:
            yield "NAMES"
        elif get_origin(member) is dict:
            yield "YAML"
        else:
            yield _ranged(_NAMES[member], constraints)


def _ranged(name: str, constraints: list[Any]) -> str:
    least = next((f"{c.ge:g}<=" for c in constraints if isinstance(c, Ge)), "")
    least = next((f"{c.gt:g}<" for c in constraints if isinstance(c, Gt)), least)
    most = next((f"<={c.le:g}" for c in constraints if isinstance(c, Le)), "")
    most = next((f"<{c.lt:g}" for c in constraints if isinstance(c, Lt)), most)
    return f"{least}{name}{most}"
