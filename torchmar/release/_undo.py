"""Put hosts back to what they served before a release, whatever that release had come to."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from ..errors import ReleaseError
from ..files import remove_tree
from ..workers import UNSEEN, drain, has_version_metrics, requests_to_version
from ._canary import CANARY, ROUTER_STEPS, end_share, options_of
from ._converge import converge
from ._fleet import Fleet, Host, ServedState, for_each_host, observe
from ._history import Record
from ._journal import Writer
from ._steps import remove_leftovers

# How long TorchServe may go on to unpack what it was told to register by a process that was killed.
_UNPACKING = 5.0  # seconds, and for each byte
_UNPACKING_BYTE = 1e-7


def undo_all(fleet: Fleet, writer: Writer, record: Record, *, force: bool = False) -> str:
    """Put every host back that an unfinished release has touched, and note it; return what is to be known.

    Raises ReleaseError for hosts that stay. With `force` it ends without what cannot be had, see
    `undo_hosts`.
    """
    left, notes = undo_hosts(fleet, writer, record, force=force)
    if left and not force:
        raise ReleaseError("\n  ".join([*left, undo_again(writer.model)]))
    reason = "\n".join([*left, *notes])
    writer.write("finished", outcome="undone", **({"reason": reason} if reason else {}))
    return "\n".join(filter(None, [reason, unwritten(writer)]))


def undo_again(model: str) -> str:
    """Return how to go on where something could not be undone."""
    return (
        f"When that is mended, `torchmar rollback {model}` goes on, after `torchmar reconcile {model}` where "
        f"the server was restarted; `torchmar rollback {model} --force` ends without what cannot be had"
    )


def unwritten(writer: Writer) -> str:
    """Return that the journal's disk was full; '' where it was not."""
    return f"{writer.unwritten}, and `torchmar rollback {writer.model}` notes it" if writer.unwritten else ""


def undo_hosts(
    fleet: Fleet, writer: Writer, record: Record, *, force: bool = False
) -> tuple[list[str], list[str]]:
    """Undo all that a release has touched, on all hosts at once.

    Return what could not be undone, and notes on what was. The default comes back everywhere before anything
    is drained, which takes minutes; a host that does not answer keeps no other one from being put back.

    `force` does not drain the candidate, goes on where the router cannot be told, and leaves hosts that do
    not answer to `reconcile`.
    """
    writer.is_way_back = True
    hosts: list[Host] = []
    left: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    for name in sorted({host for host, _ in record.begun}):
        notes[name] = []
        try:
            hosts.append(fleet.host(name))
        except ReleaseError as problem:
            left[name] = str(problem)

    def undo(fleet: Fleet, host: Host) -> None:
        _undo(fleet, writer, record, host, notes[host.name], force=force)

    for act in (partial(_default_back, writer, record), undo):
        left |= for_each_host(fleet, [host for host in hosts if host.name not in left], act)
    if force:
        for name in left:
            _leave(fleet, writer, record, name, notes[name])
    noted = [f"{name}: {'; '.join(texts)}" for name, texts in notes.items() if texts]
    return [f"{name} could not be put back: {problem}" for name, problem in left.items()], noted


def _leave(fleet: Fleet, writer: Writer, record: Record, host: str, notes: list[str]) -> None:
    """Note that a host should serve what it served before, whatever it does now; and send nobody there."""
    before = record.served_before(host, writer.model)
    with writer.step(host, "undo") as data:
        notes.append("left as it is")
        _end_share(fleet, writer, record, host, notes, force=True)
        data["text"] = "; ".join(notes)
        writer.write("served", host, **before.as_json())


def _end_share(
    fleet: Fleet, writer: Writer, record: Record, host: str, notes: list[str], *, force: bool
) -> None:
    """Take the candidate's share away. Raises ReleaseError where it is still asked, and so must stay."""
    if record.has_begun(host, *ROUTER_STEPS):
        try:
            end_share(fleet, record, writer.model)
        except ReleaseError as problem:
            if not force:
                raise
            notes.append(str(problem))


