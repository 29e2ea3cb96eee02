"""Servers in memory, with one model, that can be brought into any state between two acts, and be down in any.

What real ones do is held by tests/live/test_release*.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torchmar.client import JobQueue, Management, ModelEntry, ModelVersion, Sample, WorkerStatus
from torchmar.errors import ArchiveNotInStore, ClientError, ConnectionFailed, ModelNotFound
from torchmar.mar import Archive
from torchmar.release import Fleet, Host, Options, ServedVersion, observe
from torchmar.release._journal import Writer

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "ts_inference_requests_total"
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


def worker(number: int = 0, *, ready: bool = True, pid: int = 100) -> WorkerStatus:
    return WorkerStatus(str(9000 + number), ready, pid, datetime.now(timezone.utc), 0, gpu=False)


def version(
    name: str = "1.0", *, pending: int = 0, workers: tuple[WorkerStatus, ...] = (worker(),)
) -> ModelVersion:
    return ModelVersion(
        name="m",
        version=name,
        archive=f"m-{name}.mar",
        runtime="python",
        min_workers=len(workers),
        max_workers=len(workers),
        batch_size=8,
        max_batch_delay=500,
        response_timeout=10,
        startup_timeout=60,
        max_retry_timeout=0,
        device_type="cpu",
        loaded_at_startup=False,
        workers=workers,
        queue=JobQueue(100, pending),
        customized=None,
        raw={},
    )


class ItsOwnClients:
    """A server whose three clients are itself."""

    @property
    def management(self) -> Self:
        return self

    @property
    def metrics(self) -> Self:
        return self

    @property
    def inference(self) -> Self:
        return self


class BringsUp:
    """What the client itself makes of calls: by the client's own code, over the calls of a fake."""

    bring_up = Management.bring_up
    take_away = Management.take_away
    register_patiently = Management.register_patiently
    appears = Management.appears
    _has = Management._has
    _clock: Callable[[], float] = staticmethod(time.monotonic)
    _sleep = staticmethod(time.sleep)


def served_version(number: str, ready: int = 1) -> ServedVersion:
    return ServedVersion(number, f"m-{number}.mar", ready, 1)


@dataclass
class Fake(ItsOwnClients, BringsUp):
    """A server with the model `m` in memory; its workers start and end at once."""

    name: str = "local"
    default: str | None = None
    all: dict[str, ModelVersion] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    is_down: bool = False
    answers: dict[int, int] = field(default_factory=lambda: {2: 0, 4: 0, 5: 0})

    @property
    def management(self) -> Self:
        if self.is_down:
            raise ConnectionFailed(f"{self.name}: nothing listens there")
        return self

    address = "http://127.0.0.1:8080"

    def ping(self) -> bool:
        return True

    def text(self) -> str:
        return NAME

    def samples(self) -> list[Sample]:
        return []

    def models(self) -> list[ModelEntry]:
        return [ModelEntry("m", f"m-{self.default}.mar")] if self.all else []

    def versions(self, _name: str) -> list[ModelVersion]:
        return list(self.all.values())

    def default_version(self, _name: str) -> str:
        if self.default is None:
            raise ModelNotFound("GET /models/m: no such model", status=404)
        return self.default

    def describe(self, _name: str, number: str | None = None) -> ModelVersion:
        found = self.all.get(number or self.default_version("m"))
        if found is None:
            raise ModelNotFound("GET /models/m: no such model", status=404)
        return found

    def set_default(self, _name: str, number: str) -> None:
        self.acts.append(f"default {number}")
        self.default = number

    def scale(self, _name: str, workers: int, number: str) -> None:
        self.acts.append(f"scale {number} {workers}")
        listed = tuple(worker(number) for number in range(workers))
        self.all[number] = replace(self.all[number], workers=listed, min_workers=workers)

    def wait_until_ready(self, _name: str, number: str, **_: Any) -> ModelVersion:
        return self.all[number]

    def register(self, archive: str, *, initial_workers: int, **_: Any) -> None:
        if archive in self.missing or not archive.startswith("m-"):
            raise ArchiveNotInStore(f"POST /models: {archive}", status=404)
        number = archive.removeprefix("m-").removesuffix(".mar")
        self.acts.append(f"register {number}")
        self.all[number] = version(number, workers=tuple(worker(i) for i in range(initial_workers)))
        self.default = self.default or number

    def unregister(self, _name: str, number: str) -> None:
        self.acts.append(f"unregister {number}")
        assert number != self.default or len(self.all) == 1
        if self.all.pop(number, None) is None:
            raise ModelNotFound(f"DELETE /models/m/{number}: no such version", status=404)
        if not self.all:
            self.default = None

    def wait_until_gone(self, _name: str, number: str, *, timeout: float = 30.0) -> None:
        if number in self.all:
            raise ClientError(f"{number}: still registered after {timeout:g} s")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


FleetOf = Callable[..., Fleet]


def serving(default: str, *numbers: str, name: str = "local") -> Fake:
    return Fake(name, default, {number: version(number) for number in numbers})


def write(fleet: Fleet, kind: str = "release", number: str = "2.0", **planned: Any) -> Writer:
    """A record begins: what is served now is journaled."""
    fleet.folder.mkdir(exist_ok=True)
    journal = fleet.journal("m")
    writer = fleet.writer(journal, f"{len(journal.entries()):03}")
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
