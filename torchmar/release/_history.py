"""Fold a journal's entries: what was done, what is unfinished, and the desired state of each host."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import ReleaseError, ReleaseInconclusive
from ._fleet import ServedState, ServedVersion
from ._journal import Entry, Journal, read
from ._options import Options

Step = tuple[str, str]
"""Host and name of a step."""

REFUSED = "refused"
"""The outcome of what was refused before anything was done, as of a mistyped version: it makes no Record."""


@dataclass
class Planned:
    """Holds the data of `planned`: what is about to be done, where, and what the hosts `served` before.

    `kind` is release, rollback, retire, reconcile, or the name of a command by hand. `version` is what it is
    about, `file` the name of its archive in a store. The `hosts` are in the order in which they are changed.
    `workers`, `steps`, and the `targets` of a rollback are by host.
    """

    kind: str = "release"
    version: str = ""
    file: str | None = None
    sha256: str = ""
    archive: str = ""
    hosts: tuple[str, ...] = ()
    served: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    steps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Record(Planned):
    """Holds what the entries of one release, rollback or the like say.

    `silent` are the steps among `failed` that the server may still carry out, as it has not answered. `sent`
    counts the requests that the candidate has got from the release, by host; `traffic` is what the gate
    counted before the switch.
    """

    id: str = ""
    begun: set[Step] = field(default_factory=set)
    done: set[Step] = field(default_factory=set)
    failed: set[Step] = field(default_factory=set)
    silent: set[Step] = field(default_factory=set)
    sent: dict[str, int] = field(default_factory=dict)
    traffic: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    outcome: str | None = None
    reason: str = ""
    finished_at: str = ""

    def require_file(self) -> str:
        """Return the archive's name in a store. Raises ReleaseError where the journal lacks it."""
        if self.file is None:
            raise ReleaseError(f"the journal does not say which file {self.version} is ({self.id})")
        return self.file

    def has_planned(self, *steps: str) -> bool:
        """Return whether a step whose name begins so is planned on any host."""
        return any(step.startswith(steps) for planned in self.steps.values() for step in planned)

    @property
    def is_undoing(self) -> bool:
        """Whether its undoing has begun, or is due because a step failed."""
        return bool(self.failed) or any(step.startswith("undo") for _, step in self.begun)

    def has_begun(self, host: str, *steps: str) -> bool:
        """Return whether a step whose name begins so was begun on a host."""
        return any(name == host and step.startswith(steps) for name, step in self.begun)

    def may_be_registering(self, host: str) -> bool:
        """Return whether the server may still register the candidate: its answer was not heard."""
        step = (host, "register")
        return step in self.begun and step not in self.done | (self.failed - self.silent)

    def served_before(self, host: str, model: str) -> ServedState:
        """Return what the host served when this was planned."""
        return ServedState.from_json(model, self.served.get(host, {}))

    def note(self, entry: Entry) -> None:
        """Add an entry of a step, or the last one."""
        if entry.event == "finished":
            self.outcome = str(entry.data.get("outcome", "finished"))
            self.reason, self.finished_at = str(entry.data.get("reason", "")), entry.at
            return
        steps = {"begin": self.begun, "done": self.done, "failed": self.failed}.get(entry.event)
        if steps is None:
            return
        steps.add((entry.host, entry.step))
        if entry.data.get("silent"):
            self.silent.add((entry.host, entry.step))
        self.sent[entry.host] = self.sent.get(entry.host, 0) + int(entry.data.get("sent", 0))
        if "traffic" in entry.data:
            self.traffic[entry.host] = entry.data["traffic"]


