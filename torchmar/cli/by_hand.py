"""Commands that change what is served by hand: register, set-default, unregister, scale, repair."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import release as lib
from ..errors import (
    AlreadyRegistered,
    ArchiveError,
    ArchiveNotInStore,
    ClientError,
    ModelNotFound,
    ReleaseError,
    UnmanageableName,
    WorkerFailedToLoad,
    WorkersNotReady,
)
from ..names import LONGEST, name_problem, shown, version_problem
from ..release import Option
from ._choices import LongestOption, WaitOption
from ._command import Shown, add
from ._events import EventPrinter
from ._fleets import FleetOptions
from ._output import print_lines
from ._under_way import progress
from .models import Name, Version, listed, required, version_facts, with_remedy

if TYPE_CHECKING:
    from ..client import Management, ModelVersion, Server
    from ..mar import Archive
    from ..release import Fleet, Host, Repaired


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    add(app, "By hand", register, scale, repair, unregister, set_default)


def register(
    archive: Annotated[Path, "A .mar or folder in the server's model store, or a path to it."],
    servers: FleetOptions,
    workers: Annotated[int | None, Option("Workers, instead of the archive's minWorkers.", min=0)] = None,
    default: Annotated[bool, "Make it the default when it is READY."] = False,
    wait: WaitOption = 120.0,
    load: Annotated[
        bool,
        typer.Option("--load/--no-load", help="Load an archive that fails here as well, to find out why."),
    ] = True,
) -> Shown:
    """Register an archive and wait until its workers are READY.

    One whose handler will not load is unregistered again, and the worker's own reason is shown; where the
    server does not tell it, the archive's code is run here to find it, unless --no-load. The first version of
    a model becomes its default; later ones do not unless told.
    """
    from ..mar import verify as check_digests

    given = _local_path(archive, servers.directory)
    known = None if given is None else check_digests(given)
    told: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        fleet = stack.enter_context(servers.fleet())
        for host in fleet.hosts:
            known = _in_store(archive, known, host, servers.directory if servers.hosts is None else None)
        if known is not None:
            _require_manageable(f"{known.path}: its", known.name, known.version)
        held: set[str] = set()

        def hold(name: str) -> None:
            if name not in held:
                stack.enter_context(lib.by_hand(fleet, name, "set-default" if default else "register"))
                held.add(name)

        if known is not None:
            hold(known.name)
        step = stack.enter_context(progress(f"registering {shown(archive.name)}"))
        for host in fleet.hosts:
            model = _register_on(host, archive, known, workers, wait, hold, step, load=load)
            management = host.server.management
            if default:
                management.set_default(model.name, model.version)
            is_default = management.default_version(model.name) == model.version
            told[host.name] = version_facts(model, is_default)
    notes = []
    if not all(fleet.journal(one["name"]).exists() for one in told.values()):
        notes.append(
            f"name a folder by --journal: it could not be journaled in {fleet.folder}, so\n"
            "`torchmar reconcile` will not bring it back after a restart"
        )
    lines = [
        f"{servers.at(where)}{_named(one['name'], one['version'])}: {one['ready_workers']} READY, "
        f"{'the default version' if one['default'] else 'not the default version'}"
        for where, one in told.items()
    ]
    return Shown(servers.of_each(told), partial(print_lines, *lines), notes)


def _local_path(archive: Path, directory: Path) -> Path | None:
    """The archive on this machine, where a path to it was typed; None for a file name in the server's store.

    A path is looked for here and in the folder that the server runs in. Raises ArchiveError.
    """
    if not archive.name:
        raise ArchiveError(f"found {str(archive)!r} for an archive: give its file name, or a path to it")
    is_path = len(archive.parts) > 1
    for path in (archive, directory / archive) if is_path else (archive,):
        if _is_archive(path):
            return path
        if is_path and path.exists():
            raise ArchiveError(f"{path}: is no archive: a folder without MAR-INF/MANIFEST.json")
    if is_path:
        raise ArchiveError(
            f"{archive}: no such file or folder, neither here nor in {directory.resolve()}. For an archive "
            "in the server's model store its file name is enough"
        )
    return None


def _require_manageable(whose: str, name: str, version: str) -> None:
    """Raise ArchiveError for what TorchServe would register, and could not be managed after that."""
    for what, problem in (("name", name_problem(name)), ("version", version_problem(version))):
        if problem is not None:
            raise ArchiveError(f"{whose} model's {what} cannot be managed: {problem}. Build it under another")


def _in_store(archive: Path, known: Archive | None, host: Host, directory: Path | None) -> Archive | None:
    """What the host would take, where that can be seen from here; else what is known. It runs in `directory`.

    Raises ArchiveError where it would take another archive than the one that is meant.
    """
    from ..mar import verify as check_digests

    if host.store is None:
        return known
    stored = host.store / archive.name
    if not _is_archive(stored):
        if known is not None:
            raise ArchiveError(
                f"{known.path}: is not in {host.store}, the server's model store, and it takes archives from "
                f"there alone: copy it there, or use `torchmar release {known.path}`, which does"
            )
        return known
    if stored.is_dir() and directory is not None and (directory / archive.name).is_dir():
        # A quirk of TorchServe: it looks for a folder where it runs before it looks into its model store.
        raise ArchiveError(
            f"{directory / archive.name}: the server runs in {directory.resolve()}, where it would take this "
            f"folder instead of {archive.name} in its model store. Rename it"
        )
    if known is None:
        return check_digests(stored)
    if not _same_archive(known.path, stored):
        raise ArchiveError(
            f"{known.path} is not what the server would take: {stored} has other contents. Copy it there "
            "under a name of its own, or build it with --store"
        )
    return known


def _same_archive(one: Path, other: Path) -> bool:
    from ..mar import read

    if one.samefile(other):
        return True
    if one.is_file() and other.is_file():
        return filecmp.cmp(one, other, shallow=False)
    return read(one).contents_sha256 == read(other).contents_sha256


def _is_archive(path: Path) -> bool:
    from ..mar import is_archive_folder

    try:
        return path.is_file() or is_archive_folder(path)
    except OSError as error:  # somebody else's folder, or a name that is too long
        raise ArchiveError(f"{path}: {error.strerror}") from None


def _register_on(
    host: Host,
    archive: Path,
    known: Archive | None,
    workers: int | None,
    wait: float,
    hold: Callable[[str], None],
    step: Callable[[str], None],
    *,
    load: bool,
) -> ModelVersion:
    """The version that was registered, READY; else it is unregistered again, and so is another than meant.

    `hold` is told which model is changed: where the archive is not here, only the server knows, afterwards.
    """
    from ..server import unpacking

    server, management = host.server, host.server.management
    before = _registered(server)
    sizes = [] if known is None or known.path.is_dir() else [file.size for file in known.files]
    try:
        with unpacking(host.running, archive.name, sizes):
            management.register(archive.name, initial_workers=workers if workers is not None else 1)
    except (AlreadyRegistered, ArchiveNotInStore) as error:
        hint = _instead(error, known, host.store)
        told = type(error)(f"{hint}: {error}", status=error.status, body=error.body)
        told.hint = hint
        raise told from None
    name, version = _the_new_one(_registered(server) - before, known)
    try:
        _require_manageable(f"the server's {archive.name}: its", name, version)
        hold(name)
        if known is not None and (name, version) != (known.name, known.version):
            raise ReleaseError(
                f"the server's {archive.name} is {name} {version}, the one here ({known.path}) is "
                f"{known.name} {known.version}"
            )
        step("waiting until its workers are READY")
        wanted = management.describe(name, version).min_workers if workers is None else workers
        return management.bring_up(archive.name, name, version, wanted, timeout=wait)
    except (ArchiveError, ReleaseError, WorkersNotReady) as error:
        local = None if known is None or not load else known.path
        raise _with_reason(error, local, _taken_back(management, name, version)) from error
    except BaseException:  # Ctrl-C as well
        _taken_back(management, name, version)
        raise


def _instead(error: Exception, known: Archive | None, store: Path | None) -> str:
    """What to do about an archive that the server did not register."""
    from ..mar import find_archives

    if isinstance(error, AlreadyRegistered):
        named = "NAME VERSION" if known is None else _named(known.name, known.version)
        return (
            f"it is registered already: `torchmar unregister {named}` first, or build it as another version"
        )
    names = [] if store is None else [path.name for path in find_archives(store)]
    return f"give the name of an archive that is in the server's model store{listed(names, ': ')}"


def _with_remedy(fleet: Fleet, name: str) -> AbstractContextManager[None]:
    return with_remedy({host.name: host.server for host in fleet.hosts}, name)


def _required(version: str | None, fleet: Fleet, name: str) -> AbstractContextManager[str]:
    return nullcontext(required(version, {host.name: host.server for host in fleet.hosts}, name))


def _taken_back(management: Management, name: str, version: str) -> str:
    """What came of unregistering it again, in words."""
    try:
        management.take_away(name, version)
    except ClientError as error:
        return f"It could not be unregistered: {error}"
    return "It was unregistered again"


def _registered(connected: Server) -> set[tuple[str, str]]:
    """Name and version of all that is registered; no version where the name cannot be asked for."""
    management = connected.management
    found = set()
    for entry in management.models():
        try:
            found |= {(one.name, one.version) for one in management.versions(entry.name)}
        except ModelNotFound:
            pass  # somebody else has unregistered it since
        except UnmanageableName:
            found.add((entry.name, ""))
    return found


def _the_new_one(new: set[tuple[str, str]], known: Archive | None) -> tuple[str, str]:
    """Others may register at the same time; what the archive that is known says is told apart from theirs."""
    if known is not None and (known.name, known.version) in new:
        return known.name, known.version
    if len(new) != 1:
        versions = ", ".join(_named(*one) for one in sorted(new))
        raise ClientError(f"which version was registered cannot be told: {versions or 'none'} is new")
    return new.pop()


def _with_reason(error: Exception, local: Path | None, then: str) -> Exception:
    """And what was done about it. Where the server's log could not be read, a dry run here tells why."""
    from ..worker import check_archive

    text = f"{error}\n  {then}"
    if isinstance(error, WorkerFailedToLoad) and not error.reason and local is not None:
        try:
            check = check_archive(local, timeout=120)
        except ArchiveError:  # it cannot be unpacked here, which says nothing of the server
            return type(error)(text)
        if not check.ok:
            text = f"{error}\n  loading it here: {check.reason}\n  {then}"
    return type(error)(text)


