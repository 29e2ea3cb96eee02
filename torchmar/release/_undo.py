"""Back to what hosts served before a release, whatever that release had come to."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ReleaseError
from ..files import remove_tree
from ._canary import (
    CANARY,
    describe,
    describe_end,
    may_have_share,
    no_command,
    options_of,
    set_share,
    tells_nginx,
)
from ._converge import switch_default
from ._fleet import Fleet, Writer
from ._history import Record, served_as_json
from ._host import Host, observe
from ._options import Options
from ._state import ServedState
from ._steps import remove_leftovers
from ._together import for_each_host
from .workers import UNSEEN, drain, has_version_metrics, requests_to_version

# How long TorchServe may go on to unpack what it was told to register by a process that was killed.
_UNPACKING = 5.0  # seconds, and for each byte
_UNPACKING_BYTE = 1e-7


def undo_hosts(fleet: Fleet, writer: Writer, record: Record, *, force: bool = False) -> list[str]:
    """Undo all that a release has touched, on all hosts at once; what could not be undone, in words.

    The default comes back everywhere before anything is drained, which takes minutes; and a host that does
    not answer keeps no other one from being put back. With `force` nobody is waited for who still asks for
    the candidate, an nginx that cannot be told finds its file as it should be when it starts, and what a host
    that does not answer is to serve is left to `reconcile`.
    """
    writer.is_way_back = True
    touched: list[Host] = []
    left: dict[str, str] = {}
    for name in sorted({host for host, _ in record.begun}):
        try:
            touched.append(fleet.host(name))
        except ReleaseError as problem:
            left[name] = str(problem)
    for act in (_default_back, partial(undo, force=force)):
        answering = [host for host in touched if host.name not in left]
        left |= for_each_host(fleet, answering, partial(act, writer, record))
    if force:
        for name in left:
            _leave(fleet, writer, record, name)
    return [f"{name} could not be put back: {problem}" for name, problem in left.items()]


def _leave(fleet: Fleet, writer: Writer, record: Record, host: str) -> None:
    """What it is to serve is what it served before, whatever it does now; and nginx sends nobody there."""
    before = record.served_before(host, writer.journal.model)
    with writer.act(host, "undo") as told:
        told["text"] = "left as it is"
        if _has_canary(record, host):
            try:
                _end_share(fleet, record, before, told)
            except ReleaseError as problem:  # its file cannot be read, or not be written
                _tell(told, str(problem))
        writer.write("served", host, **served_as_json(before))


def _end_share(fleet: Fleet, record: Record, before: ServedState, told: dict[str, Any]) -> None:
    """As `_end_canary`, without the server."""
    options = options_of(fleet, record)
    if may_have_share(options, record.version):
        longest = max((one.response_timeout for one in before.versions), default=0)
        described = describe_end(options, before.model, record.version, max(1, longest))
        problem = set_share(options, described, stays=True)
        _not_read(told, options, problem or no_command(fleet, record))


def _has_canary(record: Record, host: str) -> bool:
    options = record.planned.get("options", {})
    begun = any(name == host and tells_nginx(step) for name, step in record.begun)
    return begun and options.get("nginx") is not None


def _not_read(told: dict[str, Any], options: Options, problem: str) -> None:
    if problem:
        _tell(told, f"{options.nginx} is as it should be, and not read: {problem}")


def defaults_back(fleet: Fleet, writer: Writer, record: Record) -> None:
    """Only the default, where it was switched, while a step still waits for an answer; `undo_hosts` follows.

    What does not answer now is told by that.
    """
    switched = {host for host, step in record.done if step == "default"}
    hosts = [host for host in fleet.hosts if host.name in switched]
    for_each_host(fleet, hosts, partial(_default_back, writer, record))


def undo(writer: Writer, record: Record, fleet: Fleet, host: Host, *, force: bool = False) -> None:
    """Make the default what it was, take the candidate away, and what was copied. Can be taken again.

    `force`: see `undo_hosts`. Raises TorchmarError where the server does not answer: `reconcile` brings it
    back then.
    """
    model = writer.journal.model
    before = record.served_before(host.name, model)
    with writer.act(host.name, "undo") as told:
        told.update(_set_default_back(fleet, record, host, model))
        if _has_canary(record, host.name):
            _end_canary(fleet, record, host, model, told, force=force)
        _take_away(fleet, record, host, before, told, force=force)
        if (host.name, "copy") in record.begun:
            _remove_copy(record, host, told)
        writer.served(host, writer.seen(host, before))


def _default_back(writer: Writer, record: Record, fleet: Fleet, host: Host) -> None:
    if (host.name, "default") in record.begun:
        with writer.act(host.name, "undo default") as told:
            told.update(_set_default_back(fleet, record, host, writer.journal.model))


def _set_default_back(fleet: Fleet, record: Record, host: Host, model: str) -> dict[str, str]:
    """What is told of it. A default that somebody else has set stays; one that is gone is brought back."""
    now, before = observe(host.server, model), record.served_before(host.name, model)
    if before.default is None or before.default == record.version:
        return {}
    lost = before.get(before.default) if now.get(before.default) is None else None
    if lost is None and now.default != record.version:
        return {}
    switch_default(fleet, host, now, before.default, lost)
    return {"default": before.default}


def _end_canary(
    fleet: Fleet, record: Record, host: Host, model: str, told: dict[str, Any], *, force: bool
) -> None:
    """All of the traffic goes to the default version again, which is what it was by now.

    Raises ReleaseError where nginx has not read that: the candidate must stay then, as it is asked still.
    """
    options = options_of(fleet, record)
    try:
        described = describe(options, host, model, record.version, 0, None)
    except ReleaseError:
        return  # with such options no configuration can have been written
    if may_have_share(options, record.version):
        problem = set_share(options, described, stays=force)
        lacking = no_command(fleet, record)
        if lacking and not force:
            raise ReleaseError(
                f"nginx may send to {model} {record.version} still: {options.nginx} gives it nothing any "
                f"more, and nginx has not read that. So it goes on to answer; {lacking}"
            )
        _not_read(told, options, problem or lacking)


def _take_away(
    fleet: Fleet, record: Record, host: Host, before: ServedState, told: dict[str, Any], *, force: bool
) -> None:
    """Unregister the candidate, if it was not there before; else give it the workers that it had."""
    server, model, version = host.server, before.model, record.version
    now = observe(server, model)
    if now.get(version) is None and _is_in_flight(record, host):
        timeout = _longest_unpacking(record, host)
        if server.management.appears(model, version, timeout=timeout, sleep=fleet.sleep):
            now = observe(server, model)
    here, was = now.get(version), before.get(version)
    if here is None:
        return
    if was is not None and (now.default == version or was.workers >= here.workers):
        if was.workers > here.workers:
            server.management.scale(model, was.workers, version)
        return  # who answers keeps the workers that it got: ending them would end what they have in hand
    options = Options.from_json(record.planned.get("options", {}))
    asked = was is not None or _may_be_asked(record, host, model)
    only = before.default is None and len(now.versions) == 1
    # Without a worker that is READY nothing is in hand, and what is queued will never be answered.
    if asked and here.ready and not only:
        if force:
            _tell(told, f"{version} was not drained")
        elif not drain(server, model, version, fleet.pace(options)).pinned_seen:
            _tell(told, f"{version}: {UNSEEN}")
    if was is None:
        server.management.take_away(model, version)
    else:
        server.management.scale(model, was.workers, version)


def _may_be_asked(record: Record, host: Host, model: str) -> bool:
    """Whether somebody else may have asked for the candidate: clients can by its number, once it is READY."""
    if any(name == host.name and step.startswith((CANARY, "default")) for name, step in record.begun):
        return True
    if not has_version_metrics(host.server):
        return False
    # What a step had sent when it was killed is not known, and so taken for others'.
    return requests_to_version(host.server, model, record.version) > record.sent.get(host.name, 0)


def _tell(told: dict[str, Any], text: str) -> None:
    told["text"] = "; ".join(filter(None, [told.get("text"), text]))


def _is_in_flight(record: Record, host: Host) -> bool:
    """Whether the server may be registering the candidate still: who told it to has not heard of it."""
    step = (host.name, "register")
    return step in record.begun and step not in record.done | (record.failed - record.silent)


def _longest_unpacking(record: Record, host: Host) -> float:
    """Seconds. A folder is not unpacked, and of an archive that is out of sight nothing is known."""
    places = [] if host.store is None else [host.store / record.file]
    places.append(Path(str(record.planned.get("archive", ""))))
    size = 0
    for path in places:
        with suppress(OSError):  # it may be gone by now, or lie where we may not look
            size = max(size, path.stat().st_size if path.is_file() else 0)
    return _UNPACKING + size * _UNPACKING_BYTE


def _remove_copy(record: Record, host: Host, told: dict[str, Any]) -> None:
    """What this release put into the store: nobody else can have used the name since, it holds the model."""
    if host.store is None:
        _tell(told, f"{record.file} is left in the store, which cannot be reached from here")
        return
    target = host.store / record.file
    remove_leftovers(target)
    if target.is_dir():
        remove_tree(target)
    elif target.exists():  # where the disk takes no changes, removing what is not there is an error, too
        target.unlink()
