"""A site of servers in memory, and journals in any state: what releases are tested by.

The servers are those of tests/fake_server.py; what real ones do is held by tests/live/test_release*.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from torchmar.mar import Archive
from torchmar.release import Fleet, Host, Options, ServedVersion, observe
from torchmar.release._journal import Writer

from ..fake_server import NAME, Clock, Fake, as_server, version, worker

__all__ = [
    "ARCHIVE",
    "NAME",
    "QUICK",
    "Clock",
    "Fake",
    "FleetOf",
    "as_server",
    "released",
    "served_version",
    "serving",
    "unfinished",
    "version",
    "worker",
    "write",
]

QUICK = Options(longest=0.2, watch=0)
ARCHIVE = Archive(
    path=Path("m-2.0.mar"),
    sha256="",
    size=0,
    manifest={"model": {"modelName": "m", "modelVersion": "2.0"}},
    config={},
    files=(),
    digests=None,
    build=None,
    parity=None,
)


def served_version(number: str, ready: int = 1) -> ServedVersion:
    return ServedVersion(number, f"m-{number}.mar", ready, 1)


FleetOf = Callable[..., Fleet]


def serving(default: str, *numbers: str, name: str = "local") -> Fake:
    return Fake(name, default, {number: version(number) for number in numbers})


def write(fleet: Fleet, kind: str = "release", number: str = "2.0", **planned: Any) -> Writer:
    """A record begins: what is served now is journaled."""
    fleet.folder.mkdir(exist_ok=True)
    writer = fleet.writer("m", f"{len(fleet.journal('m').entries()):03}")
    before = {host.name: observe(host.server, "m").as_json() for host in fleet.hosts}
    writer.write(
        "planned",
        kind=kind,
        version=number,
        hosts=list(before),
        served=before,
        file=f"m-{number}.mar",
        **{"options": QUICK.as_json(), **planned},
    )
    for host in fleet.hosts:
        note_served(writer, host)
    return writer


def note_served(writer: Writer, host: Host) -> None:
    """What it serves now is what it should serve."""
    writer.write("served", host.name, **observe(host.server, "m").as_json())


def released(fleet: Fleet, *numbers: str) -> None:
    """Releases that were promoted, each with a version that is registered beside the others."""
    for number in numbers:
        writer = write(fleet, number=number)
        for host in fleet.hosts:
            fake = cast("Fake", host.server)
            fake.all[number] = version(number)
            fake.default = number
            note_served(writer, host)
        writer.write("finished", outcome="promoted")


def unfinished(fleet: Fleet, *steps: str, number: str = "2.0", **planned: Any) -> None:
    """A release that was killed after these steps were begun."""
    writer = write(fleet, number=number, **planned)
    for host in fleet.hosts:
        for step in steps:
            writer.write("begin", host.name, step)
