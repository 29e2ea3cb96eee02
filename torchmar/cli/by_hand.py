"""Defines the commands for changes by hand: register, set-default, unregister, scale, repair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..names import LONGEST, named, shown
from ._command import Shown
from ._events import EventPrinter
from ._options import ChosenVersion, LongestOption, Name, Option, Version, WaitOption
from ._output import print_lines
from ._servers import FleetOptions, servers_of
from ._under_way import progress
from .models import version_facts

if TYPE_CHECKING:
    from ..client import ModelVersion
    from ..release import Fleet


def register(
    archive: Annotated[Path, "A .mar or folder in the server's model store, or a path to one."],
    servers: FleetOptions,
    workers: Annotated[
        int | None, Option("Number of workers; by default the archive's minWorkers.", min=0)
    ] = None,
    default: Annotated[bool, "Make the version the default when it is READY."] = False,
    wait: WaitOption = 120.0,
    load: Annotated[bool, "Load an archive that fails on this machine, too, to find the reason."] = True,
) -> Shown:
    """Register an archive and wait until its workers are READY.

    If the handler does not load, the version is unregistered again and the worker's reason is shown. If the
    server does not give the reason, the archive's code runs here to find it, unless --no-load. The first
    version of a model becomes its default; a later version only with --default.
    """
    from .. import manage

    known = manage.local_archive(archive, servers.directory)  # a fault of it needs no server
    with servers.fleet() as fleet, progress(f"registering {shown(archive.name)}") as step:
        found = manage.register(
            fleet,
            archive,
            known,
            workers=workers,
            default=default,
            timeout=wait,
            load=load,
            directory=servers.directory if servers.hosts is None else None,
            on_progress=step,
        )
        facts = _facts(fleet, found)
    notes = []
    if not all(fleet.journal(one.name).exists() for one in found.values()):
        notes.append(
            f"name a folder with --journal: {fleet.folder} could not be written, so\n"
            "`torchmar reconcile` will not bring the version back after a restart"
        )
    lines = [
        f"{servers.at(where)}{one}: {one.ready_workers} READY, "
        f"{'the default version' if facts[where]['default'] else 'not the default version'}"
        for where, one in found.items()
    ]
    return Shown(servers.of_each(facts), partial(print_lines, *lines), notes)


def _facts(fleet: Fleet, found: Mapping[str, ModelVersion]) -> dict[str, dict[str, Any]]:
    """Return the facts of a version, by host."""
    facts = {}
    for where, one in found.items():
        default = fleet.host(where).server.management.default_version(one.name)
        facts[where] = version_facts(one, default == one.version)
    return facts


def set_default(
    name: Name,
    servers: FleetOptions,
    version: ChosenVersion = None,
    force: Annotated[bool, "Accept a version without a READY worker."] = False,
) -> Shown:
    """Make a version the default: it answers requests that name no version. No request is lost.

    A version without a READY worker is refused, as every request would fail; TorchServe would accept it.
    """
    from .. import manage
    from ..client import chosen_version

    with servers.fleet(model=name) as fleet:
        number = chosen_version(servers_of(fleet), name, version)
        previous = manage.set_default(fleet, name, number, force=force)
    before = sorted({*previous.values()} - {number})
    back = f" (back: torchmar set-default {name} {before[0]}{servers.as_typed})" if len(before) == 1 else ""
    text = f"{shown(name, LONGEST)}: default is {shown(number, LONGEST)}{shown(back, 1000)}"
    facts = {where: {"name": name, "default": number, "previous": one} for where, one in previous.items()}
    return Shown(servers.of_each(facts), partial(print_lines, text))


def unregister(
    name: Name,
    servers: FleetOptions,
    version: ChosenVersion = None,
    force: Annotated[bool, "Unregister even if requests wait in the queue."] = False,
) -> Shown:
    """Remove a version and end its workers.

    TorchServe kills the workers at once and never answers requests in the queue, so a version whose queue is
    not empty is refused. Make another version the default first, and wait for the last answers.
    """
    from .. import manage
    from ..client import chosen_version

    with servers.fleet(model=name) as fleet:
        number = chosen_version(servers_of(fleet), name, version)
        manage.unregister(fleet, name, number, force=force)
    facts = {host.name: {"name": name, "version": number, "unregistered": True} for host in fleet.hosts}
    return Shown(servers.of_each(facts), partial(print_lines, f"{named(name, number)}: unregistered"))


def scale(
    name: Name,
    workers: Annotated[int, Option("Number of workers.", min=0)],
    servers: FleetOptions,
    printer: EventPrinter,
    version: Version = None,
    force: Annotated[bool, "End workers at once, even busy ones."] = False,
    wait: WaitOption = 120.0,
    longest: LongestOption = None,
) -> Shown:
    """Set the number of workers of a version, and wait until that many are READY.

    TorchServe ends workers at once, and their requests run twice or fail. So before workers are removed, the
    version is made idle; if it is the default, a standby of the same archive answers meanwhile.
    """
    from .. import manage

    with servers.fleet(printer, model=name) as fleet:
        built_for = min(host.server.management.describe(name, version).max_workers for host in fleet.hosts)
        found = manage.scale(fleet, name, workers, version, force=force, timeout=wait, longest=longest)
        facts = _facts(fleet, found)
    notes = []
    if workers > built_for:
        notes.append(
            f"raise maxWorkers in model.yaml and build again: the archive is for {built_for} worker"
            f"{'' if built_for == 1 else 's'} (maxWorkers),\nand more have more threads than processors"
        )
    lines = [f"{servers.at(where)}{one}: {one.ready_workers} READY" for where, one in found.items()]
    return Shown(servers.of_each(facts), partial(print_lines, *lines), notes)


def repair(
    name: Name,
    servers: FleetOptions,
    printer: EventPrinter,
    version: Version = None,
    longest: LongestOption = None,
) -> Shown:
    """Replace dead workers that TorchServe still lists, without losing a request.

    TorchServe restarts a dead worker only for a while; after that it counts it as a worker forever.
    """
    from .. import manage

    with servers.fleet(printer, model=name) as fleet:
        found = manage.repair(fleet, name, version, longest=longest)
    lines = [
        f"{servers.at(where)}{named(one.model, one.version)}: "
        f"{f'replaced {len(one.replaced)}' if one.replaced else 'none is dead'}, "
        f"{one.workers} worker{'' if one.workers == 1 else 's'}"
        for where, one in found.items()
    ]
    facts = servers.of_each({where: asdict(one) for where, one in found.items()})
    return Shown(facts, partial(print_lines, *lines))