@dataclass
class History:
    """Holds what a journal says: every record, and the desired state of each host.

    `defaults` are each host's default versions, oldest first; versions that were rolled back are removed.
    `last_ready` is, by host and version, how a version was when it had a worker last, retired ones too.
    """

    model: str
    records: list[Record] = field(default_factory=list)
    served: dict[str, ServedState] = field(default_factory=dict)
    defaults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    last_ready: dict[Step, ServedVersion] = field(default_factory=dict)

    def desired(self, host: str) -> ServedState:
        """Return what a host should serve; nothing where the journal does not know it."""
        return self.served.get(host, ServedState(self.model))

    def still_desired(
        self,
        host: str,
        before: ServedState,
        now: ServedState,
        *,
        gone: str | None = None,
        sets_default: bool = False,
    ) -> ServedState:
        """Return what a host should serve after a change; `before` it and `now` are what it serves.

        What was not served before, as after a restart, was not taken away by the change: it is desired still,
        but for the version `gone`. So is the default, unless the change `sets_default`: TorchServe makes the
        default whatever is registered first.
        """
        known = self.desired(host)
        lost = [one for one in known.versions if before.get(one.version) is None and one.version != gone]
        now = now.with_versions(lost)
        is_lost = known.default not in {None, gone} and before.get(known.default) is None
        return replace(now, default=known.default) if is_lost and not sets_default else now

    def record(self, key: str) -> Record:
        """Return the record with this id. Raises KeyError."""
        for one in reversed(self.records):  # most entries are of the last one
            if one.id == key:
                return one
        raise KeyError(key)

    @property
    def unfinished(self) -> Record | None:
        """The last release if it is unfinished. Whatever else was interrupted can be done again."""
        releases = [record for record in self.records if record.kind == "release"]
        return releases[-1] if releases and releases[-1].outcome is None else None

    def require_finished(self) -> None:
        """Raise ReleaseError where a release is unfinished."""
        if self.unfinished is not None:
            raise ReleaseError(
                f"{self.model}: the release of {self.unfinished.version} ({self.unfinished.id}) is "
                f"unfinished: `torchmar resume {self.model}` goes on with it, `torchmar rollback "
                f"{self.model}` undoes it"
            )

    @property
    def last_switch(self) -> Record | None:
        """The last record that has changed the default, or was to."""
        switches = [
            record
            for record in self.records
            if record.kind in {"rollback", "set-default"}
            or (record.kind == "release" and record.outcome == "promoted")
        ]
        return switches[-1] if switches else None

    @property
    def rollback_targets(self) -> Mapping[str, str]:
        """The version that each host goes back to in a rollback that was interrupted; else empty."""
        last = self.last_switch
        if last is None or last.kind != "rollback" or last.outcome is not None:
            return {}
        return last.targets

    def fold(self, entry: Entry) -> None:
        """Add an entry.

        Raises AttributeError, KeyError, TypeError, ValueError for what torchmar does not write.
        """
        if entry.event == "planned":
            record = Record(**vars(_planned(entry.data)), id=entry.release)
            self.records.append(record)
            for host, content in record.served.items():
                self.served.setdefault(host, ServedState.from_json(self.model, content))
            return
        record = self.record(entry.release)
        if entry.event == "served":
            self._serve(record, entry.host, ServedState.from_json(self.model, entry.data))
        else:
            record.note(entry)
        if record.outcome == REFUSED:
            self.records.remove(record)

    def _serve(self, record: Record, host: str, now: ServedState) -> None:
        self.served[host] = now = self.with_desired_workers(host, now)
        self.last_ready |= {(host, one.version): one for one in now.versions if one.ready}
        is_undone = record.has_begun(host, "undo")
        past = self.defaults.get(host, ())
        if (is_undone or record.kind == "rollback") and now.default in past:
            past = past[: past.index(now.default) + 1]  # nobody goes back to a version that was rolled back
        elif now.default is not None and now.default not in past[-1:]:
            past = (*past, now.default)
        elif is_undone and now.default is None and past[-1:] == (record.version,):
            past = past[:-1]  # nor to a first version that failed
        self.defaults[host] = past

    def with_desired_workers(self, host: str, now: ServedState) -> ServedState:
        """Count the workers of a version that were all restarting just then: it has answered before."""
        versions = []
        for one in now.versions:
            is_restarting = not one.ready and (host, one.version) in self.last_ready
            versions.append(replace(one, ready=one.workers) if is_restarting else one)
        return replace(now, versions=tuple(versions))


def history(journal: Journal) -> History:
    """Fold a journal's entries. Raises ReleaseError where it cannot be read."""
    found = History(journal.model)
    for entry in journal.entries():
        with suppress(AttributeError, KeyError, TypeError, ValueError):  # edited by hand: it says nothing
            found.fold(entry)
    return found


def outcome_of(error: BaseException) -> str:
    """Return the outcome of what an error has ended."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "inconclusive" if isinstance(error, ReleaseInconclusive) else "failed"


def _planned(content: Mapping[str, Any]) -> Planned:
    """Return what is planned. Raises AttributeError, TypeError for what nobody could go on with."""
    found = read(Planned, content)
    file = found.file
    # A file's own name: what is undone is removed, and nothing outside of the store.
    if file is not None and (file in {"", ".", ".."} or "/" in file or not file.isprintable()):
        raise TypeError("not what torchmar writes")
    for served in found.served.values():
        ServedState.from_json("", served)
    read(Options, found.options)
    return found
