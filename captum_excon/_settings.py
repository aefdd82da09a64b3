"""Settings declared once, as pydantic models: read from YAML or NAME=VALUE and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


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
    name, known = _located(cls, problems[0]["loc"], settings)
    here = [p for p in problems if _located(cls, p["loc"], settings)[0] == name]
    kind, found = here[0]["type"], here[0]["input"]
    if kind == "extra_forbidden":
        last = name.rpartition(".")[2]
        return f"unknown setting {name!r}" + (
            close_names(last, known) or f"; settings are {', '.join(known)}"
        )
    if kind.startswith("union_tag"):
        # The setting that tells the members of a union apart.
        context = here[0]["ctx"]
        discriminator = context["discriminator"].strip("'")
        name = f"{name}.{discriminator}"
        if kind == "union_tag_invalid":
            allowed = context["expected_tags"]
            return f"{name} should be one of {allowed}, but found {context['tag']!r}"
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
        inner = _located(cls, problem["loc"], settings)[0]
        if inner.startswith(f"{name}."):
            texts.append(f"for {inner} {problem['msg'].removeprefix('Input should be ')}")
    allowed = " or ".join(dict.fromkeys(texts))
    return f"{name} should be {allowed}, but found {found!r}"


def _purpose(cls: type[BaseModel], name: str) -> str:
    """What a setting is for, where a setting that is missing has a description."""
    found = cls.model_fields.get(name)
    return f": {one_line(found.description).split(';')[0]}" if found and found.description else ""


def _located(
    cls: type[BaseModel], loc: tuple[int | str, ...], settings: Any
) -> tuple[str, list[str]]:
    """Returns the dotted name that ``loc`` stands for, and the names known beside it.

    A location also names the members of unions, which nobody wrote: whatever is neither a key of
    the settings nor the name of a field is left out.
    """
    names: list[str] = []
    models = [cls]
    known: list[str] = []
    for part in loc:
        fields = {name: field for model in models for name, field in model.model_fields.items()}
        inside = isinstance(settings, Mapping) and part in settings
        listed = isinstance(settings, list) and isinstance(part, int) and part < len(settings)
        if not (inside or listed or part in fields):
            models = [m for m in models if _is_member(m, part)] or models
            continue
        settings = settings[part] if inside or listed else None
        names.append(str(part))
        if not listed:
            known = list(fields)
            models = list(_models(getattr(fields.get(str(part)), "annotation", None)))
    return ".".join(names), known if names else list(cls.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings classes in an annotation: alone, in a union, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _is_member(model: type[BaseModel], part: int | str) -> bool:
    """Whether pydantic calls a member of a union so: by its tag or its class."""
    tags = [tag for f in model.model_fields.values() for tag in get_args(f.annotation)]
    return part == model.__name__ or part in tags
