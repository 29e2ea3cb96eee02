"""Roll back to the version that was the default before, however broken the new one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import ClientError, ReleaseError
from ..names import shown
from ..workers import stood_in_for
from ._converge import converge
from ._fleet import Fleet, Host, ServedState, for_each_host, observe
from ._history import History, Record, history
from ._journal import Writer
from ._undo import undo_all

_LOOK_PATIENCE = 1.0  # seconds: a server that does not say at once what it serves delays no other one


@dataclass(frozen=True)
class Rollback:
    """Holds the new `defaults` by host, of those that could be asked, and the `seconds` until all had theirs.

    `note` says what was not undone, and where the old default has fewer workers than the one that was left.
    """

    model: str
    defaults: Mapping[str, str | None]
    outcome: str
    seconds: float
    note: str = ""

    @property
    def default(self) -> str:
        """The default of all hosts, or of each by its name where they differ."""
        found = {version or "none" for version in self.defaults.values()}
        if len(found) <= 1:
            return found.pop() if found else "not known"
        return ", ".join(f"{version or 'none'} on {host}" for host, version in self.defaults.items())


def rollback(fleet: Fleet, model: str, to: str | None = None, *, force: bool = False) -> Rollback:
    """Make the version before this one the default again, or `to`; undo an unfinished release instead.

    A version that is no longer registered, as after a restart, is registered first. The version that is left
    stays registered, so that its faults can be examined. `force` ends the undoing of a release that cannot
    end by itself, see `undo_all`. Raises ReleaseError, ClientError.
    """
    journal = fleet.journal(model)
    begin = fleet.clock()
    journal.require_exists()
    with fleet.locked(model):
        past = history(journal)
        if to is not None:
            past.require_finished()
        if past.unfinished is not None:
            return _undone(fleet, fleet.writer(model, past.unfinished.id), past.unfinished, force=force)
        if force:
            raise ReleaseError(f"{model}: --force is to end the undoing of a release, and none is unfinished")
        names = [host.name for host in fleet.hosts] + sorted(fleet.missing)
        if to is not None:
            _require_known(fleet, past, to)
            targets = dict.fromkeys(names, to)
        else:
            targets = _targets(past, names)
            _require_known_defaults(fleet, past, targets)
        known = {name: past.served[name] for name in targets if name in past.served}
        version = ", ".join(sorted(set(targets.values())))
        writer = fleet.begin(model, "rollback", known, hosts=list(targets), version=version, targets=targets)
        problems = _go_back(fleet, writer, past, targets)
        seconds = fleet.clock() - begin
        _note(fleet, writer, past, targets, problems)
    notes = [text for host in fleet.hosts if host.name in targets and (text := _fewer(past, host))]
    for name in names:
        if name not in targets:
            notes.append(f"{name}: nothing was the default before, so it is left as it is")
    if writer.unwritten:
        notes.append(f"{writer.unwritten}, and `torchmar rollback {model} --to {version}` notes it")
    return Rollback(model, targets, "rolled back", seconds, "; ".join(notes))


def _undone(fleet: Fleet, writer: Writer, record: Record, *, force: bool) -> Rollback:
    begin, defaults = fleet.clock(), {}
    note = undo_all(fleet, writer, record, force=force)
    seconds = fleet.clock() - begin
    for host in fleet.hosts:
        if host.name in record.hosts:
            with suppress(ClientError):  # a note says that this one was left as it is
                defaults[host.name] = observe(host.server, writer.model).default
    return Rollback(writer.model, defaults, "undone", seconds, note)


def _note(
    fleet: Fleet, writer: Writer, past: History, targets: Mapping[str, str], problems: Mapping[str, str]
) -> None:
    """Note what those that have gone back should serve. Raises ReleaseError for the others."""
    for host in fleet.hosts:
        if host.name in targets and host.name not in problems:
            desired, target = past.desired(host.name), targets[host.name]
            was = past.last_ready.get((host.name, target))
            expected = replace(desired, default=target).with_versions([] if was is None else [was])
            # After a restart maybe this version alone was brought back.
            now = fleet.served(host, writer.model, expected).with_versions(desired.versions)
            writer.write("served", host.name, **now.as_json())
    if problems:
        again = f"`torchmar rollback {writer.model}` again goes on"
        raise ReleaseError("\n  ".join([*problems.values(), again]))
    writer.write("finished", outcome="rolled back")


def _require_known_defaults(fleet: Fleet, past: History, targets: Mapping[str, str]) -> None:
    """Raise ReleaseError where the default was set past the journal: a person must say which is right."""

    def look(_fleet: Fleet, host: Host) -> None:
        try:
            default, desired = observe(host.server, past.model).default, past.served[host.name].default
        except ClientError:
            return  # going back will fail, and say so
        now = None if default is None else stood_in_for(default)  # of a scaling that was killed
        if now not in {None, desired, targets[host.name]}:
            raise ReleaseError(f"{now} is the default of {host.name}, and the journal says {desired}")

    # One that the journal knows nothing of was named by `--to`, before that was interrupted.
    known = [host for host in fleet.hosts if host.name in targets and host.name in past.served]
    others = for_each_host(fleet, known, look, _LOOK_PATIENCE)
    if others:
        versions = {past.served[name].default for name in others} | {targets[name] for name in others}
        ways = " or ".join(f"`--to {version}`" for version in sorted(filter(None, versions)))
        raise ReleaseError(
            "\n  ".join(
                [
                    f"{past.model}: somebody, or a restart, has set another default:",
                    *others.values(),
                    f"Give {ways}; or `torchmar reconcile {past.model}` first, after a restart",
                ]
            )
        )


def _require_known(fleet: Fleet, past: History, to: str) -> None:
    """Raise ReleaseError for a version that no server has, nor ever had."""
    last_ready = sorted({version for _, version in past.last_ready})
    if to in last_ready:
        return

    def look(_fleet: Fleet, host: Host) -> None:
        with suppress(ClientError):  # going back will fail, and say so
            if observe(host.server, past.model).get(to) is None:
                raise ReleaseError(f"{host.name} does not serve it")

    others = for_each_host(fleet, fleet.hosts, look, _LOOK_PATIENCE)
    if others and len(others) == len(fleet.hosts):
        what = f"{'; '.join(others.values())}, and the journal knows {', '.join(last_ready) or 'none'}"
        raise ReleaseError(f"{past.model}: --to {shown(to)}: give a version that can be served: {what}")


def _fewer(past: History, host: Host) -> str:
    """Return that the version has fewer workers than the one that was left; '' where it has not."""
    try:
        now, before = observe(host.server, past.model), past.served.get(host.name)
    except ClientError as error:  # it did go back
        return f"{host.name}: how many workers it has is unknown: {error}"
    default = now.get(now.default)
    left = None if before is None else before.get(before.default)
    if default is None or left is None or default.ready >= left.ready:
        return ""
    had = f"{left.version} had {left.ready}: `torchmar scale {past.model} {left.ready}`"
    return f"{host.name}: {default.version} has {default.ready} READY, {had}"


def _go_back(fleet: Fleet, writer: Writer, past: History, targets: Mapping[str, str]) -> dict[str, str]:
    """Return what went wrong, by host: one that does not answer keeps no other one from going back."""

    def back(fleet: Fleet, host: Host) -> None:
        with writer.step(host.name, "back") as data:
            data["default"] = target = targets[host.name]
            now = observe(host.server, writer.model)
            here = now.get(target)
            # Where it is retired, its archive may still be there.
            known = past.last_ready.get((host.name, target))
            if known is not None and (here is None or not here.ready):
                converge(fleet, host, ServedState(writer.model, versions=(known,)), now=now)
                now = observe(host.server, writer.model)
            converge(fleet, host, ServedState(writer.model, target), now=now)

    problems = {name: why for name, why in fleet.missing.items() if name in targets}
    problems |= for_each_host(fleet, [host for host in fleet.hosts if host.name in targets], back)
    return {
        name: f"{name} did not go back to {targets[name]}: {problem}" for name, problem in problems.items()
    }


def _targets(past: History, names: Sequence[str]) -> dict[str, str]:
    """Return the version that each host goes back to: its default before, or that of an interrupted rollback.

    A host that had no other default, as it was added later, is left out. Raises ReleaseError where none has.
    """
    model = past.model
    if past.rollback_targets:
        going = {name: past.rollback_targets[name] for name in names if name in past.rollback_targets}
        if not going:
            raise ReleaseError(
                f"{model}: a rollback of {', '.join(past.rollback_targets)} was interrupted, which goes on "
                f"before another: give --hosts, --dir or addresses as it was given, and not of "
                f"{', '.join(names)}"
            )
        return going
    defaults = {name: past.defaults.get(name, ()) for name in names}
    earlier = {
        name: [version for version in found if version != found[-1]] for name, found in defaults.items()
    }
    targets = {name: found[-1] for name, found in earlier.items() if found}
    to = f"--to {next(iter(targets.values()))}" if targets else "--to VERSION"
    tried = [record for record in past.records if record.kind in {"release", "rollback", "set-default"}]
    if tried and tried[-1].kind == "release" and tried[-1].outcome != "promoted":
        now = next((found[-1] for found in defaults.values() if found), "what was served")
        raise ReleaseError(
            f"{model}: {tried[-1].version} was not released, so there is nothing to roll back: "
            f"{now} goes on. To leave that, too: {to}"
        )
    last = past.last_switch
    if last is not None and last.kind == "rollback":
        raise ReleaseError(
            f"{model}: the last switch was a rollback: say where to go with {to}, or release an archive"
        )
    if not targets:
        where = ", ".join(names)
        raise ReleaseError(f"{model}: the journal knows no earlier default version on {where}; give {to}")
    return targets
