"""A TorchServe with one model, in memory: its three clients say and raise what they do before a real one.

tests/live/test_fake_agrees.py holds it to that: each test there runs against this server and a live one. A
test that needs what no server does by itself sets its fields, or overrides a method.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import requests

from torchmar.client import (
    JobQueue,
    Management,
    ModelEntry,
    ModelVersion,
    NoTokens,
    Prediction,
    Sample,
    Server,
    Timeouts,
    WorkerStatus,
)
from torchmar.client._http import ManagementTransport
from torchmar.client._metrics import parse
from torchmar.errors import (
    AlreadyRegistered,
    ArchiveNotInStore,
    BadAnswer,
    ConnectionFailed,
    IsDefaultVersion,
    ModelNotFound,
    NoWorker,
)

if TYPE_CHECKING:
    from typing_extensions import Self

NAME = "ts_inference_requests_total"
COUNTERS = (NAME, "ts_queue_latency_microseconds", "ts_inference_latency_microseconds")


class Clock:
    """A clock that only `sleep` moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def worker(number: int = 0, *, ready: bool = True, pid: int = 100) -> WorkerStatus:
    return WorkerStatus(str(9000 + number), ready, pid, datetime.now(timezone.utc), 0, gpu=False)


def version(
    name: str = "1.0",
    *,
    pending: int = 0,
    workers: tuple[WorkerStatus, ...] = (worker(),),
    model: str = "m",
) -> ModelVersion:
    """A version as it is registered from an archive whose model-config.yaml says just these four numbers."""
    return ModelVersion(
        name=model,
        version=name,
        archive=f"{model}-{name}.mar",
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


@dataclass
class Fake(Management):
    """A server with one model in memory, which is its own three clients; its workers start and end at once.

    `all` are its versions, which a test may replace between two acts; `acts` are the calls that change
    something. Its store has an archive of every version but those that are `missing`; `min_workers` are those
    of their model-config.yaml, by version. `answers` are those to our clients, by the first digit of their
    status, and `requests` the predictions by the version that was asked for, or `default`.
    """

    name: str = "local"
    default: str | None = None
    all: dict[str, ModelVersion] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    is_down: bool = False
    answers: Counter[int] = field(default_factory=Counter)
    model: str = "m"
    min_workers: Mapping[str, int] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    answer: Callable[[str], bytes] = lambda version: version.encode()
    clock: Clock = field(default_factory=Clock)
    address: str = "http://127.0.0.1:8080"
    processes: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    def __post_init__(self) -> None:
        # A call that is not faked goes to no address, which is an error.
        nowhere = ManagementTransport(None, requests.Session(), NoTokens(), "management", Timeouts())
        super().__init__(nowhere, clock=self._now, sleep=self._pass)

    def _now(self) -> float:
        return self.clock()

    def _pass(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def forget(self) -> None:
        """The server was restarted, and remembers nothing."""
        self.all, self.default = {}, None

    # -- as a Server ----------------------------------------------------------------------------

    @property
    def management(self) -> Self:
        if self.is_down:
            raise ConnectionFailed(f"{self.name}: nothing listens there")
        return self

    @property
    def metrics(self) -> Self:
        return self.management

    @property
    def inference(self) -> Self:
        return self.management

    # -- as Management --------------------------------------------------------------------------

    def register(
        self,
        archive: str,
        *,
        name: str | None = None,
        initial_workers: int | None = None,
        batch_size: int | None = None,
        max_batch_delay: int | None = None,
        response_timeout: int | None = None,
        startup_timeout: int | None = None,
        handler: str | None = None,
    ) -> None:
        assert name in {None, self.model}, "one model is served here"
        assert handler is None
        if archive in self.missing or not archive.startswith(f"{self.model}-"):
            raise ArchiveNotInStore(f"POST /models: {archive}", status=404)
        number = archive.removeprefix(f"{self.model}-").removesuffix(".mar")
        if number in self.all:
            raise AlreadyRegistered(f"POST /models: {number} is registered", status=409)
        self.acts.append(f"register {number}")
        # What the archive says of timeouts wins over the call, and what the call says of batches over it.
        made = version(number, workers=(), model=self.model)
        self.all[number] = replace(
            made,
            archive=archive,
            batch_size=batch_size or made.batch_size,
            max_batch_delay=made.max_batch_delay if max_batch_delay is None else max_batch_delay,
        )
        self._set_workers(number, self.min_workers.get(number, initial_workers or 0))
        self.default = self.default or number

    def describe(self, name: str, version: str | None = None, *, customized: bool = False) -> ModelVersion:
        assert not customized, "a handler has to be asked for that"
        return self._found("GET", name, version)

    def versions(self, name: str) -> list[ModelVersion]:
        self._found("GET", name, None)
        return list(self.all.values())

    def models(self, *, page_size: int = 100) -> Iterator[ModelEntry]:
        if self.default is not None:
            yield ModelEntry(self.model, self.all[self.default].archive)

    def scale(self, name: str, workers: int, version: str | None = None) -> None:
        number = self._found("PUT", name, version).version
        self.acts.append(f"scale {number} {workers}")
        self._set_workers(number, workers)

    def set_default(self, name: str, version: str) -> None:
        self._found("PUT", name, version)
        self.acts.append(f"default {version}")
        self.default = version

    def unregister(self, name: str, version: str | None = None) -> None:
        number = self._found("DELETE", name, version).version
        if number == self.default and len(self.all) > 1:
            raise IsDefaultVersion(f"DELETE /models/{name}: {number} is the default version", status=403)
        self.acts.append(f"unregister {number}")
        del self.all[number]
        if not self.all:
            self.default = None

    def _found(self, method: str, name: str, number: str | None) -> ModelVersion:
        number = self.default if number is None else number
        if name != self.model or number is None or number not in self.all:
            raise ModelNotFound(f"{method} /models/{name}: no such model, or version", status=404)
        return self.all[number]

    def _set_workers(self, number: str, count: int) -> None:
        """The newest end, and others are started beside those that are there, dead or not."""
        there = self.all[number].workers[:count]
        ids = {one.id for one in there}
        free = (one for one in map(worker, range(1000)) if one.id not in ids)
        added = tuple(replace(next(free), pid=next(self.processes)) for _ in range(count - len(there)))
        self.all[number] = replace(
            self.all[number], workers=there + added, min_workers=count, max_workers=count
        )

    # -- as Inference ---------------------------------------------------------------------------

    def ping(self) -> bool:
        return True

    def predict(
        self,
        name: str,
        data: bytes | str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        fields: Mapping[str, str | bytes | Path] | None = None,
        version: str | None = None,
        key: str | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        asked = version or "default"
        try:
            described = self._found("POST", name, version)
            self.requests[asked] += 1
            if not described.ready_workers:
                raise NoWorker(f"POST /predictions/{name}: no worker", status=503)
        except BadAnswer as error:
            self.answers[error.status // 100] += 1
            raise
        self.answers[2] += 1
        self.answered[asked] += 1
        return Prediction(200, self.answer(described.version), "", "", 0.0, version)

    # -- as Metrics -----------------------------------------------------------------------------

    def text(self) -> str:
        """A metric is named from the beginning; it has a value when something was counted."""
        counted = {NAME: self.requests}  # the others add up microseconds: one for each answer
        lines = [f"# TYPE {name} counter" for name in COUNTERS]
        for name in COUNTERS:
            for number, value in counted.get(name, self.answered).items():
                labels = f'model_name="{self.model}",model_version="{number}",hostname="h",'
                lines.append(f"{name}{{{labels}}} {float(value)}")
        for kind, value in self.answers.items():
            lines.append(f'Requests{kind}XX{{Level="Host",Hostname="h",}} {float(value)}')
        return "\n".join([*lines, ""])

    def samples(self) -> list[Sample]:
        return parse(self.text())


def as_server(fake: Fake) -> Server:
    """A fake in the place of the clients of a server."""
    return cast("Server", fake)