def _undo(fleet: Fleet, writer: Writer, record: Record, host: Host, notes: list[str], *, force: bool) -> None:
    """Make the default what it was, take the candidate away, and its copy. It can be done again.

    Raises TorchmarError where the server does not answer.
    """
    before = record.served_before(host.name, writer.model)
    with writer.step(host.name, "undo") as data:
        _set_default_back(fleet, record, host, before)
        _end_share(fleet, writer, record, host.name, notes, force=force)
        _take_away(fleet, record, host, before, notes, force=force)
        if (host.name, "copy") in record.begun:
            _remove_copy(record, host, notes)
        if notes:
            data["text"] = "; ".join(notes)
        writer.write("served", host.name, **fleet.served(host, writer.model, before).as_json())


def _default_back(writer: Writer, record: Record, fleet: Fleet, host: Host) -> None:
    if (host.name, "default") in record.begun:
        with writer.step(host.name, "undo default") as data:
            before = record.served_before(host.name, writer.model)
            if _set_default_back(fleet, record, host, before):
                data["default"] = before.default


def _set_default_back(fleet: Fleet, record: Record, host: Host, before: ServedState) -> bool:
    """Return whether it was done: a default that somebody else has set stays; one that is gone comes back."""
    if before.default is None or before.default == record.version:
        return False
    now = observe(host.server, before.model)
    known = before.get(before.default)
    lost = (known,) if known is not None and now.get(before.default) is None else ()
    if not lost and now.default != record.version:
        return False
    converge(fleet, host, ServedState(before.model, before.default, lost), now)
    return True


def _take_away(
    fleet: Fleet, record: Record, host: Host, before: ServedState, notes: list[str], *, force: bool
) -> None:
    """Unregister the candidate if it was not there before; else give it the workers that it had."""
    server, model, version = host.server, before.model, record.version
    now = observe(server, model)
    if now.get(version) is None and record.may_be_registering(host.name):
        timeout = _longest_unpacking(record, host)
        if server.management.appears(model, version, timeout=timeout, sleep=fleet.sleep):
            now = observe(server, model)
    here, was = now.get(version), before.get(version)
    if here is None:
        return
    if was is not None and (now.default == version or was.workers >= here.workers):
        if was.workers > here.workers:
            server.management.scale(model, was.workers, version)
        return  # a default keeps the workers that it got: they have requests in hand
    asked = was is not None or _may_be_asked(record, host, model)
    only = before.default is None and len(now.versions) == 1
    # Without a READY worker nothing is in hand, and what is queued will never be answered.
    has_work = asked and here.ready > 0 and not only
    if has_work and force:
        notes.append(f"{version} was not drained")
    elif has_work and not drain(server, model, version, fleet.pace(options_of(fleet, record))).pinned_seen:
        notes.append(f"{version}: {UNSEEN}")
    if was is None:
        server.management.take_away(model, version)
    else:
        server.management.scale(model, was.workers, version)


def _may_be_asked(record: Record, host: Host, model: str) -> bool:
    """Return whether anybody else may ask for the candidate: clients can by its number, once it is READY."""
    if record.has_begun(host.name, CANARY, "default"):
        return True
    if not has_version_metrics(host.server):
        return False
    # What a step had sent when it was killed is unknown: it counts as sent by others.
    return requests_to_version(host.server, model, record.version) > record.sent.get(host.name, 0)


def _longest_unpacking(record: Record, host: Host) -> float:
    """Return seconds. A folder is not unpacked, and an archive that cannot be seen has no known size."""
    places = [] if host.store is None else [host.store / record.require_file()]
    places.append(Path(record.archive))
    size = 0
    for path in places:
        with suppress(OSError):
            size = max(size, path.stat().st_size if path.is_file() else 0)
    return _UNPACKING + size * _UNPACKING_BYTE


def _remove_copy(record: Record, host: Host, notes: list[str]) -> None:
    """Remove what this release put into the store: it holds the model, so nobody else has used the name."""
    if host.store is None:
        notes.append(f"{record.require_file()} is left in the store, which cannot be reached from here")
        return
    target = host.store / record.require_file()
    remove_leftovers(target)
    if target.is_dir():
        remove_tree(target)
    elif target.exists():  # on a disk that takes no changes, removing what is not there fails, too
        target.unlink()
