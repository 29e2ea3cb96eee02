"""What a release may be told, as options of the command: made of torchmar.release.Options."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from .. import release as lib

_HINTS = get_type_hints(lib.Options, include_extras=True)


def option(field: str, **instead: Any) -> Any:
    """A field of Options, for typer."""
    told: lib.Option = get_args(_HINTS[field])[1]
    flag = f"--{field.replace('_', '-')}"
    is_switch = get_args(_HINTS[field])[0] is bool and not getattr(lib.Options, field)  # there is no --no-…
    names = [told.typed] if told.typed else [flag] if is_switch else []
    facts = {"help": told.help, "min": told.min, "max": told.max, "rich_help_panel": told.panel}
    return typer.Option(*names, **{**facts, **instead})


LongestOption = Annotated[float | None, option("longest")]
DrainTimeoutOption = Annotated[float, option("drain_timeout")]
NginxReloadOption = Annotated[
    str | None,
    option(
        "nginx_reload",
        help="Command that has nginx read its file, for a canary: none is taken from a journal.",
        rich_help_panel=None,
    ),
]
WaitOption = Annotated[float, option("ready_timeout")]


def parameters() -> list[inspect.Parameter]:
    """Those of a command that releases; a field that nothing is told of is no option."""
    return [_parameter(name, hint) for name, hint in _HINTS.items() if get_origin(hint) is Annotated]


def _parameter(name: str, hint: Any) -> inspect.Parameter:
    kind, told = get_args(hint)
    default = getattr(lib.Options, name)
    if told.is_list:
        kind, default = str, ""
    elif told.is_path:
        kind, default = (list[Path] if get_origin(kind) is tuple else Path | None), None
    annotation = Annotated[kind, option(name)]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def options_of(**typed: Any) -> lib.Options:
    """What was typed, for a release: it may be resumed from another folder, so paths are made absolute."""
    return lib.Options(**{name: _value(name, value) for name, value in typed.items()})


def _value(name: str, typed: Any) -> Any:
    kind, told = get_args(_HINTS[name])
    if told.is_list:
        of = get_args(kind)[0]
        try:
            return tuple(of(part.strip()) for part in typed.split(",") if part.strip())
        except ValueError:
            raise typer.BadParameter(
                f"{typed!r}: expected numbers, as 1,5,25,100", param_hint=f"--{name}"
            ) from None
    if get_origin(kind) is tuple:
        return tuple(map(os.path.abspath, typed or ()))
    return os.path.abspath(typed) if told.is_path and typed else typed  # noqa: PTH100 (links stay links)
