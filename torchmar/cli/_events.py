"""Prints plans, and the steps of a command as they happen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from ._output import INTERRUPTED, err, escape, json_text, out, print_json, print_lines, print_table
from ._under_way import Live

if TYPE_CHECKING:
    from ..release import Entry, Plan


class EventPrinter:
    """Prints plans and journal entries as they come: as lines for people, as JSON lines, or not at all.

    `model` is printed with each step, for commands that work at one model after another; `again` is the
    command that goes on after an interruption.
    """

    def __init__(self, *, json: bool = False, events: bool = False, again: str = "") -> None:
        self.entries: list[Entry] = []
        self.plans: tuple[Plan, ...] = ()
        self.model = ""
        self.json = json
        self.events = events
        self._again = again
        self._begun: dict[tuple[str, str], float] = {}
        self._progress: dict[tuple[str, str], str] = {}
        self._live = Live(self._lines)

    @property
    def to_people(self) -> bool:
        """Return whether lines for people are printed."""
        return not (self.json or self.events)

    def __call__(self, entry: Entry) -> None:
        """Print a journal entry that is on disk."""
        self.entries.append(entry)
        if self.events:
            print(json_text(entry), flush=True)
        elif self.to_people:
            self._show(entry)

    def note_progress(self, host: str, step: str, text: str) -> None:
        """Set the progress of a step, such as `34 of 100 requests`, for the line that shows it."""
        self._progress[host, f"{step} {self.model}".rstrip()] = text

    def plans_made(self, plans: tuple[Plan, ...]) -> None:
        """Print the plans, before anything is done; with --events each plan is an event, too."""
        self.plans = plans
        if self.events:
            for plan in plans:
                print(json_text({"event": "plan", **plan_facts(plan)}), flush=True)
        elif self.to_people:
            print_plans(plans)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Show the progress of long steps while the block runs, and after Ctrl-C the state of the servers."""
        live = self._live if self.to_people else nullcontext()
        try:
            with live:
                yield
        except KeyboardInterrupt:
            from ..manage import state_after

            goes_on = f". `torchmar {self._again}` goes on with it" if self.entries else ""
            reason = f"interrupted: {state_after(self.entries)}{goes_on}"
            self.print_last({"outcome": "interrupted", "reason": reason})
            err.print(f"[bold red]error:[/bold red] {escape(reason)}")
            raise typer.Exit(INTERRUPTED) from None

    def ended_by(self, error: Exception) -> dict[str, Any]:
        """Return, for JSON, what an error ended: a command that failed, or was refused before any step."""
        outcome = "failed" if self.entries else "refused"
        return {"outcome": outcome, "reason": str(error), "plans": [plan_facts(plan) for plan in self.plans]}

    def print_last(self, facts: Any) -> None:
        """Print the result with --json; after events it is the last line of JSON."""
        if self.json and self.events:
            print(json_text(facts), flush=True)
        elif self.json:
            print_json(facts)

    def _show(self, entry: Entry) -> None:
        step = f"{entry.step} {self.model}".rstrip()
        if entry.event == "begin":
            self._begun[entry.host, step] = time.monotonic()
            self._live.print()
            return
        self._begun.pop((entry.host, step), None)
        self._progress.pop((entry.host, step), None)
        self._live.clear()
        start = f"{escape(entry.host):<9} {escape(step):<11}"
        if entry.event == "done":
            text = escape(str(entry.data.get("text") or entry.data.get("default") or ""))
            out.print(f"{start} {text}  [dim]{entry.data.get('seconds', 0):.2f} s[/dim]")
        elif entry.event == "failed":
            out.print(f"{start} [bold red]stopped[/bold red]")

    def _lines(self) -> list[str]:
        """Return a line for each step that is under way, the oldest first."""
        now, least = time.monotonic(), self._live.least_seconds
        return [
            f"{host:<9} {step:<10}  … {now - begun:.0f} s  {self._progress.get((host, step), '')}".rstrip()
            for (host, step), begun in list(self._begun.items())
            if now - begun >= least
        ]

    def steps(self) -> list[dict[str, Any]]:
        """Return the steps that were done, with their seconds."""
        return [
            {"host": entry.host, "step": entry.step, **entry.data}
            for entry in self.entries
            if entry.event == "done"
        ]


def print_plans(plans: Sequence[Plan]) -> None:
    """Print the checks, the steps and the way back of each host."""
    for plan in plans:
        what = f"{plan.model} {plan.version} on {plan.host}"
        if plan.is_done:
            print_lines(f"{what} is served as it should be: nothing to do")
            continue
        served = f"{plan.default} is the default now" if plan.default else _NOTHING_SERVED
        checks = [(check.name, check.outcome, check.text) for check in plan.checks]
        print_table(f"{what}: {served}", ("check", "", "found"), checks)
        out.print()
        if plan.steps:
            print_table("", ("step", "will"), [(step.name, step.text) for step in plan.steps])
            print_lines(f"{'way back':<10}{plan.way_back}\n")


_NOTHING_SERVED = "nothing is served under this name yet"


def plan_facts(plan: Plan) -> dict[str, Any]:
    """Return a plan for JSON."""
    return {**asdict(plan), "refusals": plan.refusals}
