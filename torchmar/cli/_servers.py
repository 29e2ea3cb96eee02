"""Finds the servers of a command: by options, by the environment, or by what runs or is configured here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

from ..connection import Target
from ..errors import ReleaseError
from ._options import Option
from ._output import print_note

if TYPE_CHECKING:
    from ..client import Server
    from ..release import Fleet
    from ._events import EventPrinter

_ONE, _SEVERAL = "Which server", "Which servers"  # panels of the help


@dataclass(frozen=True)
class ServerOptions(Target):
    """Holds the options of every command that talks to a server: the fields of a Target."""

    timeout: Annotated[float, Option("Seconds to wait for a response.", _ONE, min=0.1)] = 30.0

    def connect(
        self, environment: Mapping[str, str] = os.environ, on_note: Callable[[str], None] = print_note
    ) -> Server:
        """Return clients of the server. Raises ClientError."""
        return super().connect(environment, on_note)


@dataclass(frozen=True)
class FleetOptions(ServerOptions):
    """Holds the options of every command that changes, or shows, what is served."""

    hosts: Annotated[
        Path | None, Option("YAML file with several servers; see docs/releases.md.", _SEVERAL)
    ] = None
    store: Annotated[
        Path | None, Option("The server's model store, if torchmar cannot find it.", _SEVERAL)
    ] = None
    journal: Annotated[
        Path | None,
        Option("Folder of the journals; by default releases/ in --dir or beside --hosts.", _SEVERAL),
    ] = None

    @contextmanager
    def fleet(
        self, printer: EventPrinter | None = None, *, model: str | None = None, go_without: bool = False
    ) -> Iterator[Fleet]:
        """Connect to the servers. Raises ClientError, ReleaseError.

        With `go_without`, servers of a file that do not answer are `missing` in the fleet. A refusal gets a
        remedy if the command is about one `model`.
        """
        from ..client import remedied
        from ..manage import open_fleet

        if self.hosts is not None:
            self._require_nothing_besides_hosts()
        with (
            open_fleet(
                self,
                hosts=self.hosts,
                store=self.store,
                journals=self.journal,
                go_without=go_without,
                connect=lambda target: target.connect(os.environ, print_note),
            ) as fleet,
            nullcontext() if model is None else remedied(servers_of(fleet), model),
        ):
            if printer is None:
                yield fleet
            else:
                yield replace(fleet, on_entry=printer, on_progress=printer.note_progress)

    def of_each(self, facts: Mapping[str, dict[str, Any]]) -> Any:
        """Return the facts for JSON: of the one server, or of each server of a file, with its name."""
        if self.hosts is None:
            [only] = facts.values()
            return only
        return [{"host": name, **found} for name, found in facts.items()]

    def at(self, host: str) -> str:
        """Return how a line about a server begins: with its name, if a file names several servers."""
        return "" if self.hosts is None else f"{host}: "

    @property
    def as_typed(self) -> str:
        """Return the options that a suggested command needs to reach the same servers."""
        words = []
        for name, value in self._given().items():
            words += [_option(name)] if value is True else [_option(name), str(value)]
        return "".join(f" {quote(word)}" for word in words)

    def _given(self) -> dict[str, Any]:
        """Return the options about servers that were typed, or set by a variable."""
        values = ((item, getattr(self, item.name)) for item in fields(self) if item.name != "timeout")
        return {item.name: value for item, value in values if value != item.default}

    def _require_nothing_besides_hosts(self) -> None:
        """Raise ReleaseError for options of one server, which would be ignored beside --hosts."""
        given = [name for name in self._given() if name not in {"directory", "hosts", "journal"}]
        if given:
            options = ", ".join(map(_option, given))
            raise ReleaseError(
                f"{options}: for one server, and --hosts names several: write `{given[0]}:` for each in "
                f"{self.hosts}, and leave out the option and its variable TORCHMAR_…"
            )


def servers_of(fleet: Fleet) -> dict[str, Server]:
    """Return the clients of each host, by its name."""
    return {host.name: host.server for host in fleet.hosts}


def _option(field: str) -> str:
    """Return the option of a field of FleetOptions, as it is typed."""
    return "--dir" if field == "directory" else "--" + field.replace("_", "-")
