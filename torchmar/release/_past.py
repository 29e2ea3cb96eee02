"""Tell what has become of each version of a model, by its journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..workers import stood_in_for
from ._fleet import ServedState
from ._history import History, Record
from ._journal import Entry, Journal

# Their outcome says what they have changed; of other changes only what is served afterwards does.
_WITH_OUTCOME = {"release", "rollback", "retire"}


@dataclass(frozen=True)
class Event:
    """What happened to a version, in words, at an ISO time in UTC; `why` may be ''."""

    at: str
    version: str
    what: str
    why: str = ""


@dataclass(frozen=True)
class Past:
    """Holds what a journal tells: events, oldest first, and the default version of each host from now on."""

    events: tuple[Event, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)


def past_of(folder: Path, model: str) -> Past:
    """Read the journal of a model, if there is one in this folder. Raises ReleaseError."""
    past, begun, events = History(model), dict[str, str](), list[Event]()
    for entry in Journal(folder, model).entries():
        before = past.served.get(entry.host)
        try:
            past.fold(entry)
            record = past.record(entry.release)
        except (AttributeError, KeyError, TypeError, ValueError):  # edited by hand, or refused
            continue
        begun.setdefault(entry.release, entry.at)
        if entry.event == "finished":
            events += _finished(record, entry.at)
        elif entry.event == "served" and record.kind not in _WITH_OUTCOME and before is not None:
            events += _changed(record, entry, before, past.served[entry.host])
    for record in past.records:
        if record.outcome is None and record.kind in _WITH_OUTCOME:
            events.append(Event(begun[record.id], record.version, f"{record.kind} unfinished"))
    defaults = {host: default for host, state in past.served.items() if (default := _default(state))}
    return Past(tuple(events), defaults)


def _finished(record: Record, at: str) -> Iterator[Event]:
    """Yield what a release, a rollback or a retirement has done to versions."""
    if record.kind not in _WITH_OUTCOME:
        return
    if record.outcome == "promoted":
        yield Event(at, record.version, "released")
    elif record.outcome == "rolled back":
        for left, target in sorted(_switches(record)):
            yield Event(at, left, "rolled back", f"to {target}")
        for target in sorted(set(record.targets.values())):
            yield Event(at, target, "default again")
    elif record.outcome == "retired":
        yield Event(at, record.version, "retired")
    else:
        yield Event(at, record.version, f"{record.kind} {record.outcome}", record.reason)


def _switches(record: Record) -> set[tuple[str, str]]:
    """Return the versions that a rollback has left, each with the one it went back to, of all hosts."""
    befores = (
        (record.served.get(host, {}).get("default"), target) for host, target in record.targets.items()
    )
    return {(left, target) for left, target in befores if isinstance(left, str) and left != target}


def _default(state: ServedState) -> str:
    """Return the default version, also where a scaling was interrupted and its standby is; '' for none."""
    return stood_in_for(state.default or "")


def _changed(record: Record, entry: Entry, before: ServedState, now: ServedState) -> Iterator[Event]:
    """Yield what a change by hand has done, by what was served before and is now."""
    why = f"by {record.kind}"
    old, new = ({stood_in_for(one.version) for one in state.versions} for state in (before, now))
    for version in sorted(new - old):
        yield Event(entry.at, version, "registered", why)
    if (default := _default(now)) and default != _default(before):
        yield Event(entry.at, default, "made the default", why)
    for version in sorted(old - new):
        yield Event(entry.at, version, "unregistered", why)
