"""Settings declared once, as pydantic models: read from YAML or NAME=VALUE and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from captum_excon._messages import close_names, one_line
from captum_excon.errors import UserError


class Settings(BaseModel):
    """A group of settings; each field declares its type, default, range and help text.

    Example:
        >>> from pydantic import Field
        >>> class Loop(Settings):
        ...     epochs: int = Field(10, ge=1, description="Passes over the training images.")
        >>> validated(Loop, {"epochs": 0}, "run.yaml")
        Traceback (most recent call last):
        ...
        captum_excon.errors.UserError: run.yaml: epochs should be greater than or equal to 1, but found 0
    """  # noqa: E501 (an error's text stands on one line)

    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:
        known = cls.model_fields
        for name in given if isinstance(given, Mapping) else ():
            if name not in known:
                hint = close_names(str(name), known) or f"; settings are {', '.join(known)}"
                raise PydanticCustomError("unknown", "{hint}", {"name": name, "hint": hint})
        return given


S = TypeVar("S", bound=BaseModel)


def option(*flags: str, default: Any = None, metavar: str | None = None, **constraints: Any) -> Any:
    """Declares a setting whose option is not named after it, or whose values need other words.

    Args:
        *flags: Names of the option; by default the setting's name.
        default: The default value, or ``...`` for a setting that must be given.
        metavar: What the help shows for a value.
        **constraints: Arguments of `pydantic.Field`.
    """
    return Field(default, json_schema_extra={"flags": [*flags], "metavar": metavar}, **constraints)


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, which YAML 1.1 takes for a string because it lacks a dot."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that maps names of settings to values.

    Raises:
        UserError: The file cannot be read, or does not hold a YAML mapping.
    """
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({one_line(error)})") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: expected lines of 'setting: value', but found {settings!r}")
    return settings


def parse_assignments(texts: Iterable[str]) -> dict[str, Any]:
    """Reads texts such as ``data.count=8``, the value as YAML.

    Raises:
        UserError: A text has no ``=``, or its value is not valid YAML.

    Example:
        >>> parse_assignments(["data.count=8", "layer=null", "lr=1e-3"])
        {'data.count': 8, 'layer': None, 'lr': 0.001}
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set expects NAME=VALUE, but found {text!r}")
        try:
            values[name.strip().replace("-", "_")] = read_value(value)
        except UserError as error:
            raise UserError(f"--set {text}: {error}") from error
    return values


def read_value(text: str) -> Any:
    """Reads one value as YAML.

    Raises:
        UserError: The text is not valid YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML ({one_line(error)})") from error


def assign(settings: dict[str, Any], name: str, value: Any) -> None:
    """Sets the value of a dotted name in nested settings, in place.

    Raises:
        UserError: A part of the name stands for a plain value.

    Example:
        >>> settings = {"data": {"count": 4}}
        >>> assign(settings, "data.count", 8)
        >>> settings
        {'data': {'count': 8}}
    """
    *sections, last = name.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
        if not isinstance(settings, dict):
            raise UserError(f"{name}: {section!r} is a value, not a section: {settings!r}")
    settings[last] = value


def validated(
    cls: type[S], settings: Mapping[str, Any], source: str | Path | Mapping[str, str] | None = None
) -> S:
    """Builds a settings object from plain values.

    Args:
        cls: The class of the settings.
        settings: Values by name, as YAML gives them.
        source: Where they come from, for the message; also for each setting its own.

    Raises:
        UserError: A setting is unknown, missing, of the wrong type or out of range. The
            message names the source, the setting, what was found and what is allowed.
    """
    try:
        return cls.model_validate(dict(settings))
    except ValidationError as error:
        if isinstance(source, Mapping):
            source = source.get(str([*error.errors()[0]["loc"], ""][0]))
        prefix = "" if source is None else f"{source}: "
        raise UserError(prefix + _explained(cls, error, settings)) from error


def _explained(cls: type[BaseModel], error: ValidationError, settings: Mapping[str, Any]) -> str:
    """Describes the first setting that is wrong, with all that it may be."""
    problems = error.errors(include_url=False)
    name = _dotted_name(problems[0], settings)
    here = [p for p in problems if _dotted_name(p, settings) == name]
    kind, found, context = here[0]["type"], here[0]["input"], here[0].get("ctx", {})
    if kind == "unknown":
        full = f"{name}.{context['name']}" if name else context["name"]
        return f"unknown setting {full!r}{context['hint']}"
    if kind.startswith("union_tag"):
        # The setting that tells the members of a union apart.
        name = f"{name}.{context['discriminator']}".replace("'", "")
        if kind == "union_tag_invalid":
            tags = context["expected_tags"]
            return f"{name} should be one of {tags}, but found {context['tag']!r}"
        kind = "missing"
    if kind == "missing":
        return f"the setting {name!r} is missing{_purpose(cls, name)}"
    if kind == "value_error":
        message = here[0]["msg"].removeprefix("Value error, ")
        return f"{name}: {message}" if name else message
    if kind in ("model_type", "model_attributes_type"):
        return f"{name}: expected lines of 'setting: value', but found {found!r}"
    if kind in ("too_short", "too_long"):
        return f"{name}: {here[0]['msg']}"
    if kind == "tuple_type":
        return f"{name} should be a list, but found {found!r}"
    # The members of a union each say what they take; no text is a function.
    here = [p for p in here if p["type"] != "callable_type"] or here
    texts = [p["msg"].removeprefix("Input should be ") for p in here]
    for problem in problems:
        inner = _dotted_name(problem, settings)
        if inner.startswith(f"{name}."):
            texts.append(f"for {inner} {problem['msg'].removeprefix('Input should be ')}")
    allowed = " or ".join(dict.fromkeys(texts))
    return f"{name} should be {allowed}, but found {found!r}"


def _purpose(cls: type[BaseModel], name: str) -> str:
    """What a setting is for, where a setting that is missing has a description."""
    found = cls.model_fields.get(name)
    return f": {one_line(found.description).split(';')[0]}" if found and found.description else ""


def _dotted_name(problem: ErrorDetails, settings: Any) -> str:
    """Returns the name of the setting that is wrong.

    A location also names the members of unions, which nobody wrote and no key of ``settings`` is.
    """
    names = []
    for part in problem["loc"]:
        listed = isinstance(settings, list) and isinstance(part, int) and part < len(settings)
        if listed or (isinstance(settings, Mapping) and part in settings):
            settings = settings[part]
            names.append(str(part))
    if problem["type"] == "missing":
        names.append(str(problem["loc"][-1]))
    return ".".join(names)
