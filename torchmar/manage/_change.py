"""Set the default, unregister, scale, repair and reconcile on each server of a fleet, journaled."""

from __future__ import annotations

from collections.abc import Callable

from .. import workers as on_server
from ..client import ModelVersion
from ..errors import ClientError, ReleaseError, TorchmarError
from ..names import LONGEST, shown
from ..release import Fleet, PartlyReconciled, Reconciled
from ..release import reconcile as reconcile_model
from ..release._journal import models
from ..workers import Repaired, WaitPolicy, is_standby, process_alive
from ._journaled import journaled_change


def set_default(fleet: Fleet, model: str, version: str, *, force: bool = False) -> dict[str, str]:
    """Make a version the default on all hosts; return the previous one by host.

    Raises ReleaseError where it has no READY worker, unless `force`: every request would fail. ClientError.
    """
    with journaled_change(fleet, model, "set-default"):
        for host in fleet.hosts:  # all of them before any is changed
            described = host.server.management.describe(model, version)
            if described.ready_workers == 0 and not force:
                scale = f"torchmar scale {shown(model, LONGEST)} 1 --version {shown(version, LONGEST)}"
                raise ReleaseError(
                    f"{described}: has no worker that is READY on {host.name}, so every request would fail. "
                    f"`{scale}` first, or --force"
                )
        previous = {}
        for host in fleet.hosts:
            previous[host.name] = host.server.management.default_version(model)
            host.server.management.set_default(model, version)
    return previous


def unregister(fleet: Fleet, model: str, version: str, *, force: bool = False) -> None:
    """Unregister a version on all hosts. TorchServe ends its workers at once, whatever they have in hand.

    Raises ClientError where requests wait in its queue, unless `force`: nobody would answer them.
    """
    with journaled_change(fleet, model, "unregister"):
        for host in fleet.hosts:
            described = host.server.management.describe(model, version)
            waiting = described.queue.pending_requests
            if waiting and not force:
                raise ClientError(
                    f"{described}: {waiting} requests wait in its queue on {host.name} and would never be "
                    "answered. Make another version the default, wait, and try again, or --force"
                )
        for host in fleet.hosts:
            host.server.management.take_away(model, version)


def scale(
    fleet: Fleet,
    model: str,
    workers: int,
    version: str | None = None,
    *,
    force: bool = False,
    timeout: float = 120.0,
    longest: float | None = None,
) -> dict[str, ModelVersion]:
    """Give a version, by default the default one, this many workers on all hosts; return it by host.

    Fewer workers end without losing a request, see `torchmar.workers.scale`; with `force` at once. More have
    `timeout` seconds to become READY. Raises ReleaseError where a model store cannot be reached; ClientError.
    """
    found = {}
    with journaled_change(fleet, model, "scale") as on:
        for host in fleet.hosts:
            management = host.server.management
            before = management.describe(model, version)
            was_interrupted = any(is_standby(one.version) for one in management.versions(model))
            if force or (workers >= len(before.workers) and not was_interrupted):
                on(host)("scale")
                found[host.name] = management.bring_up(
                    before.archive, model, before.version, workers, timeout=timeout
                )
            elif host.store is None:
                raise _no_store(host.name)
            else:
                pace = WaitPolicy(longest, on_step=on(host))
                found[host.name] = on_server.scale(
                    host.server, host.store, model, workers, pace, version=version
                )
    return found


def repair(
    fleet: Fleet, model: str, version: str | None = None, *, longest: float | None = None
) -> dict[str, Repaired]:
    """Replace the dead workers of a version on all hosts, see `torchmar.workers.repair`; return it by host.

    Raises ReleaseError where a model store cannot be reached; ClientError.
    """
    found = {}
    with journaled_change(fleet, model, "repair") as on:
        for host in fleet.hosts:
            if host.store is None:
                raise _no_store(host.name)
            alive = process_alive if host.local else None
            pace = WaitPolicy(longest, on_step=on(host))
            found[host.name] = on_server.repair(host.server, host.store, model, version, pace, alive=alive)
    return found


def reconcile(
    fleet: Fleet, model: str | None = None, *, on_model: Callable[[str], None] = lambda _model: None
) -> tuple[Reconciled, ...]:
    """Serve what the journals of a model say, or those of all models; `on_model` hears of each in turn.

    Raises ReleaseError if there is no journal; PartlyReconciled if it failed for a model, when the others
    have been served.
    """
    names = models(fleet.folder) if model is None else [model]
    if not names:
        raise ReleaseError(
            f"{fleet.folder.absolute()}: give --journal FOLDER: no journal is there, so nothing says "
            "what was served"
        )
    done: list[Reconciled] = []
    problems: list[str] = []
    for name in names:
        on_model(name)
        try:
            done += reconcile_model(fleet, name)
        except TorchmarError as error:
            done += error.done if isinstance(error, PartlyReconciled) else ()
            problems.append(str(error))
    if problems:
        raise PartlyReconciled("\n".join(problems), tuple(done))
    return tuple(done)


def _no_store(host: str) -> ReleaseError:
    return ReleaseError(
        f"{host}: its model store cannot be reached from here, which it takes to lose nothing: give --store, "
        "or --force to scale all the same"
    )
