"""Find workers that are dead and still listed, and replace them.

TorchServe starts a worker that died again, for the archive's maxRetryTimeoutInSec and never after. It stays
in the list, and counts: to ask for the same number of workers does nothing, and to ask for more and then
for the old number again ends the newest, which are the good ones. What does remove it is to scale to 0 and
up again, which would lose what waits in the queue; so the version is drained first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..client import ModelVersion, Server, WorkerStatus
from ..errors import WorkerFailedToLoad
from ._drain import drain
from ._pace import WaitPolicy
from ._scale import scaled
from ._standby import end_standby, standby_for, standby_of, stood_in_for, warmed_up

Alive = Callable[[int], bool]
"""Whether there is a process with this id, on the machine of the server."""

# Of TorchServe's two backends, the one in Python and the one in C++.
_IS_WORKER = re.compile(r"model_service_worker|model_worker_socket").search

_INTERVAL = 0.25  # seconds between two looks at the workers
_LOOKS = 2


@dataclass(frozen=True)
class Repaired:
    """Holds what was done. `replaced` are the ids of the dead workers, () where none was."""

    model: str
    version: str
    replaced: tuple[str, ...]
    workers: int
    seconds: float


def process_alive(pid: int) -> bool:
    """Return whether a worker of this machine has this process id: an `Alive` for a server that runs here.

    Another program that got the number of a dead worker does not count, as far as psutil shows.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        import psutil
    except ModuleNotFoundError:
        return True
    try:
        process = psutil.Process(pid)
        words = process.cmdline()
        return process.status() != psutil.STATUS_ZOMBIE and any(_IS_WORKER(word) for word in words)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def find_dead(described: ModelVersion, alive: Alive | None = None) -> tuple[WorkerStatus, ...]:
    """Return the workers that seem dead: not READY, and without a process where `alive` can see that.

    One look does not distinguish a dead worker from one that is about to restart: see `repair`. A dead one
    keeps the process id that it had, -1 if it never had one.
    """
    return tuple(
        worker
        for worker in described.workers
        if not worker.ready and (alive is None or worker.pid < 0 or not alive(worker.pid))
    )


def repair(
    server: Server,
    store: Path,
    model: str,
    version: str | None = None,
    pace: WaitPolicy = WaitPolicy(),  # noqa: B008 (frozen)
    *,
    alive: Alive | None = None,
    patience: float | None = None,
) -> Repaired:
    """Replace the dead workers of a version, by default the default one, without losing a request.

    A worker counts as dead after `patience` seconds; None means as long as TorchServe itself may restart it,
    plus the time of a start unless `alive` is given. The request that a worker died with has failed. All that
    wait and all that come meanwhile are answered: by the version's other workers, by a new one where none is
    left, and by a standby for the default version (see `scale`, also for `store` and what is raised). Where
    none is dead, this waits for all: WorkerFailedToLoad says what one dies of again and again. Steps: rescue,
    those of `standby`, and drain, scale-to-0, scale.
    """
    start = pace.clock()
    default = server.management.default_version(model)
    described = server.management.describe(model, stood_in_for(version or default))
    dead = _dead_for(server, described, alive, patience, pace)
    if not dead:
        _end_what_was_left(server, store, described, pace)
        ready = _ready(server, described, pace)
        return Repaired(model, described.version, (), len(ready.workers), pace.clock() - start)
    workers = max(1, described.min_workers)
    waits = default == described.version or described.queue.pending_requests
    if waits and not described.ready_workers:
        # A new worker takes what waits in the queue.
        pace.on_step("rescue")
        server.management.scale(model, len(described.workers) + 1, described.version)
    if default == described.version:
        with standby_for(server, store, described, workers, pace) as made:
            _replaced(server, described, workers, pace)
            warmed_up(server, described, described.version, made)
    else:
        _replaced(server, described, workers, pace)
        end_standby(server, store, model, described.version, pace)
    return Repaired(model, described.version, dead, workers, pace.clock() - start)


def _ready(server: Server, described: ModelVersion, pace: WaitPolicy) -> ModelVersion:
    """Return the version when its workers, of which none is dead, are READY. Raises WorkersNotReady.

    Another worker would die of the same as one that dies again and again while it loads.
    """
    model, version = described.name, described.version
    try:
        return server.management.wait_until_ready(
            model, version, timeout=float(described.startup_timeout), sleep=pace.sleep
        )
    except WorkerFailedToLoad as error:
        text = (
            f"`torchmar rollback {model}`, or release an archive that loads: there is none to replace, as "
            f"TorchServe starts it again and again: {error}"
        )
        raise WorkerFailedToLoad(text, error.reason) from error


def _end_what_was_left(server: Server, store: Path, described: ModelVersion, pace: WaitPolicy) -> None:
    """End the standby that an interrupted repair or scaling has left."""
    model, version = described.name, described.version
    left = {one.version: one for one in server.management.versions(model)}.get(standby_of(version))
    if left is not None and not described.workers:  # between the end of the old and the start of the new
        scaled(server, described, max(1, left.min_workers), pace)
    end_standby(server, store, model, version, pace)


def _dead_for(
    server: Server, described: ModelVersion, alive: Alive | None, patience: float | None, pace: WaitPolicy
) -> tuple[str, ...]:
    """Return the ids of the workers that stay dead, with one process id, for `patience` seconds."""
    if patience is None:
        # TorchServe tries again until this long after the first death; a try that began before may yet
        # succeed.
        patience = described.max_retry_timeout + (described.startup_timeout if alive is None else 0)
    dead = {(worker.id, worker.pid) for worker in find_dead(described, alive)}
    start, looks = pace.clock(), 1
    while dead and (looks < _LOOKS or pace.clock() - start < patience):
        pace.sleep(_INTERVAL)
        found = find_dead(server.management.describe(described.name, described.version), alive)
        dead &= {(worker.id, worker.pid) for worker in found}
        looks += 1
    return tuple(sorted(worker for worker, _ in dead))


def _replaced(server: Server, described: ModelVersion, workers: int, pace: WaitPolicy) -> None:
    """Replace all workers of a version that is not the default."""
    model, version = described.name, described.version
    pace.on_step("drain")
    drain(server, model, version, pace)
    pace.on_step("scale-to-0")
    server.management.scale(model, 0, version)
    scaled(server, described, workers, pace)