def set_default(
    name: Name,
    servers: FleetOptions,
    version: Version = None,
    force: Annotated[bool, "Even if it has no worker that is READY."] = False,
) -> Shown:
    """Make a version answer requests that name none. Nothing is lost by it: it is a swap of a pointer.

    A version without a READY worker is refused, which TorchServe does not do: every request would fail.
    """
    told: dict[str, dict[str, Any]] = {}
    with (
        servers.fleet() as fleet,
        _with_remedy(fleet, name),
        _required(version, fleet, name) as number,
        lib.by_hand(fleet, name, "set-default"),
    ):
        for host in fleet.hosts:  # all of them before any is changed
            described = host.server.management.describe(name, number)
            if described.ready_workers == 0 and not force:
                scale = f"torchmar scale {shown(name, LONGEST)} 1 --version {shown(number, LONGEST)}"
                raise ReleaseError(
                    f"{described}: has no worker that is READY on {host.name}, so every request would fail. "
                    f"`{scale}` first, or --force"
                )
        for host in fleet.hosts:
            previous = host.server.management.default_version(name)
            host.server.management.set_default(name, number)
            told[host.name] = {"name": name, "default": number, "previous": previous}
    before = sorted({one["previous"] for one in told.values()} - {number})
    back = f" (back: torchmar set-default {name} {before[0]}{servers.as_typed})" if len(before) == 1 else ""
    text = f"{shown(name, LONGEST)}: default is {shown(number, LONGEST)}{shown(back, 1000)}"
    return Shown(servers.of_each(told), partial(print_lines, text))


