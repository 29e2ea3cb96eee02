"""The servers that a model is served by, and where it is written down what they serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ClientError, ReleaseError
from ._history import Record, served_as_json
from ._host import Host, observe
from ._journal import Entry, Journal, JournalFull, ignore
from ._options import Options
from ._state import ServedState
from .workers import WaitPolicy

_PAUSE = 1.0  # seconds before a server that has not answered is asked again


@dataclass(frozen=True)
class Fleet:
    """All hosts, in the order in which they are released to; `folder` holds the journals.

    `missing` are hosts that cannot be reached, by name, and why: what goes on without them goes on.

    `on_entry` is called for every entry that was journaled; what it raises is nobody's concern here.

    `nginx_reload` is the command that has nginx read its file. It is not taken from a journal: whoever may
    write one would run commands as whoever resumes a release or rolls it back.
    """

    hosts: tuple[Host, ...]
    folder: Path
    on_entry: Callable[[Entry], None] = ignore
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    missing: Mapping[str, str] = field(default_factory=dict)
    nginx_reload: str | None = None

    def journal(self, model: str) -> Journal:
        """The journal of a model."""
        return Journal(self.folder, model, on_entry=self.on_entry)

    def host(self, name: str) -> Host:
        """One of the hosts. Raises ReleaseError for one that the journal knows and this site does not."""
        for host in self.hosts:
            if host.name == name:
                return host
        if name in self.missing:
            raise ReleaseError(self.missing[name])
        known = ", ".join(host.name for host in self.hosts)
        raise ReleaseError(
            f"the journal speaks of the host {name!r}, which is not among {known}: give --hosts"
        )

    def pace(self, options: Options) -> WaitPolicy:
        """How a version is drained in a release with these options."""
        return WaitPolicy(options.longest, options.drain_timeout, self.clock, self.sleep)

    def hosts_of(self, record: Record) -> list[Host]:
        """Those that a record is about."""
        return [self.host(name) for name in record.hosts]


class Writer:
    """What one release, rollback or the like writes into a journal.

    A way back goes on also where the journal's disk is full: `unwritten` says so then, and is '' else.
    """

    def __init__(self, fleet: Fleet, journal: Journal, record_id: str, *, is_way_back: bool = False) -> None:
        self.journal = journal
        self.id = record_id
        self.is_way_back = is_way_back
        self.unwritten = ""
        self._clock = fleet.clock
        self._sleep = fleet.sleep

    @classmethod
    def planned(
        cls,
        fleet: Fleet,
        journal: Journal,
        kind: str,
        served: Mapping[str, ServedState],
        *,
        hosts: Sequence[str] | None = None,
        **more: Any,
    ) -> Writer:
        """A new record, of what will be done to `hosts`, by default those of which `served` tells what they
        serve before. Raises ReleaseError.
        """
        writer = cls(fleet, journal, journal.new_id(), is_way_back=kind == "rollback")
        before = {name: served_as_json(one) for name, one in served.items()}
        writer.write(
            "planned", kind=kind, hosts=list(served if hosts is None else hosts), served=before, **more
        )
        return writer

    def write(self, event: str, host: str = "", step: str = "", **data: Any) -> None:
        """One entry. Raises ReleaseError."""
        try:
            self.journal.append(self.id, event, host=host, step=step, is_way_back=self.is_way_back, **data)
        except JournalFull as error:
            self.unwritten = str(error)

    @contextmanager
    def act(self, host: str, step: str) -> Iterator[dict[str, Any]]:
        """`begin` before and `done` after what is done inside, with what that puts into the dict."""
        self.write("begin", host, step)
        begin = self._clock()
        told: dict[str, Any] = {}
        yield told
        self.write("done", host, step, **told, seconds=round(self._clock() - begin, 3))

    def served(self, host: Host, served: ServedState | None = None) -> None:
        """What a host is to serve from now on; by default what it serves now."""
        now = observe(host.server, self.journal.model) if served is None else served
        self.write("served", host.name, **served_as_json(now))

    def seen(self, host: Host, known: ServedState | None = None) -> ServedState:
        """What a host serves after it was changed: it is asked twice, and then `known` is taken for it.

        One slow answer to such a question is no reason to undo what succeeded. Raises ClientError where
        nothing is known.
        """
        with suppress(ClientError):
            return observe(host.server, self.journal.model)
        self._sleep(_PAUSE)
        try:
            return observe(host.server, self.journal.model)
        except ClientError:
            if known is None:
                raise
            return known
