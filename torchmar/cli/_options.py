"""Turns annotated parameters into typer's arguments and options.

    workers: Annotated[int, "How many workers."]
    wait: Annotated[float, Option("Seconds to wait.", min=0)] = 120.0

A parameter without a default is an argument, or an option that is required if it is keyword-only. The options
of a release are the fields of torchmar.release.Options, those of a server the fields of a Target.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ..connection import VARIABLES
from ..release import Options, _options

Option = _options.Option
_HINTS = get_type_hints(Options, include_extras=True)


def _option_of(field: str) -> Option:
    """Return the option that a field of Options is annotated with."""
    option: Option = get_args(_HINTS[field])[1]
    return option


Name = Annotated[str, "The model's name."]
Version = Annotated[str | None, "The model's version; by default the default version."]
ChosenVersion = Annotated[
    str | None, typer.Argument(help="The model's version; without it the error lists the served ones.")
]
Directory = Annotated[Path, Option("The server's folder, with key_file.json and logs/.", typed="--dir")]
LongestOption = Annotated[float | None, _option_of("longest")]
DrainTimeoutOption = Annotated[float, _option_of("drain_timeout")]
NginxReloadOption = Annotated[
    str | None,
    "Command that makes nginx reload its file, for a canary; a journal's command is never run.",
]
WaitOption = Annotated[float, _option_of("ready_timeout")]
# Of commands that load an archive as a worker does.
PythonOption = Annotated[str | None, "The Python that runs the server's workers; by default this one."]
TimeoutOption = Annotated[float, Option("Seconds that loading the archive may take.", min=1)]


def parameter(
    name: str, hint: Any, default: Any = inspect.Parameter.empty, *, is_option: bool = False
) -> inspect.Parameter:
    """Return a parameter that typer can read; `is_option` makes one without a default an option."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    is_option = is_option or default is not inspect.Parameter.empty
    return inspect.Parameter(
        name, keyword, default=default, annotation=_for_typer(name, hint, default, is_option)
    )


def _for_typer(name: str, hint: Any, default: Any, is_option: bool) -> Any:
    kind, *metadata = get_args(hint) if get_origin(hint) is Annotated else [hint]
    [option] = metadata or [None]
    if isinstance(option, str):
        option = Option(option)
    if not isinstance(option, Option):  # typer's own
        return hint
    facts: dict[str, Any] = {"help": option.help, "min": option.min, "max": option.max}
    facts["rich_help_panel"] = option.panel
    if not is_option:
        return Annotated[kind, typer.Argument(**facts)]
    names = [option.typed] if option.typed else []
    if kind is bool and default is False and not names:
        names = [f"--{name.replace('_', '-')}"]  # and no --no-…
    return Annotated[kind, typer.Option(*names, envvar=VARIABLES.get(name), **facts)]


def parameters(group: type[Any]) -> list[inspect.Parameter]:
    """Return the parameters of a dataclass of options; a field without an annotation has none."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for item in fields(group):
        hint, default = hints[item.name], item.default
        if get_origin(hint) is not Annotated:
            continue
        kind, option = get_args(hint)
        if isinstance(option, str):  # of a Target
            typed = "--dir" if item.name == "directory" else None
            hint = Annotated[kind, Option(option, "Which server", typed=typed)]
        elif option.is_list:
            hint, default = Annotated[str, option], ""
        elif option.is_path:
            kind = list[Path] if get_origin(kind) is tuple else Path
            hint, default = Annotated[kind | None, option], None
        found.append(parameter(item.name, hint, default))
    return found


def made(group: type[Any], typed: dict[str, Any]) -> Any:
    """Return the dataclass with the values that were typed."""
    if group is Options:
        typed = {name: _value(name, value) for name, value in typed.items()}
    return group(**typed)


def _value(name: str, typed: Any) -> Any:
    """Return the value of a field. Paths become absolute, as a release may be resumed from another folder."""
    kind, option = get_args(_HINTS[name])
    if option.is_list:
        of = get_args(kind)[0]
        try:
            return tuple(of(part.strip()) for part in typed.split(",") if part.strip())
        except ValueError:
            raise typer.BadParameter(
                f"{typed!r}: expected numbers, as 1,5,25,100", param_hint=f"--{name}"
            ) from None
    if get_origin(kind) is tuple:
        return tuple(map(os.path.abspath, typed or ()))
    return os.path.abspath(typed) if option.is_path and typed else typed  # noqa: PTH100 (links stay links)
