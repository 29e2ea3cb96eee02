"""One server is made to serve what it is to serve: versions, their workers, the default.

`reconcile` converges a server to what the journal says; rollback and undo switch the default alone. Nothing
is taken away here: more workers than are wanted have requests in hand, and a version that is not wanted is
somebody else's. What is to go is drained first, by undo and `retire`.
"""

from __future__ import annotations

from contextlib import suppress

from ..errors import ClientError, ReleaseError, TorchmarError
from ..server import unpacking
from ._fleet import Fleet
from ._host import Host, observe
from ._state import ServedState, ServedVersion


def converge(fleet: Fleet, host: Host, desired: ServedState) -> list[str]:
    """Bring up what is desired and lacks, then switch the default; what was done, in words.

    One version that cannot be had keeps no other from being served; if it was registered here it is
    unregistered again, as it might be the default and answer nobody. Raises ReleaseError for those, when all
    the others are served; ClientError.
    """
    model, acts, problems = desired.model, [], []
    now = observe(host.server, model)
    # The default one first: whatever is registered first becomes the default.
    for one in sorted(desired.versions, key=lambda each: each.version != desired.default):
        here = now.get(one.version)
        if here is not None and here.ready >= one.meant:
            continue
        try:
            ensure_version(fleet, host, model, one)
        except TorchmarError as error:
            problems.append(f"{model} {one.version}: {error}")
            if here is None:
                with suppress(ClientError):
                    host.server.management.take_away(model, one.version)
            continue
        what = "registered" if here is None else f"had {here.ready} READY"
        acts.append(f"{one.version}: {what}, {one.meant} READY now")
    now = observe(host.server, model)
    if desired.default is not None and now.get(desired.default) is not None:
        try:
            acts += switch_default(fleet, host, now, desired.default)
        except ReleaseError as error:
            problems.append(str(error))
    if problems:
        done = "; ".join(acts) or "nothing else was to be done"
        raise ReleaseError("\n  ".join([f"{host.name}: not all could be brought back ({done}):", *problems]))
    return acts


def ensure_version(fleet: Fleet, host: Host, model: str, desired: ServedVersion) -> None:
    """Have a version registered as it was, and as many workers READY. Raises ClientError."""
    with unpacking(host.running, desired.archive):
        host.server.management.bring_up(
            desired.archive,
            model,
            desired.version,
            desired.meant,
            sleep=fleet.sleep,
            batch_size=desired.batch_size,
            response_timeout=desired.response_timeout or None,
        )


def switch_default(
    fleet: Fleet, host: Host, now: ServedState, version: str, known: ServedVersion | None = None
) -> list[str]:
    """Make a version the default of a server that serves this `now`; what was done, in words.

    Where none of its workers answers, it is brought up as it was `known` to be; None: it is not. Raises
    ReleaseError where it cannot answer and the default of now can; ClientError.
    """
    here, current = now.get(version), now.get(now.default)
    if known is not None and (here is None or not here.ready):
        ensure_version(fleet, host, now.model, known)
        here = known
    if here is None:
        raise ReleaseError(
            f"{host.name}: {now.model} {version} is not served, and the journal does not know how it was: "
            "release its archive"
        )
    if now.default == version:
        return []
    if current is not None and current.ready and not here.ready:
        raise ReleaseError(
            f"{host.name}: {now.model} {version} has no READY worker, so {now.default}, which has, stays the "
            f"default: `torchmar repair {now.model} --version {version}`, then this again"
        )
    host.server.management.set_default(now.model, version)
    return [f"default set to {version}, it was {now.default}"]
