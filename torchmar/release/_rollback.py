"""Back to the version that was the default before: one call to each host, however broken the new one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import ClientError, ModelNotFound, ReleaseError
from ._history import History, history
from ._host import Host, observe
from ._reconcile import bring
from ._release import undo_all
from ._site import Site, Writer
from ._together import together


@dataclass(frozen=True)
class Rollback:
    """What was done: `default` of each host. `seconds` until the last host had it.

    `note` says where the old default has fewer workers than the one that was left, and where there is none.
    """

    model: str
    default: str | None
    outcome: str
    seconds: float
    note: str = ""


def rollback(site: Site, model: str, to: str | None = None) -> Rollback:
    """Make the version before the default again, or `to`; an unfinished release is undone instead.

    A version that is no longer registered, as after a restart, is brought back first. The version that is
    left stays registered, so that its faults can be looked at. Raises ReleaseError, ClientError.
    """
    journal = site.journal(model)
    begin = site.clock()
    if not journal.path.exists():
        raise ReleaseError(f"{model}: nothing was released under this name: there is no {journal.path}")
    with journal.locked():
        past = history(journal)
        left = past.unfinished
        if to is not None:
            past.require_finished(model)
        if left is not None:
            undone = undo_all(site, Writer(site, journal, left.id), left, begin)
            default = observe(site.hosts[0].server, model).default
            return Rollback(model, default, "undone", undone.seconds)
        names = [host.name for host in site.hosts] + sorted(site.missing)
        targets = dict.fromkeys(names, to) if to is not None else _targets(past, names, model)
        known = {name: past.served[name] for name in targets if name in past.served}
        version = to or ", ".join(sorted(set(targets.values())))
        writer = Writer.planned(
            site, journal, "rollback", known, hosts=list(targets), version=version, targets=targets
        )
        problems = _put_all(site, writer, past, targets)
        gone_back = [host for host in site.hosts if host.name in targets]
        seconds = site.clock() - begin
        for host in gone_back:
            if host.name not in problems:
                # After a restart maybe one version alone was brought back.
                writer.served(host, observe(host.server, model).with_lost(past.meant(host.name)))
        if problems:
            again = f"`torchmar rollback {model}` again goes on"
            raise ReleaseError("\n  ".join([*problems.values(), again]))
        writer.write("finished", outcome="rolled back")
    notes = [text for host in gone_back if (text := _fewer(past, host, model))]
    for name in names:
        if name not in targets:
            notes.append(f"{name}: nothing was the default before, so it is left as it is")
    return Rollback(model, next(iter(targets.values())), "rolled back", seconds, "; ".join(notes))


def _fewer(past: History, host: Host, model: str) -> str:
    """A version that was left for another may have fewer workers than that one."""
    try:
        now, before = observe(host.server, model), past.served.get(host.name)
    except ClientError as error:  # it did go back
        return f"{host.name}: how many workers it has cannot be told: {error}"
    default = now.get(now.default)
    left = None if before is None else before.get(before.default)
    if default is None or left is None or default.ready >= left.ready:
        return ""
    had = f"{left.version} had {left.ready}: `torchmar scale {model} {left.ready}`"
    return f"{host.name}: {default.version} has {default.ready} READY, {had}"


def _put_all(site: Site, writer: Writer, past: History, targets: Mapping[str, str]) -> dict[str, str]:
    """What went wrong, by host: one that does not answer keeps no other one from going back."""

    def back(host: Host) -> None:
        with writer.act(host.name, "back") as told:
            told["default"] = targets[host.name]
            _put(site, host, past, writer.journal.model, targets[host.name])

    problems = {name: why for name, why in site.missing.items() if name in targets}
    problems |= together([host for host in site.hosts if host.name in targets], back)
    return {
        name: f"{name} did not go back to {targets[name]}: {problem}" for name, problem in problems.items()
    }


def _targets(past: History, names: Sequence[str], model: str) -> dict[str, str]:
    """Where each host goes: the version that was its default before, or where an interrupted rollback went.

    One that had no other default, as it was added later, has no way back. Raises ReleaseError where none has.
    """
    if past.going_back:
        return {name: past.going_back[name] for name in names if name in past.going_back}
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


def _put(site: Site, host: Host, past: History, model: str, version: str) -> None:
    management = host.server.management
    try:
        ready = management.describe(model, version).ready_workers
    except ModelNotFound:
        ready = 0
    if not ready:
        wanted = past.ever.get((host.name, version))  # where it is retired, its archive may still be there
        if wanted is None:
            raise ReleaseError(
                f"{host.name}: {model} {version} is not served, and the journal does not know how it was: "
                "release its archive"
            )
        bring(site, host, model, wanted)
    management.set_default(model, version)
