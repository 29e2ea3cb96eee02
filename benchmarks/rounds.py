"""Rounds over all systems, each freshly launched every time: a slow minute of the machine hits them all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from . import limit
from .lock import MachineLock
from .measure import Phase, Visit, visit, wrong_answers
from .systems import Failed, System

Step = Callable[[str], None]
"""Told what is measured next."""


@dataclass
class Entry:
    """A system and what its visits found. `failure` is why there are no more."""

    name: str
    runtime: str
    visits: list[Visit] = field(default_factory=list)
    wrong: dict[str, int] = field(default_factory=dict)
    failure: str = ""


@dataclass
class Limits:
    """A runtime without a server."""

    runtime: str
    found: list[limit.Limit] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True)
class Expected:
    """The right answer of a system: to the byte, or as near as rounding allows."""

    answer: str
    exact: bool


def compare(
    systems: Sequence[System],
    phases: Sequence[Phase],
    rounds: int,
    expected: Mapping[str, Expected],
    limits: Mapping[str, Callable[[], limit.Limit]],
    step: Step,
    lock: MachineLock,
) -> tuple[list[Entry], list[Limits]]:
    """`rounds` visits to each system and of each limit; every other round in the opposite order.

    What fails is told in its entry, and not visited again.
    """
    entries = [Entry(system.name, system.runtime) for system in systems]
    without = [Limits(runtime) for runtime in limits]
    for number in range(rounds):
        turn: list[tuple[str, Callable[[], None], Entry | Limits]] = [
            *((f"limit {one.runtime}", _limit(limits[one.runtime], one), one) for one in without),
            *(
                (system.name, _visit(system, phases, expected.get(system.name), entry), entry)
                for system, entry in zip(systems, entries, strict=True)
            ),
        ]
        for label, run, target in turn[:: -1 if number % 2 else 1]:
            step(f"round {number + 1} of {rounds}: {label}")
            if target.failure:
                continue
            with lock.alone():
                try:
                    run()
                except (Failed, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                    target.failure = f"{type(error).__name__}: {error}"
    return entries, without


def _limit(measure: Callable[[], limit.Limit], target: Limits) -> Callable[[], None]:
    return lambda: target.found.append(measure())


def _visit(
    system: System, phases: Sequence[Phase], expected: Expected | None, entry: Entry
) -> Callable[[], None]:
    def run() -> None:
        found = visit(system, phases)
        entry.visits.append(found)
        if expected is None:
            return
        for label, result in found.loads.items():
            wrong = wrong_answers(expected.answer, result, exact=expected.exact)
            entry.wrong[label] = entry.wrong.get(label, 0) + wrong
            if wrong and not entry.failure:
                entry.failure = f"{wrong} wrong answers ({label}), as {result.answers[0].text[:200]}"

    return run
