"""Serve again what the journal says: after a restart a server knows nothing of it.

TorchServe's own snapshots do this, too, but one bad archive among them aborts the rest, and they are read
only without a configuration file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import ReleaseError, TorchmarError
from ._converge import converge
from ._fleet import Fleet, Host, ServedState
from ._history import History, history


@dataclass(frozen=True)
class Reconciled:
    """Holds what was done on a host, in words; nothing where it served what it should.

    `others` are versions that the journal does not know, `unfinished` is the id of a release.
    """

    host: str
    model: str
    default: str | None
    acts: tuple[str, ...]
    others: tuple[str, ...]
    unfinished: str | None = None


class PartlyReconciled(ReleaseError):
    """Some hosts do not serve what they should; `done` holds what was done on the others."""

    def __init__(self, message: str, done: tuple[Reconciled, ...]) -> None:
        self.done = done
        super().__init__(message)


def reconcile(fleet: Fleet, model: str) -> tuple[Reconciled, ...]:
    """Register, scale and set default until each host serves what the journal says.

    Versions that the journal does not know are left alone, and listed. Raises ReleaseError, ClientError;
    PartlyReconciled for hosts that cannot be reached or lack something, when the others have been served.
    """
    journal = fleet.journal(model)
    journal.require_exists()
    with fleet.locked(model):
        past = history(journal)
        if not past.served:
            raise ReleaseError(f"{model}: {journal.path} says nothing of what was served")
        left = past.unfinished
        problems = [f"{name}: {why}" for name, why in sorted(fleet.missing.items()) if name in past.served]
        if not problems and not any(host.name in past.served for host in fleet.hosts):
            raise ReleaseError(
                f"{model}: the journal speaks of {', '.join(sorted(past.served))}, and not of "
                f"{', '.join(host.name for host in fleet.hosts)}: give --hosts, or another --journal"
            )
        targets = {host.name: _target(past, host) for host in fleet.hosts if host.name in past.served}
        writer = fleet.begin(model, "reconcile", targets) if left is None else fleet.writer(model, left.id)
        found = []
        for name, target in targets.items():
            with writer.step(name, "reconcile") as data:
                host = fleet.host(name)
                try:
                    acts = converge(fleet, host, target)
                    now = fleet.served(host, model)
                except TorchmarError as error:
                    problems.append(str(error))
                    data["reason"] = str(error)
                    continue
                others = tuple(one.version for one in now.versions if target.get(one.version) is None)
                data["acts"] = acts
                found.append(
                    Reconciled(
                        name, model, target.default, tuple(acts), others, None if left is None else left.id
                    )
                )
        if problems:
            raise PartlyReconciled("\n  ".join(problems), tuple(found))
        if left is None:
            writer.write("finished", outcome="reconciled")
    return tuple(found)


def _target(past: History, host: Host) -> ServedState:
    """Return what a host should serve: nothing of a release that is undone, nor what a rollback leaves."""
    left = past.unfinished
    if left is not None and left.is_undoing and host.name in left.hosts:
        return past.with_desired_workers(host.name, left.served_before(host.name, past.model))
    served, back = past.desired(host.name), past.rollback_targets.get(host.name)
    return served if served.get(back) is None else replace(served, default=back)