def unregister(
    name: Name,
    servers: FleetOptions,
    version: Version = None,
    force: Annotated[bool, "Even if requests wait in its queue."] = False,
) -> Shown:
    """Remove a version and end its workers.

    TorchServe kills them at once, and requests in the queue are never answered: a version whose queue is not
    empty is refused. Make another version the default first, and wait until the last answers have come.
    """
    told: dict[str, dict[str, Any]] = {}
    with (
        servers.fleet() as fleet,
        _with_remedy(fleet, name),
        _required(version, fleet, name) as number,
        lib.by_hand(fleet, name, "unregister"),
    ):
        for host in fleet.hosts:
            described = host.server.management.describe(name, number)
            waiting = described.queue.pending_requests
            if waiting and not force:
                raise ClientError(
                    f"{described}: {waiting} requests wait in its queue on {host.name} and would never be "
                    "answered. Make another version the default, wait, and try again, or --force"
                )
        for host in fleet.hosts:
            host.server.management.take_away(name, number)
            told[host.name] = {"name": name, "version": number, "unregistered": True}
    return Shown(servers.of_each(told), partial(print_lines, f"{_named(name, number)}: unregistered"))


def scale(
    name: Name,
    workers: Annotated[int, Option("How many workers.", min=0)],
    servers: FleetOptions,
    printer: EventPrinter,
    version: Annotated[str | None, "Instead of the default version."] = None,
    force: Annotated[bool, "End workers at once, whatever they do."] = False,
    wait: WaitOption = 120.0,
    longest: LongestOption = None,
) -> Shown:
    """Set the number of workers of a version, and wait until that many are READY.

    TorchServe ends workers at once, and what they had in hand runs twice or fails. So for fewer, the version
    is made idle first; while it is the default, a standby made of its archive answers for it.
    """
    told: dict[str, dict[str, Any]] = {}
    built_for = None
    with (
        servers.fleet(printer) as fleet,
        _with_remedy(fleet, name),
        lib.by_hand(fleet, name, "scale") as on,
    ):
        for host in fleet.hosts:
            management = host.server.management
            before = management.describe(name, version)
            was_interrupted = any(lib.is_standby(one.version) for one in management.versions(name))
            if force or (workers >= len(before.workers) and not was_interrupted):
                on(host)("scale")
                with progress(f"scaling {shown(name)}") as step:
                    step(f"waiting until {workers} workers are READY")
                    model = management.bring_up(before.archive, name, before.version, workers, timeout=wait)
            elif host.store is None:
                raise _no_store(host.name)
            else:
                pace = lib.WaitPolicy(longest, on_step=on(host))
                model = lib.scale(host.server, host.store, name, workers, pace, version=version)
            told[host.name] = version_facts(model, management.default_version(name) == model.version)
            if workers > before.max_workers:
                built_for = before.max_workers
    notes = []
    if built_for is not None:
        notes.append(
            f"raise maxWorkers in model.yaml and build it again: the archive was built for {built_for} worker"
            f"{'' if built_for == 1 else 's'} (maxWorkers),\nand more have more threads than processors"
        )
    lines = [
        f"{servers.at(where)}{_named(one['name'], one['version'])}: {one['ready_workers']} READY"
        for where, one in told.items()
    ]
    return Shown(servers.of_each(told), partial(print_lines, *lines), notes)


