"""Call the management API: register, describe, list, scale, set default, unregister, wait until ready."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..errors import (
    ClientError,
    ModelNotFound,
    NoAnswer,
    RegistrationPending,
    ServerFailed,
    TimedOut,
    WorkerFailedToLoad,
    WorkersNotReady,
)
from ..names import name_problem, named, shown
from ._answers import json_of, understood
from ._http import ManagementTransport, path_of
from ._time import parse_instant

_READY_TIMEOUT = 120.0  # seconds
_PAUSE = 0.2  # seconds between two looks
_GONE = 5.0  # seconds for a version to disappear after an unregister call that failed


@dataclass(frozen=True)
class ModelEntry:
    """One line of the list of models: a name and the archive of its default version."""

    name: str
    archive: str


@dataclass(frozen=True)
class WorkerStatus:
    """Describes one worker. `memory_usage` is in bytes; `pid` is -1 until its process reports.

    `start_time` is the first start: a restart after a crash does not change it.
    """

    id: str
    ready: bool
    pid: int
    start_time: datetime
    memory_usage: int
    gpu: bool


@dataclass(frozen=True)
class JobQueue:
    """Counts the requests that wait for a worker. TorchServe counts no requests that a worker holds."""

    remaining_capacity: int
    pending_requests: int


@dataclass(frozen=True)
class ModelVersion:
    """Describes one version of a model, as the server reports it. Delays are in ms, timeouts in s."""

    name: str
    version: str
    archive: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: int
    startup_timeout: int
    max_retry_timeout: int
    device_type: str
    loaded_at_startup: bool
    workers: tuple[WorkerStatus, ...]
    queue: JobQueue
    customized: Mapping[str, Any] | None
    raw: Mapping[str, Any]

    def __str__(self) -> str:
        return named(self.name, self.version)

    @property
    def answer_bound(self) -> float:
        """Return the seconds within which a request from the queue gets a response, even if an error.

        A worker first waits for others to fill the batch. A response in parts may take longer: the server's
        timeout restarts with each part.
        """
        return self.response_timeout + self.max_batch_delay / 1000

    @property
    def ready_workers(self) -> int:
        """Return how many workers are READY."""
        return sum(worker.ready for worker in self.workers)


Reason = Callable[[str, str, datetime], str | None]
"""Maps (name, version, since) to what killed a worker while loading: '' if unknown, None if none died."""


def no_reason(_name: str, _version: str, _since: datetime) -> None:
    """Return None: this server's log is out of reach."""


