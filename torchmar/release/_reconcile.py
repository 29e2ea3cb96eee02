"""What the journal says is served, served again: after a restart a server knows nothing of it.

TorchServe's own snapshots would do this, too, but one bad archive among them aborts the rest, and they are
read only where no configuration file is given.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import ClientError, ReleaseError, TorchmarError
from ..server import unpacking
from ._history import History, as_meant, history
from ._host import Host, observe
from ._served import Served, ServedVersion
from ._site import Site, Writer
from .workers import unregister


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


def reconcile(site: Site, model: str) -> tuple[Reconciled, ...]:
    """Register, scale and set default until each host serves what the journal says.

    Versions that the journal does not know are left alone, and told. Raises ReleaseError, ClientError;
    PartlyReconciled for hosts that cannot be reached or lack something, when the others have been served.
    """
    journal = site.journal(model)
    journal.require_exists()
    with journal.locked():
        past = history(journal)
        if not past.served:
            raise ReleaseError(f"{model}: {journal.path} says nothing of what was served")
        left = past.unfinished
        problems = [f"{name}: {why}" for name, why in sorted(site.missing.items()) if name in past.served]
        if not problems and not any(host.name in past.served for host in site.hosts):
            raise ReleaseError(
                f"{model}: the journal speaks of {', '.join(sorted(past.served))}, and not of "
                f"{', '.join(host.name for host in site.hosts)}: give --hosts, or another --journal"
            )
        targets = {host.name: _target(past, host) for host in site.hosts if host.name in past.served}
        if left is None:
            writer = Writer.planned(site, journal, "reconcile", targets)
        else:
            writer = Writer(site, journal, left.id)
        found = []
        for name, target in targets.items():
            with writer.act(name, "reconcile") as told:
                host = site.host(name)
                try:
                    acts = _reconcile(site, host, target)
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


def _target(past: History, host: Host) -> Served:
    """What a host is to serve: not what was given up, nor the default that a rollback was leaving."""
    left = past.unfinished
    if left is not None and left.is_given_up and host.name in left.hosts:
        before = left.served_before(host.name, past.served[host.name].model)
        return as_meant(before, host.name, past.ever)
    served, back = past.served[host.name], past.going_back.get(host.name)
    return served if served.get(back) is None else replace(served, default=back)


def _reconcile(site: Site, host: Host, target: Served) -> list[str]:
    """What was done. One version that cannot be had keeps no other from being served.

    Raises ReleaseError, when all the others are, for those that cannot.
    """
    acts: list[str] = []
    problems: list[str] = []
    now = observe(host.server, target.model)
    # The default one first: whatever is registered first becomes the default.
    for wanted in sorted(target.versions, key=lambda one: one.version != target.default):
        here = now.get(wanted.version)
        # More workers than were journaled are left: ending them would end what they have in hand.
        if here is not None and here.ready >= wanted.meant:
            continue
        try:
            bring(site, host, target.model, wanted)
        except TorchmarError as error:
            problems.append(f"{target.model} {wanted.version}: {error}")
            if here is None:
                _forget(host, target.model, wanted.version)
            continue
        what = "registered" if here is None else f"had {here.ready} READY"
        acts.append(f"{wanted.version}: {what}, {wanted.meant} READY now")
    now = observe(host.server, target.model)
    here, current = now.get(target.default), now.get(now.default)
    if here is not None and now.default != target.default:
        if current is not None and current.ready and not here.ready:
            problems.append(
                f"{target.model} {here.version} has no READY worker, so {now.default}, which has, stays the "
                f"default: `torchmar repair {target.model} --version {here.version}`, then reconcile again"
            )
        else:
            host.server.management.set_default(target.model, here.version)
            acts.append(f"default set to {here.version}, it was {now.default}")
    if problems:
        done = "; ".join(acts) or "nothing else was to be done"
        raise ReleaseError("\n  ".join([f"{host.name}: not all could be brought back ({done}):", *problems]))
    return acts


def _forget(host: Host, model: str, version: str) -> None:
    """What was registered a moment ago and cannot start: it might be the default, and answer nobody."""
    with suppress(ClientError):
        unregister(host.server, model, version)


def bring(site: Site, host: Host, model: str, wanted: ServedVersion) -> None:
    """Have a version registered as it was, and as many workers READY. Raises ClientError."""
    with unpacking(host.running, wanted.archive):
        host.server.management.bring_up(
            wanted.archive,
            model,
            wanted.version,
            wanted.meant,
            sleep=site.sleep,
            batch_size=wanted.batch_size,
            response_timeout=wanted.response_timeout or None,
        )
