"""Runs commands: prints their results, or the errors that end them, for people or as JSON."""

from __future__ import annotations

import inspect
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from ..errors import TorchmarError
from ..processes import handling
from ._events import EventPrinter
from ._options import made, parameter, parameters
from ._output import error_facts, json_text, print_error, print_json, print_note

INCONCLUSIVE = 3
"""The exit code where nothing failed, but it is not known whether an archive is good."""

_JSON = Annotated[bool, "Print JSON."]
_EVENTS = Annotated[bool, "Print every event as a line of JSON, as it happens."]
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


@dataclass(frozen=True)
class Shown:
    """Holds the result of a command: `facts` for JSON, and `show`, which prints them for people.

    Without `show` people get JSON, too. `notes` go to stderr, and so does `error`, which ends the command
    after its result was printed.
    """

    facts: Any
    show: Callable[[], object] | None = None
    notes: Sequence[str] = ()
    error: TorchmarError | None = None
    code: int = 0


Command = Callable[..., "Shown | Iterator[Shown]"]
"""A command that yields several results has each printed as it comes; with --json they are one list.

One that prints by itself yields none.
"""


def add(app: typer.Typer, panel: str, *commands: Command) -> None:
    """Add commands, each with --json; those with a parameter `printer` also have --events.

    A parameter that is a dataclass of options becomes these options. A command that prints by itself has a
    parameter `json`.
    """
    for command in commands:
        app.command(rich_help_panel=panel)(_runnable(command))


def _runnable(command: Command) -> Callable[..., None]:
    hints = get_type_hints(command, include_extras=True)
    groups = {
        name: hints[name]
        for name in _own(command)
        if isinstance(hints[name], type) and is_dataclass(hints[name])
    }
    options = {name: parameters(group) for name, group in groups.items()}
    has_steps = "printer" in hints

    def run(context: typer.Context, *, json: bool, events: bool = False, **arguments: Any) -> None:
        for name, group in groups.items():
            given = {option.name: arguments.pop(option.name) for option in options[name]}
            arguments[name] = made(group, given)
        printer = EventPrinter(json=json, events=events, again=_as_typed(context))
        arguments |= {"json": json} if "json" in hints else {}
        arguments |= {"printer": printer} if has_steps else {}
        try:
            # SIGTERM ends a command as Ctrl-C does: of a CI job that is stopped nothing is left running, and
            # its release is undone.
            with (
                handling(signal.default_int_handler, signal.SIGTERM),
                printer.at_work() if has_steps else nullcontext(),
            ):
                code = print_results(command(**arguments), printer)
        except BrokenPipeError:
            raise
        except (TorchmarError, OSError) as error:
            if not printer.to_people:
                beside = printer.ended_by(error) if has_steps else {}
                event = {"event": "error"} if printer.events else {}
                print(json_text({**event, **beside, **error_facts(error)}), flush=True)
            raise
        if code:
            raise typer.Exit(code)

    own = [one for one in _own(command).values() if one.name not in groups]
    all_of_them = [
        parameter("context", typer.Context),
        *(parameter(one.name, hints[one.name], one.default, is_option=one.kind is _KEYWORD) for one in own),
        *(option for group in options.values() for option in group),
        *([parameter("events", _EVENTS, False)] if has_steps else []),
        parameter("json", _JSON, False),
    ]
    run.__signature__ = inspect.Signature(all_of_them)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in all_of_them}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _own(command: Command) -> dict[str, inspect.Parameter]:
    """Return the parameters of a command that can be typed."""
    parameters = inspect.signature(command).parameters
    return {name: one for name, one in parameters.items() if name not in {"json", "printer"}}


def _as_typed(context: typer.Context) -> str:
    """Return what was typed after `torchmar`, without the options of output."""
    return shlex.join(one for one in context.meta.get(TYPED, ()) if one not in {"--json", "--events"})


TYPED = "torchmar.typed"  # in a context's `meta`


def print_results(found: Shown | Iterator[Shown], printer: EventPrinter) -> int:
    """Print results, and return the exit code; of several codes it is the lowest that is not 0."""
    facts, codes = [], []
    for one in [found] if isinstance(found, Shown) else found:
        failure = {} if one.error is None else error_facts(one.error)
        facts.append({**one.facts, **failure} if isinstance(one.facts, dict) else one.facts)
        if printer.to_people:
            one.show() if one.show is not None else print_json(one.facts)
        if not printer.json:
            print_note(*one.notes)
        if one.error is not None:
            if not (printer.json or printer.to_people):
                print(json_text({"event": "error", **failure}), flush=True)
            print_error(one.error)
        codes.append(one.code or int(one.error is not None))
    if facts:
        printer.print_last(facts[0] if isinstance(found, Shown) else facts)
    return min(filter(None, codes), default=0)
