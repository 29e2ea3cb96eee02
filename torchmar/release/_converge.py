"""Converge one server to what it should serve: versions, their workers, the default.

Undo, rollback, reconcile and retire all say what a server should serve, and call `converge`. What they do not
name is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import ClientError, ReleaseError, TorchmarError
from ..server import unpacking
from ..workers import Drained, WaitPolicy, drain
from ._fleet import Fleet, Host, ServedState, ServedVersion, observe


@dataclass
class Converged:
    """Holds what was done, in words, and the last drain."""

    acts: list[str] = field(default_factory=list)
    drained: Drained | None = None


def converge(
    fleet: Fleet,
    host: Host,
    desired: ServedState,
    *,
    now: ServedState | None = None,
    at_most: Mapping[str, int] | None = None,
    gone: Collection[str] = (),
    pace: WaitPolicy | None = None,
) -> Converged:
    """Bring up the desired versions, then switch the default, then take away what there is too much of.

    `now` is what the server serves, if that was just observed; a rollback asks no question twice.

    Each desired version gets at least its desired workers; a default None is left as it is. `at_most` limits
    the workers of versions, and those that should be `gone` are unregistered; both are drained first, by
    `pace` (None: they end at once). One version that cannot be brought up keeps no other from being served;
    if it was registered here it is unregistered again, as it might be the default and answer nobody.

    Raises ReleaseError for those when all the others are served; ClientError.
    """
    model, done = desired.model, Converged()
    now = observe(host.server, model) if now is None else now
    failed = _bring_up_all(fleet, host, now, desired, done)
    problems = [f"{model} {version}: {reason}" for version, reason in failed.items()]
    if desired.versions:
        now = observe(host.server, model)
    is_served = now.get(desired.default) is not None
    if desired.default is not None and (is_served or desired.default not in failed):
        try:
            done.acts += _switch_default(host, now, desired.default)
        except ReleaseError as error:
            problems.append(str(error))
    if len(problems) == 1 and not done.acts:
        raise ReleaseError(problems[0])
    if problems:
        acts = "; ".join(done.acts) or "nothing else was to be done"
        raise ReleaseError("\n  ".join([f"{host.name}: not all could be brought back ({acts}):", *problems]))
    for version, workers in (at_most or {}).items():
        here = now.get(version)
        if here is not None and here.workers > workers:
            _drain(host, model, version, pace, done)
            host.server.management.scale(model, workers, version)
    for version in gone:
        if now.get(version) is not None:
            _drain(host, model, version, pace, done)
            host.server.management.take_away(model, version)
    return done


def _bring_up_all(
    fleet: Fleet, host: Host, now: ServedState, desired: ServedState, done: Converged
) -> dict[str, str]:
    """Bring up the desired versions that lack workers; return what went wrong, by version."""
    failed = {}
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
        done.acts.append(f"{one.version}: {what}, {one.desired_workers} READY now")
    return failed


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


def _drain(host: Host, model: str, version: str, pace: WaitPolicy | None, done: Converged) -> None:
    """Wait until a version has nothing left. Raises ReleaseError where it cannot be drained."""
    if pace is not None:
        done.drained = drain(host.server, model, version, pace)