class Management:
    """Calls the management address of one server. Let one caller at a time change a model."""

    def __init__(
        self,
        transport: ManagementTransport,
        *,
        reason: Reason = no_reason,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._reason = reason
        self._clock = clock
        self._sleep = sleep

    @property
    def address(self) -> str:
        """Return the base URL."""
        return self._transport.address

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
        """Register a file of the server's model store, or a URL that it allows. Workers start by themselves.

        The call is asynchronous and uses the query string: a synchronous call blocks a thread that also
        serves predictions, and a JSON body without max_batch_delay breaks batching. The archive's minWorkers
        in model-config.yaml wins over `initial_workers` (use `scale`), and so do its timeouts, but not what
        it says of batches. `max_batch_delay` is in ms, timeouts
        are in s.

        Raises ArchiveNotInStore, AlreadyRegistered, NotAllowed; ClientError for a `name` that nobody could
        manage, and for values that TorchServe would misread.
        """
        if not isinstance(archive, str) or not archive.strip():
            raise ClientError(f"found {archive!r} for an archive, expected a file name in the model store")
        problem = None if name is None else name_problem(name)
        if problem is not None:
            raise ClientError(f"{problem}. Give it another name")
        _require_whole("initial_workers", initial_workers, 0)
        _require_whole("batch_size", batch_size, 1)
        _require_whole("max_batch_delay", max_batch_delay, 0)
        _require_whole("response_timeout", response_timeout, 1)
        _require_whole("startup_timeout", startup_timeout, 1)
        params = {
            "url": archive,
            "model_name": name,
            "initial_workers": initial_workers,
            "batch_size": batch_size,
            "max_batch_delay": max_batch_delay,
            "response_timeout": response_timeout,
            "startup_timeout": startup_timeout,
            "handler": handler,
            "synchronous": False,
        }
        self._transport.call("POST", "/models", params=params)

    def describe(self, name: str, version: str | None = None, *, customized: bool = False) -> ModelVersion:
        """Return one version, by default the default version.

        `customized` asks the handler, so it needs a worker.

        Raises ModelNotFound.
        """
        params = {"customized": True} if customized else None
        found = self._describe(name, version, params)
        if version == "all":  # TorchServe reads it as every version, but a version may bear that name
            found = [one for one in found if one.version == version]
            if not found:
                raise ModelNotFound(f"{shown(name)}: has no version 'all'", status=404)
        with understood(self.address):
            return found[0]

    def versions(self, name: str) -> list[ModelVersion]:
        """Return all versions of a model, in no particular order: TorchServe keeps none."""
        return self._describe(name, "all", None)

    def default_version(self, name: str) -> str:
        """Return the version that serves requests without a version."""
        return self.describe(name).version

    def models(self, *, page_size: int = 100) -> Iterator[ModelEntry]:
        """Yield all models. Asks for `page_size` models at a time, at most 100.

        A model may have a name that no request can express; any call with that name raises UnmanageableName.
        """
        _require_whole("page_size", page_size, 1)
        return self._pages(page_size)

    def _pages(self, page_size: int) -> Iterator[ModelEntry]:
        token: str | None = None
        while True:
            page = json_of(
                self._transport.call("GET", "/models", params={"limit": page_size, "next_page_token": token})
            )
            with understood(self.address):
                entries = [ModelEntry(entry["modelName"], entry["modelUrl"]) for entry in page["models"]]
                following = page.get("nextPageToken")
            yield from entries
            if following is None or following == token:
                return
            token = following

    def scale(self, name: str, workers: int, version: str | None = None) -> None:
        """Ask for this many workers. Asynchronous: follow with `wait_until_ready`.

        Scaling down kills the newest workers at once. Another worker repeats their requests, or they fail
        with WorkerDied. At 0 workers, the queue's requests never get a response.
        """
        _require_whole("workers", workers, 0)
        params = {"min_worker": workers, "max_worker": workers}
        self._transport.call("PUT", _model_path(name, version), params=params)

    def set_default(self, name: str, version: str) -> None:
        """Make a version the default version. TorchServe does not check that it has workers."""
        self._transport.call("PUT", path_of("models", name, version) + "/set-default")

    def unregister(self, name: str, version: str | None = None) -> None:
        """Remove a version and kill its workers at once. Requests in its queue never get a response.

        The call returns before the version is gone; `take_away` waits. Raises IsDefaultVersion for the
        default version while there are others.
        """
        self._transport.call("DELETE", _model_path(name, version))

    def bring_up(
        self,
        archive: str,
        model: str,
        version: str,
        workers: int,
        *,
        timeout: float | None = None,
        sleep: Callable[[float], None] | None = None,
        **registration: Any,
    ) -> ModelVersion:
        """Give a version exactly `workers` READY workers: register it if need be, scale it, and wait.

        `timeout` in seconds applies first to the registration, then to the workers. None allows the version's
        startup timeout, but at least 120 s. `registration` goes to `register`. Raises what
        `register_patiently` and `wait_until_ready` raise.
        """
        patience = _READY_TIMEOUT if timeout is None else timeout
        if not self._has(model, version):
            self.register_patiently(
                archive,
                model,
                version,
                timeout=patience,
                sleep=sleep,
                initial_workers=workers,
                **registration,
            )
        described = self.describe(model, version)
        if timeout is None:
            patience = max(patience, float(described.startup_timeout))
        if described.min_workers != workers:
            self.scale(model, workers, version)  # an archive's minWorkers wins over the register call
        return self.wait_until_ready(model, version, workers=workers, timeout=patience, sleep=sleep)

    def take_away(self, model: str, version: str) -> None:
        """Unregister a version at once, even if it still holds requests, and wait until it is gone.

        A failed response may follow a successful removal, so the call then looks again. Raises what
        `unregister` raises; ClientError if the version stays.
        """
        try:
            self.unregister(model, version)
        except (NoAnswer, ServerFailed) as error:
            try:
                self.wait_until_gone(model, version, timeout=_GONE)
            except ClientError:
                raise error from None
        else:
            self.wait_until_gone(model, version)

    def register_patiently(
        self,
        archive: str,
        model: str,
        version: str,
        *,
        timeout: float = _READY_TIMEOUT,
        sleep: Callable[[float], None] | None = None,
        **registration: Any,
    ) -> None:
        """Register an archive that holds this version, and wait for a server that does not answer.

        Unpacking a large archive may take longer than the timeout of a request. Raises what `register`
        raises; RegistrationPending if the server neither answers nor has the version within `timeout`
        seconds.
        """
        try:
            self.register(archive, **registration)
        except TimedOut:
            if not self.appears(model, version, timeout=timeout, sleep=sleep):
                raise RegistrationPending(
                    f"{self.address} has neither answered nor registered {shown(model)} {shown(version)} "
                    f"within {timeout:g} s: see ts_log.log on the server; should it appear later, "
                    f"`torchmar unregister {shown(model)} {shown(version)}` takes it away"
                ) from None

    def appears(
        self, model: str, version: str, *, timeout: float, sleep: Callable[[float], None] | None = None
    ) -> bool:
        """Wait for a version that the server may be unpacking. Returns False after `timeout` seconds."""
        start = self._clock()
        while not self._has(model, version):
            if self._clock() - start > timeout:
                return False
            (sleep or self._sleep)(_PAUSE)
        return True

    def _has(self, model: str, version: str) -> bool:
        try:
            self.describe(model, version)
        except (ModelNotFound, TimedOut):  # a timeout may mean that it is busy unpacking
            return False
        return True

    def wait_until_ready(
        self,
        name: str,
        version: str | None = None,
        *,
        workers: int | None = None,
        timeout: float = _READY_TIMEOUT,
        sleep: Callable[[float], None] | None = None,
    ) -> ModelVersion:
        """Wait until exactly `workers` are READY; by default, until at least the version's minWorkers are.

        Raises WorkerFailedToLoad as soon as a worker dies while it loads, and WorkersNotReady after `timeout`
        seconds. TorchServe reports neither: it lists a dead worker like one that loads. `sleep` may end the
        wait by raising.
        """
        _require_whole("workers", workers, 0)
        _require_wait(timeout)
        start = self._clock()
        deaths = _Deaths()
        while True:
            model = self.describe(name, version)
            wanted = model.min_workers if workers is None else workers
            if model.ready_workers >= wanted and (workers is None or len(model.workers) == workers):
                return model
            reason = self._why_dead(model)
            if reason is not None or deaths.seen(model.workers):
                cause = reason or "its reason is in model_log.log on the server"
                raise WorkerFailedToLoad(f"{model}: its worker died while loading: {cause}", reason or "")
            waited = self._clock() - start
            if waited > timeout:
                raise WorkersNotReady(
                    f"{model}: {model.ready_workers} of {wanted} workers are READY after "
                    f"{timeout:g} s; see model_log.log on the server"
                )
            (sleep or self._sleep)(min(max(0.02, waited / 10), 1.0))  # overshoots by a tenth at most

    def wait_until_gone(self, name: str, version: str, *, timeout: float = 30.0) -> None:
        """Wait until the server no longer describes a version. Raises ClientError after `timeout` seconds."""
        _require_wait(timeout)
        start = self._clock()
        while True:
            try:
                self.describe(name, version)
            except ModelNotFound:
                return
            if self._clock() - start > timeout:
                raise ClientError(f"{shown(name)} {shown(version)}: still registered after {timeout:g} s")
            self._sleep(0.1)

    def _why_dead(self, model: ModelVersion) -> str | None:
        """Return what the log says of the current workers. Ignores those of an earlier registration."""
        loading = [worker.start_time for worker in model.workers if not worker.ready]
        return self._reason(model.name, model.version, min(loading)) if loading else None

    def _describe(
        self, name: str, version: str | None, params: Mapping[str, Any] | None
    ) -> list[ModelVersion]:
        content = json_of(self._transport.call("GET", _model_path(name, version), params=params))
        with understood(self.address):
            return [_model_version(item) for item in content]


class _Deaths:
    """Detects from one description to the next that a worker died: its id has another process.

    A process of the first description does not count: it may have served, and died later.
    """

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._earlier: set[int] | None = None

    def seen(self, workers: tuple[WorkerStatus, ...]) -> bool:
        if self._earlier is None:
            self._earlier = {worker.pid for worker in workers}
        for worker in workers:
            known = self._pids.get(worker.id)
            is_another = known is not None and worker.pid != known and known not in self._earlier
            if is_another and not worker.ready:
                return True
            if worker.pid > 0:
                self._pids[worker.id] = worker.pid
        return False


_JAVAS_LARGEST = 2**31 - 1


def _require_whole(what: str, value: int | None, least: int) -> None:
    """Raise ClientError for a value that TorchServe would silently replace by its default."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (whole and least <= value <= _JAVAS_LARGEST):
        raise ClientError(f"{what}: found {value!r}, expected a whole number, at least {least}")


def _require_wait(seconds: float) -> None:
    """Raise ClientError for an endless wait."""
    if not isinstance(seconds, int | float) or math.isnan(seconds):
        raise ClientError(f"timeout: found {seconds!r}, expected seconds")


def _model_path(name: str, version: str | None) -> str:
    return path_of("models", name) if version is None else path_of("models", name, version)


def _model_version(item: Mapping[str, Any]) -> ModelVersion:
    queue = item.get("jobQueueStatus") or {}
    return ModelVersion(
        name=str(item["modelName"]),
        version=str(item["modelVersion"]),
        archive=str(item.get("modelUrl", "")),
        runtime=str(item.get("runtime", "")),
        min_workers=int(item["minWorkers"]),
        max_workers=int(item["maxWorkers"]),
        batch_size=int(item["batchSize"]),
        max_batch_delay=int(item["maxBatchDelay"]),
        response_timeout=int(item.get("responseTimeout", 0)),
        startup_timeout=int(item.get("startupTimeout", 0)),
        max_retry_timeout=int(item.get("maxRetryTimeoutInSec", 0)),
        device_type=str(item.get("deviceType", "")),
        loaded_at_startup=bool(item.get("loadedAtStartup", False)),
        workers=tuple(_worker(worker) for worker in item.get("workers", [])),
        queue=JobQueue(int(queue.get("remainingCapacity", 0)), int(queue.get("pendingRequests", 0))),
        customized=item.get("customizedMetadata"),
        raw=item,
    )


def _worker(item: Mapping[str, Any]) -> WorkerStatus:
    return WorkerStatus(
        id=str(item["id"]),
        ready=item.get("status") == "READY",
        pid=int(item.get("pid", -1)),
        start_time=parse_instant(str(item["startTime"])),
        memory_usage=int(item.get("memoryUsage", 0)),
        gpu=bool(item.get("gpu", False)),
    )
