"""What a journal's entries tell: what was done, what is unfinished, and what each host is to serve."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import ReleaseError, ReleaseInconclusive
from ._journal import Entry, Journal, known_to
from ._options import Options
from ._state import ServedState, ServedVersion

_SETS = {"begin": "begun", "done": "done", "failed": "failed"}  # which of a Record's sets an event is kept in
_ALL_SETS = (*_SETS.values(), "silent")
REFUSED = "refused"
"""The outcome of what came to nothing before anything was done, as a version that was mistyped: no Record."""


@dataclass(frozen=True)
class Record:
    """One release, rollback or the like, as its entries tell it.

    `begun`, `done` and `failed` hold (host, step), and `silent` those failed of which the server may not
    know it: it was told to, and has not answered. `sent` is how many requests the candidate has got
    by host, of the release itself or in an earlier one.
    """

    id: str
    planned: Mapping[str, Any]
    begun: frozenset[tuple[str, str]] = frozenset()
    done: frozenset[tuple[str, str]] = frozenset()
    failed: frozenset[tuple[str, str]] = frozenset()
    silent: frozenset[tuple[str, str]] = frozenset()
    sent: Mapping[str, int] = field(default_factory=dict)
    traffic: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the gate counted before the switch, by host."""
    outcome: str | None = None
    reason: str = ""
    finished_at: str = ""

    @property
    def kind(self) -> str:
        """release, rollback, retire, reconcile, or what was done by hand."""
        return str(self.planned.get("kind", "release"))

    @property
    def version(self) -> str:
        """Which version it is about."""
        return str(self.planned.get("version", ""))

    @property
    def file(self) -> str:
        """The archive's name in a store. Raises ReleaseError where the journal does not tell it."""
        if "file" not in self.planned:
            raise ReleaseError(f"the journal does not tell which file {self.version} is ({self.id})")
        return str(self.planned["file"])

    @property
    def hosts(self) -> tuple[str, ...]:
        """In the order in which they are taken."""
        return tuple(self.planned.get("hosts", ()))

    @property
    def steps(self) -> frozenset[str]:
        """All that it takes on any host."""
        return frozenset(step for steps in self.planned.get("steps", {}).values() for step in steps)

    @property
    def is_undoing(self) -> bool:
        """Whether it was begun to be undone, or failed, which is the same a moment earlier."""
        return bool(self.failed) or any(step.startswith("undo") for _, step in self.begun)

    def served_before(self, host: str, model: str) -> ServedState:
        """What the host served when this was planned."""
        return served_from(model, self.planned.get("served", {}).get(host, {}))


@dataclass(frozen=True)
class History:
    """What a journal tells: every record, and what each host is to serve."""

    records: tuple[Record, ...]
    served: Mapping[str, ServedState]
    defaults: Mapping[str, tuple[str, ...]]
    """Each host's default versions, the first one first; the last one is that of now.

    One that was left by a rollback, or undone, is not among them.
    """
    last_ready: Mapping[tuple[str, str], ServedVersion]
    """By host and version: how it was when it had a worker last, also where it is retired."""

    def meant(self, host: str) -> tuple[ServedVersion, ...]:
        """The versions that a host is to serve."""
        known = self.served.get(host)
        return () if known is None else known.versions

    @property
    def unfinished(self) -> Record | None:
        """The last release, where it has not come to its end; what else was interrupted can be done again."""
        releases = [record for record in self.records if record.kind == "release"]
        return releases[-1] if releases and releases[-1].outcome is None else None

    def require_finished(self, model: str) -> None:
        """Raises ReleaseError where a release is unfinished."""
        if self.unfinished is not None:
            raise ReleaseError(
                f"{model}: the release of {self.unfinished.version} ({self.unfinished.id}) is unfinished: "
                f"`torchmar resume {model}` goes on with it, `torchmar rollback {model}` undoes it"
            )

    @property
    def last_switch(self) -> Record | None:
        """The last that has changed the default, or was to."""
        switches = [
            record
            for record in self.records
            if record.kind in {"rollback", "set-default"}
            or (record.kind == "release" and record.outcome == "promoted")
        ]
        return switches[-1] if switches else None

    @property
    def rollback_targets(self) -> Mapping[str, str]:
        """Where a rollback that did not come to its end was going: the version, by host."""
        last = self.last_switch
        if last is None or last.kind != "rollback" or last.outcome is not None:
            return {}
        targets: Mapping[str, str] = last.planned.get("targets", {})
        return targets


