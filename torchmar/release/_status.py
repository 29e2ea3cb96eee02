"""Compare what the journals say of each model with what is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ReleaseError
from ._fleet import ServedVersion
from ._history import History, Record, history
from ._journal import Journal, models


@dataclass(frozen=True)
class Status:
    """Holds the last change of a model, and what to do about it, '' for nothing."""

    model: str
    what: str
    outcome: str
    when: str
    to_do: str


def status(folder: Path, defaults: Mapping[str, Mapping[str, ServedVersion]]) -> list[Status]:
    """Return a line for each model that has a journal; `defaults` are default versions by host, then model.

    Raises ReleaseError where the folder cannot be read; a journal that cannot be read is a line of its own.
    """
    found = []
    for model in models(folder):
        journal = Journal(folder, model)
        try:
            past = history(journal)
        except ReleaseError as error:
            found.append(Status(model, "", "unknown", "-", str(error)))
            continue
        if past.records:
            last = past.records[-1]
            what = f"{last.kind} {last.version}".strip()
            holder = journal.holder()
            if holder is not None:
                found.append(Status(model, what, "running", "-", f"process {holder} is at it"))
                continue
            to_do = _to_do(model, past, last, {host: served.get(model) for host, served in defaults.items()})
            when = last.finished_at or "-"
            found.append(Status(model, what, last.outcome or "unfinished", when, to_do))
    return found


def _to_do(model: str, past: History, last: Record, served: Mapping[str, ServedVersion | None]) -> str:
    is_served = any(one is not None for one in served.values())
    if is_served and past.rollback_targets:
        return f"torchmar rollback {model} again: it was interrupted"
    if is_served and past.unfinished is not None:
        return f"torchmar resume {model}, or torchmar rollback {model}"
    several = len(served) > 1
    other = [
        f"{host}: {text}" if several else text
        for host, one in served.items()
        if (text := _otherwise(past, host, one))
    ]
    if other:
        return f"{'; '.join(other)}: torchmar reconcile {model}"
    if past.unfinished is not None:
        return f"torchmar resume {model}, or torchmar rollback {model}"
    for host, one in served.items():
        if one is not None and not one.ready:
            where = f" on {host}" if several else ""
            what = f"torchmar repair {model} replaces it, or says what it dies of"
            return f"{one.version} has no READY worker{where}: {what}"
    what = f"{model} {last.version}" if last.kind == "retire" else model
    return "" if last.outcome is not None else f"torchmar {last.kind} {what} again: it was interrupted"


def _otherwise(past: History, host: str, served: ServedVersion | None) -> str:
    """Return how the live default differs from the journal's; '' where it does not.

    A host unknown to the journal is compared with all that it knows: a server has another name by its folder
    than by its address.
    """
    known = [past.served[host]] if host in past.served else list(past.served.values())
    desired = sorted({one.default for one in known if one.default is not None})
    default = None if served is None else served.version
    if not desired or default in desired:
        return ""
    is_now = f"{default} is the default" if default is not None else "it is not served"
    return f"{is_now}, the journal says {', '.join(desired)}"
