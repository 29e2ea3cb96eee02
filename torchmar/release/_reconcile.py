"""What the journal says is served, served again: after a restart a server knows nothing of it.

TorchServe's own snapshots would do this, too, but one bad archive among them aborts the rest, and they are
read only where no configuration file is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import ReleaseError, TorchmarError
from ._converge import converge
from ._fleet import Fleet, Writer
from ._history import History, history, with_desired_workers
from ._host import Host
from ._state import ServedState


@dataclass(frozen=True)
class Reconciled:
    """What was done on a host, in words; nothing where it served what it should.

    `others` are versions that the journal does not know, `unfinished` is the id of a release.
    """

    host: str
    model: str
    default: str | None
    acts: tuple[str, ...]
    others: tuple[str, ...]
    unfinished: str | None = None


class PartlyReconciled(ReleaseError):
    """Some hosts do not serve what they should; `done` is what was done on the others."""

    def __init__(self, message: str, done: tuple[Reconciled, ...]) -> None:
        self.done = done
        super().__init__(message)


def reconcile(fleet: Fleet, model: str) -> tuple[Reconciled, ...]:
    """Register, scale and set default until each host serves what the journal says.

    Versions that the journal does not know are left alone, and told. Raises ReleaseError, ClientError;
    PartlyReconciled for hosts that cannot be reached or lack something, when the others have been served.
    """
    journal = fleet.journal(model)
    journal.require_exists()
    with journal.locked():
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
        if left is None:
            writer = Writer.planned(fleet, journal, "reconcile", targets)
        else:
            writer = Writer(fleet, journal, left.id)
        found = []
        for name, target in targets.items():
            with writer.act(name, "reconcile") as told:
                host = fleet.host(name)
                try:
                    acts = converge(fleet, host, target)
                    now = writer.seen(host)
                except TorchmarError as error:
                    problems.append(str(error))
                    told["reason"] = str(error)
                    continue
                others = tuple(one.version for one in now.versions if target.get(one.version) is None)
                told["acts"] = acts
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
    """What a host is to serve: not what was given up, nor the default that a rollback was leaving."""
    left = past.unfinished
    if left is not None and left.is_undoing and host.name in left.hosts:
        before = left.served_before(host.name, past.served[host.name].model)
        return with_desired_workers(before, host.name, past.last_ready)
    served, back = past.served[host.name], past.rollback_targets.get(host.name)
    return served if served.get(back) is None else replace(served, default=back)