def outcome_of(error: BaseException) -> str:
    """What came of what an error has ended."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "inconclusive" if isinstance(error, ReleaseInconclusive) else "failed"


def history(journal: Journal) -> History:
    """Fold a journal's entries."""
    planned: dict[str, dict[str, Any]] = {}
    served: dict[str, ServedState] = {}
    defaults: dict[str, list[str]] = {}
    last_ready: dict[tuple[str, str], ServedVersion] = {}

    def fold(entry: Entry) -> None:
        if entry.event == "planned":
            _require_plan(entry.data)
            planned[entry.release] = {
                "planned": entry.data,
                "sent": {},
                "traffic": {},
                **{name: set() for name in _ALL_SETS},
            }
            for host, content in entry.data.get("served", {}).items():
                served.setdefault(host, served_from(journal.model, content))
        record = planned.get(entry.release)
        if record is None:
            return
        if entry.event in _SETS:
            _note_step(record, entry)
        elif entry.event == "served":
            served[entry.host] = now = with_desired_workers(
                served_from(journal.model, entry.data), entry.host, last_ready
            )
            last_ready.update({(entry.host, one.version): one for one in now.versions if one.ready})
            undone = any(host == entry.host and step.startswith("undo") for host, step in record["begun"])
            is_back = undone or record["planned"].get("kind") == "rollback"
            past = defaults.setdefault(entry.host, [])
            _switch(past, now.default, is_back=is_back)
            if undone and now.default is None and past[-1:] == [record["planned"].get("version")]:
                past.pop()  # a first version that failed: nobody goes back to it
        elif entry.event == "finished":
            record["outcome"] = str(entry.data.get("outcome", "finished"))
            record["reason"] = str(entry.data.get("reason", ""))
            record["finished_at"] = entry.at

    for entry in journal.entries():
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # written by hand: it says nothing
            fold(entry)
    records = [
        Record(key, **{**value, **{name: frozenset(value[name]) for name in _ALL_SETS}})
        for key, value in planned.items()
        if value.get("outcome") != REFUSED
    ]
    return History(tuple(records), served, {host: tuple(past) for host, past in defaults.items()}, last_ready)


def _note_step(record: dict[str, Any], entry: Entry) -> None:
    record[_SETS[entry.event]].add((entry.host, entry.step))
    if entry.data.get("silent"):
        record["silent"].add((entry.host, entry.step))
    sent = record["sent"]
    sent[entry.host] = sent.get(entry.host, 0) + int(entry.data.get("sent", 0))
    if "traffic" in entry.data:
        record["traffic"][entry.host] = entry.data["traffic"]


def with_desired_workers(
    now: ServedState, host: str, last_ready: Mapping[tuple[str, str], ServedVersion]
) -> ServedState:
    """Where all workers of a version that has answered were starting again just then, they are meant."""
    versions = []
    for one in now.versions:
        was = last_ready.get((host, one.version))
        is_starting = was is not None and not one.ready
        versions.append(replace(one, ready=one.workers) if is_starting else one)
    return replace(now, versions=tuple(versions))


def _switch(past: list[str], default: str | None, *, is_back: bool) -> None:
    """Note a host's default; what was left by going back is no way back."""
    if is_back and default in past:
        del past[past.index(default) + 1 :]
    elif default is not None and default not in past[-1:]:
        past.append(default)


def served_as_json(served: ServedState) -> dict[str, Any]:
    """For an entry's data."""
    return {"default": served.default, "versions": [asdict(version) for version in served.versions]}


def served_from(model: str, content: Mapping[str, Any]) -> ServedState:
    """Back from an entry's data. Raises AttributeError, TypeError where that is no such data."""
    versions = tuple(ServedVersion(**known_to(ServedVersion, item)) for item in content.get("versions", ()))
    default = content.get("default")
    _require(default is None or isinstance(default, str))
    for one in versions:
        _require(isinstance(one.version, str) and isinstance(one.archive, str))
        numbers = (one.ready, one.workers, one.batch_size, one.response_timeout, one.memory)
        _require(all(type(number) is int and number >= 0 for number in numbers))
    return ServedState(model, default, versions)


def _require_plan(planned: Mapping[str, Any]) -> None:
    """Raise AttributeError, TypeError for the data of a `planned` that nobody could go on with."""
    for key in ("kind", "version", "file", "sha256", "archive"):
        _require(isinstance(planned.get(key, ""), str))
    _require(_is_name(planned.get("file", "x")))
    _require(_are_texts(planned.get("hosts", [])))
    _require(all(_are_texts(steps) for steps in planned.get("steps", {}).values()))
    _require(_are_texts(list(planned.get("targets", {}).values())))
    _require(all(type(count) is int for count in planned.get("workers", {}).values()))
    for content in planned.get("served", {}).values():
        served_from("", content)
    Options.from_json(planned.get("options", {}))


def _is_name(file: str) -> bool:
    """Whether it is a file's own name: what is undone is removed, and nothing outside of the store."""
    return file.isprintable() and file not in {"", ".", ".."} and "/" not in file


def _are_texts(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(one, str) for one in found)


def _require(is_so: bool) -> None:
    if not is_so:
        raise TypeError("not what torchmar writes")
