"""Converge one server to what it should serve: versions, their workers, the default.

Undo, rollback and reconcile all say what a server should serve, and call `converge`. What they do not name is
left alone.
"""

from __future__ import annotations

from contextlib import suppress

from ..errors import ClientError, ReleaseError, TorchmarError
from ..server import unpacking
from ._fleet import Fleet, Host, ServedState, ServedVersion, observe


def converge(fleet: Fleet, host: Host, desired: ServedState, now: ServedState | None = None) -> list[str]:
    """Bring up the desired versions, then switch the default; return what was done, in words.

    `now` is what the server serves, if that was just observed; a rollback asks no question twice.

    Each desired version gets at least its desired workers; a default None is left as it is. One version that
    cannot be brought up keeps no other from being served; if it was registered here it is unregistered again,
    as it might be the default and answer nobody.

    Raises ReleaseError for those when all the others are served; ClientError.
    """
    now = observe(host.server, desired.model) if now is None else now
    acts, failed = _bring_up_all(fleet, host, now, desired)
    problems = [f"{desired.model} {version}: {reason}" for version, reason in failed.items()]
    if desired.versions:
        now = observe(host.server, desired.model)
    is_served = now.get(desired.default) is not None
    if desired.default is not None and (is_served or desired.default not in failed):
        try:
            acts += _switch_default(host, now, desired.default)
        except ReleaseError as error:
            problems.append(str(error))
    if len(problems) == 1 and not acts:
        raise ReleaseError(problems[0])
    if problems:
        done = "; ".join(acts) or "nothing else was to be done"
        raise ReleaseError("\n  ".join([f"{host.name}: not all could be brought back ({done}):", *problems]))
    return acts


def _bring_up_all(
    fleet: Fleet, host: Host, now: ServedState, desired: ServedState
) -> tuple[list[str], dict[str, str]]:
    """Bring up the desired versions that lack workers; return what was done, and what failed by version."""
    acts, failed = [], {}
    # The default one first: whatever is registered first becomes the default.
    for one in sorted(desired.versions, key=lambda each: each.version != desired.default):
        here = now.get(one.version)
        if here is not None and here.ready >= one.desired_workers:
            continue
        try:
            _bring_up(fleet, host, desired.model, one)
        except TorchmarError as error:
            failed[one.version] = str(error)
            if here is None:
                with suppress(ClientError):
                    host.server.management.take_away(desired.model, one.version)
            continue
        what = "registered" if here is None else f"had {here.ready} READY"
        acts.append(f"{one.version}: {what}, {one.desired_workers} READY now")
    return acts, failed


def _bring_up(fleet: Fleet, host: Host, model: str, desired: ServedVersion) -> None:
    """Have a version registered as it was, and as many workers READY. Raises ClientError."""
    with unpacking(host.running, desired.archive):
        host.server.management.bring_up(
            desired.archive,
            model,
            desired.version,
            desired.desired_workers,
            sleep=fleet.sleep,
            batch_size=desired.batch_size,
            response_timeout=desired.response_timeout or None,
        )


def _switch_default(host: Host, now: ServedState, version: str) -> list[str]:
    """Make a version the default; return what was done. Raises ReleaseError where it would answer worse."""
    here, current = now.get(version), now.get(now.default)
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
