"""What the release commands print: plans, steps as they happen, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._options import INCONCLUSIVE, JsonOption
from ._output import (
    INTERRUPTED,
    end_with,
    err,
    error_facts,
    escape,
    json_text,
    out,
    print_json,
    print_table,
)
from ._under_way import UnderWay, state_of

if TYPE_CHECKING:
    from ..release import Entry, Plan, Result


@dataclass(frozen=True)
class OutputOptions:
    """The options of a command whose steps are events."""

    events: Annotated[
        bool, typer.Option("--events", help="Print every event as a line of JSON, as it happens.")
    ] = False
    json: JsonOption = False


class EventPrinter:
    """Prints what is planned and journaled, as it happens: lines for people, or JSON lines, or nothing.

    `has_told`: what came of it is told already, or is about to be. `model` is told with each step, where a
    command works at one model after another.
    """

    def __init__(self, output: OutputOptions) -> None:
        self.entries: list[Entry] = []
        self.plans: tuple[Plan, ...] = ()
        self.has_told = False
        self.model = ""
        self.json = output.json
        self.events = output.events
        self._under_way = UnderWay(silent=not self.to_people)

    @property
    def to_people(self) -> bool:
        """Whether lines for people are printed."""
        return not (self.json or self.events)

    def __call__(self, entry: Entry) -> None:
        """Called for each entry, after it is on disk."""
        self.entries.append(entry)
        self._under_way.note(entry, self.model)
        if self.events:
            print(json_text(entry), flush=True)
        elif self.to_people:
            self._line(entry)

    def plans_made(self, plans: tuple[Plan, ...]) -> None:
        """Called before anything is done: with --events each plan is one, too."""
        self.plans = plans
        if self.events:
            for plan in plans:
                print(json_text({"event": "plan", **plan_facts(plan)}), flush=True)
        elif self.to_people:
            print_plans(plans)

    @contextmanager
    def at_work(self, again: str) -> Iterator[None]:
        """While the block runs, what takes long is told; and after Ctrl-C, what state things are in.

        `again` is the command that goes on with it, with what makes it mean the same servers.
        """
        try:
            with self._under_way:
                yield
        except KeyboardInterrupt:
            goes_on = f". `torchmar {again}` goes on with it" if self.entries else ""
            reason = f"interrupted: {state_of(self.entries)}{goes_on}"
            if not self.has_told:
                self.print_last({"outcome": "interrupted", "reason": reason})
            err.print(f"[bold red]error:[/bold red] {escape(reason)}")
            raise typer.Exit(INTERRUPTED) from None

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What was not even begun, or ended by an error, is told to machines with its outcome and plans."""
        from ..errors import TorchmarError

        try:
            yield
        except TorchmarError as error:
            if not self.json:
                raise
            if not self.has_told:
                plans = [plan_facts(plan) for plan in self.plans]
                outcome = "failed" if self.entries else "refused"
                told = {"outcome": outcome, "reason": str(error), "plans": plans}
                self.print_last({**told, **error_facts(error)})
            end_with(error)

    def print_last(self, facts: Any) -> None:
        """What came of it, where machines asked; after events it is one line of JSON, too, the last one."""
        if self.json and self.events:
            print(json_text(facts), flush=True)
        elif self.json:
            print_json(facts)

    def _line(self, entry: Entry) -> None:
        host, step = f"{escape(entry.host):<9} ", f"{escape(f'{entry.step} {self.model}'):<11}"
        if entry.event == "done":
            text = escape(str(entry.data.get("text") or entry.data.get("default") or ""))
            out.print(f"{host}{step} {text}  [dim]{entry.data.get('seconds', 0):.2f} s[/dim]")
        elif entry.event == "failed":
            out.print(f"{host}{step} [bold red]stopped[/bold red]")

    def steps(self) -> list[dict[str, Any]]:
        """What was done, with its seconds."""
        return [
            {"host": entry.host, "step": entry.step, **entry.data}
            for entry in self.entries
            if entry.event == "done"
        ]


