"""Options made from declared settings, so that no command declares them again."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TypeVar

import typer
from pydantic.fields import FieldInfo

from captum_excon._messages import one_line
from captum_excon._settings import Settings, validated
from captum_excon._settings_help import allowed, default_text, flags, from_text, groups, is_flag
from captum_excon.errors import UserError

S = TypeVar("S", bound=Settings)


def with_options(cls: type[Settings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds an option for each setting to a command, under the title of its group.

    The command gets the values that were given, as ``given``, by the names of the settings. They
    are checked where the settings are built, together with those of files.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters.values()
        made = list(_options(cls))
        parameters = [p for p in own if p.name != "given"]

        def wrapped(**values: Any) -> None:
            given = {
                name: _read(name, field, value)
                for name, field in cls.model_fields.items()
                if (value := values.pop(_PREFIX + name)) is not None
            }
            command(given, **values)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        signature = inspect.Signature(
            [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*made, *parameters]]
        )
        wrapped.__signature__ = signature  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return wrapped

    return decorate


def checked(cls: type[S], given: Mapping[str, Any]) -> S:
    """Builds the settings of a command.

    Raises:
        UserError: A value is wrong; the message names the option.
    """
    try:
        return validated(cls, given)
    except UserError as error:
        name = re.match(r"\w*", str(error))[0]  # type: ignore[index]
        if name not in cls.model_fields:
            raise
        flag = flags(name, cls.model_fields[name])[0]
        raise UserError(str(error).replace(name, flag, 1)) from error


# Keeps a setting such as ``config`` apart from the command's own parameters.
_PREFIX = "setting_"


def _options(cls: type[Settings]) -> Iterator[inspect.Parameter]:
    for title, fields in groups(cls).items():
        for name, field in fields.items():
            names = flags(name, field)
            if is_flag(field):
                names = [f"{flag}/--no-{flag.removeprefix('--')}" for flag in names]
            option = typer.Option(
                *names,
                metavar=None if is_flag(field) else allowed(field),
                rich_help_panel=title,
                help=_help(field),
            )
            kind: Any = bool if is_flag(field) else str
            yield inspect.Parameter(
                _PREFIX + name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, option],
            )


def _help(field: FieldInfo) -> str:
    default = default_text(field)
    return one_line(field.description or "") + (f" Default: {default}." if default else "")


def _read(name: str, field: FieldInfo, value: Any) -> Any:
    try:
        return from_text(field, value) if isinstance(value, str) else value
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint=flags(name, field)[0]) from error
