"""Visits all systems in rounds, each freshly launched, so that a slow minute of the machine hits all."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .limit import Limit
from .measure import Phase, Visit, visit, wrong_answers
from .systems import Failed, System

Step = Callable[[str], None]
"""Takes the name of the next measurement."""


@dataclass
class Entry:
    """Holds a system and its visits; `failure` says why there are no more."""

    name: str
    runtime: str
    visits: list[Visit] = field(default_factory=list)
    wrong: dict[str, int] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Expected:
    """Holds the right answer of a system; it matches to the byte, or up to rounding."""

    answer: str
    exact: bool


def compare(
    systems: Sequence[System],
    phases: Sequence[Phase],
    rounds: int,
    expected: Mapping[str, Expected],
    limits: Mapping[str, Callable[[], Limit]],
    step: Step,
) -> list[Entry]:
    """Visit each system `rounds` times; every other round goes in the opposite order.

    `limits` measure each system's work without a server, in the same visit. The entry of a system that fails
    says why, and the system is not visited again.
    """
    entries = [Entry(system.name, system.runtime) for system in systems]
    for number in range(rounds):
        turn = list(zip(systems, entries, strict=True))
        for system, entry in turn[:: -1 if number % 2 else 1]:
            step(f"round {number + 1} of {rounds}: {system.name}")
            if entry.failure:
                continue
            try:
                _visit(system, phases, expected.get(system.name), limits.get(system.name), entry)
            except (Failed, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                entry.failure = f"{type(error).__name__}: {error}"
    return entries


def _visit(
    system: System,
    phases: Sequence[Phase],
    expected: Expected | None,
    without_server: Callable[[], Limit] | None,
    entry: Entry,
) -> None:
    found = visit(system, phases, without_server)
    entry.visits.append(found)
    if expected is None:
        return
    for label, result in found.loads.items():
        wrong = wrong_answers(expected.answer, result, exact=expected.exact)
        entry.wrong[label] = entry.wrong.get(label, 0) + wrong
        if wrong and not entry.failure:
            entry.failure = f"{wrong} wrong answers ({label}), as {result.answers[0].text[:200]}"