def typed(*words: str, **options: Any) -> str:
    """A command as it is typed: its words, and the options that are given."""
    for name, value in options.items():
        if value is not None and value is not False:
            words += (f"--{name.replace('_', '-')}", *(() if value is True else (str(value),)))
    return " ".join(map(quote, words))


def print_plans(plans: Sequence[Plan]) -> None:
    """Checks, steps and the way back of each host."""
    for plan in plans:
        _print_plan(plan)


def _print_plan(plan: Plan) -> None:
    if plan.is_done:
        what = f"{plan.model} {plan.version} on {plan.host}"
        out.print(f"{escape(what)} is served as it should be: nothing to do")
        return
    served = f"{plan.default} is the default now" if plan.default else "nothing is served under this name yet"
    print_table(
        f"{plan.model} {plan.version} on {plan.host}: {served}",
        ("check", "", "found"),
        [(check.name, check.outcome, check.text) for check in plan.checks],
    )
    out.print()
    if plan.steps:
        print_table("", ("step", "will"), [(step.name, step.text) for step in plan.steps])
        out.print(f"{'way back':<10}{escape(plan.way_back)}\n")


def plan_facts(plan: Plan) -> dict[str, Any]:
    """For JSON."""
    return {**asdict(plan), "refusals": plan.refusals}


def tell(result: Result, printer: EventPrinter, page: Path | None, more: str) -> None:
    """What came of it; exit code 1 where it failed, 3 where the gate could not tell, 130 after Ctrl-C.

    `more` is what commands that are told to people must be given, too.
    """
    printer.print_last(_facts(result, printer, page))
    if printer.to_people:
        _tell_people(result, more)
        if page is not None:
            out.print(f"page: {escape(page)}", style="dim")
    elif not printer.json:
        for text in filter(None, (result.note, result.reason)):
            what = "note" if result.outcome == "promoted" else "[bold red]error[/bold red]"
            err.print(f"{what}: {escape(text)}")
    if isinstance(result.error, KeyboardInterrupt):
        raise typer.Exit(INTERRUPTED)
    if result.outcome == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)
    if result.outcome in {"failed", "undone"}:
        raise typer.Exit(1)


def _tell_people(result: Result, more: str) -> None:
    model, version, seconds = escape(result.model), escape(result.version), f"{result.seconds:.1f} s"
    befores = {plan.default for plan in result.plans} - {None, result.version}
    if result.outcome == "promoted":
        out.print(f"{model} {version} is the default ({seconds})")
        for text in filter(None, (result.note, result.reason)):
            err.print(f"note: {escape(text)}", style="yellow")
        if befores:
            old = escape(", ".join(sorted(str(before) for before in befores)))
            out.print(
                f"back: torchmar rollback {model}{more}; when sure: torchmar retire {model} {old}{more}"
            )
    elif result.outcome == "undone":
        out.print(f"{model} {version}: undone ({seconds})")
        if result.reason:
            err.print(f"note: {escape(result.reason)}", style="yellow")
    elif result.outcome != "nothing":
        err.print(f"[bold red]error:[/bold red] {escape(result.reason)}")
        if not result.id:
            err.print("Nothing was changed.")
        elif result.is_put_back:
            goes_on = "The old version goes on; everything" if befores or not result.plans else "Everything"
            err.print(f"{goes_on} was put back.")


def _facts(result: Result, printer: EventPrinter, page: Path | None) -> dict[str, Any]:
    return {
        "id": result.id,
        "model": result.model,
        "version": result.version,
        "outcome": result.outcome,
        "seconds": round(result.seconds, 3),
        "reason": result.reason,
        "note": result.note,
        # Of what went through nothing was to be put back.
        "put_back": None if result.outcome in {"promoted", "nothing"} else result.is_put_back,
        "page": None if page is None else str(page),
        "plans": [plan_facts(plan) for plan in result.plans],
        "steps": printer.steps(),
        "judgements": {
            host: {name: [_finding(one) for one in judged.findings] for name, judged in found.items()}
            for host, found in result.judgements.items()
        },
    }


def _finding(finding: Any) -> dict[str, Any]:
    return {
        "what": finding.what,
        "outcome": finding.outcome.value,
        "text": finding.text,
        "figures": dict(finding.figures),
    }
