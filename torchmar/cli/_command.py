"""How each command is run: what it returns is printed for people or as JSON, and so is what ends it."""

from __future__ import annotations

import functools
import inspect
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from ..errors import TorchmarError
from ._choices import made, parameter, parameters
from ._events import EventPrinter
from ._output import error_facts, json_text, print_error, print_json, print_note

INCONCLUSIVE = 3
"""The exit code where nothing failed and it could not be told whether an archive is good."""

_JSON = Annotated[bool, "Print JSON."]
_EVENTS = Annotated[bool, "Print every event as a line of JSON, as it happens."]


@dataclass(frozen=True)
class Shown:
    """What a command found: `facts` are for JSON, and `show` prints them for people, who else get JSON, too.

    `notes` are told to people on stderr, and so is `error`: what failed all the same, and ends the command.
    """

    facts: Any
    show: Callable[[], object] | None = None
    notes: Sequence[str] = ()
    error: TorchmarError | None = None
    code: int = 0


Command = Callable[..., "Shown | Iterator[Shown] | None"]
"""Of one that yields, people are told one thing after the other, and machines all of them as a list."""


def add(app: typer.Typer, panel: str, *commands: Command) -> None:
    """Add commands, each with --json, and with --events where it has a `printer` of steps.

    A command has, in place of each parameter that is a dataclass of options, the options of that. One that
    prints in its own way, as it goes on, has a parameter `json`.
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

    @functools.wraps(command)
    def run(context: typer.Context, *, json: bool, events: bool = False, **arguments: Any) -> None:
        for name, group in groups.items():
            given = {option.name: arguments.pop(option.name) for option in options[name]}
            arguments[name] = made(group, given)
        printer = EventPrinter(json=json, events=events, again=_as_typed(context))
        arguments |= {"json": json} if "json" in hints else {}
        arguments |= {"printer": printer} if has_steps else {}
        try:
            with printer.at_work() if has_steps else nullcontext():
                code = tell(command(**arguments), printer)
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

    own = [(name, one) for name, one in _own(command).items() if name not in groups]
    all_of_them = [
        parameter("context", typer.Context),
        *(parameter(name, hints[name], one.default) for name, one in own),
        *(option for group in options.values() for option in group),
        *([parameter("events", _EVENTS, False)] if has_steps else []),
        parameter("json", _JSON, False),
    ]
    run.__signature__ = inspect.Signature(all_of_them)  # type: ignore[attr-defined]
    # typer resolves annotations by name and would follow __wrapped__ back to the original.
    run.__annotations__ = {one.name: one.annotation for one in all_of_them}
    del run.__wrapped__
    return run


def _own(command: Command) -> dict[str, inspect.Parameter]:
    """What it is called with, but for what is not typed."""
    parameters = inspect.signature(command).parameters
    return {name: one for name, one in parameters.items() if name not in {"json", "printer"}}


def _as_typed(context: typer.Context) -> str:
    """What was typed after `torchmar`, to be typed again by people."""
    return shlex.join(one for one in context.meta.get(TYPED, ()) if one not in {"--json", "--events"})


TYPED = "torchmar.typed"  # in a context's `meta`


def tell(found: Shown | Iterator[Shown] | None, printer: EventPrinter) -> int:
    """Print it; the exit code, of several the one that says most: 1 for a failure."""
    if found is None:
        return 0
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
    printer.print_last(facts[0] if isinstance(found, Shown) else facts)
    return min(filter(None, codes), default=0)