def repair(
    name: Name,
    servers: FleetOptions,
    printer: EventPrinter,
    version: Annotated[str | None, "Instead of the default version."] = None,
    longest: LongestOption = None,
) -> Shown:
    """Replace workers that are dead and still listed, without losing a request.

    TorchServe starts a worker that died again only for a while; after that it counts it as a worker forever.
    """
    told: dict[str, Repaired] = {}
    with (
        servers.fleet(printer) as fleet,
        _with_remedy(fleet, name),
        lib.by_hand(fleet, name, "repair") as on,
    ):
        for host in fleet.hosts:
            if host.store is None:
                raise _no_store(host.name)
            alive = lib.process_alive if host.local else None
            pace = lib.WaitPolicy(longest, on_step=on(host))
            told[host.name] = lib.repair(host.server, host.store, name, version, pace, alive=alive)
    lines = [
        f"{servers.at(where)}{_named(one.model, one.version)}: "
        f"{f'replaced {len(one.replaced)}' if one.replaced else 'none is dead'}, {one.workers} workers"
        for where, one in told.items()
    ]
    facts = servers.of_each({where: asdict(one) for where, one in told.items()})
    return Shown(facts, partial(print_lines, *lines))


def _named(name: str, version: str) -> str:
    return f"{shown(name, LONGEST)} {shown(version, LONGEST)}"


def _no_store(host: str) -> Exception:
    return ReleaseError(
        f"{host}: its model store cannot be reached from here, which it takes to lose nothing: give --store, "
        "or --force to scale all the same"
    )
