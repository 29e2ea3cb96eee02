"""Register an archive on each server of a fleet: the one that is meant, and nothing that will not load."""

from __future__ import annotations

import filecmp
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from .. import mar
from ..client import Management, ModelVersion, Server
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
from ..mar import Archive
from ..names import listed, name_problem, named, version_problem
from ..release import Fleet, Host
from ..server import unpacking
from ..worker import check_archive
from ._journaled import journaled_change


def register(
    fleet: Fleet,
    archive: Path,
    known: Archive | None = None,
    *,
    workers: int | None = None,
    default: bool = False,
    timeout: float = 120.0,
    load: bool = True,
    directory: Path | None = None,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> dict[str, ModelVersion]:
    """Register an archive on all hosts, wait until its workers are READY, and return its version by host.

    `archive` is a path here, also relative to `directory` in which the server runs, or the name of a file in
    the model store. `workers` None means the archive's minWorkers. A version that does not load is
    unregistered again; with `load` an archive of which no server says why is loaded here, which runs its
    code. The first version of a model becomes the default, another one with `default`.

    Raises ArchiveError where a host would take another archive than this one; ReleaseError, ClientError.
    """
    if known is None:
        known = local_archive(archive, directory or Path())
    for host in fleet.hosts:
        known = _in_store(archive, known, host, directory)
    if known is not None:
        _require_manageable(f"{known.path}: its", known.name, known.version)
    found: dict[str, ModelVersion] = {}
    with ExitStack() as stack:
        held: set[str] = set()

        def hold(name: str) -> None:
            if name not in held:
                kind = "set-default" if default else "register"
                stack.enter_context(journaled_change(fleet, name, kind))
                held.add(name)

        if known is not None:
            hold(known.name)
        for host in fleet.hosts:
            model = _register_on(host, archive, known, workers, timeout, hold, on_progress, load=load)
            if default:
                host.server.management.set_default(model.name, model.version)
            found[host.name] = model
    return found


def local_archive(archive: Path, directory: Path) -> Archive | None:
    """Return the archive on this machine, verified; None for the name of a file in the server's store.

    A path is looked up here and in the `directory` that the server runs in. Raises ArchiveError.
    """
    path = _local_path(archive, directory)
    return None if path is None else mar.verify(path)


def _local_path(archive: Path, directory: Path) -> Path | None:
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
    """Raise ArchiveError for a name that TorchServe registers and nobody can manage then."""
    for what, problem in (("name", name_problem(name)), ("version", version_problem(version))):
        if problem is not None:
            raise ArchiveError(f"{whose} model's {what} cannot be managed: {problem}. Build it under another")


def _in_store(archive: Path, known: Archive | None, host: Host, directory: Path | None) -> Archive | None:
    """Return the archive that the host would take, where its store can be seen; else `known`.

    The host may run in `directory`. Raises ArchiveError where it would take another archive than `known`.
    """
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
        return mar.verify(stored)
    if not _same_archive(known.path, stored):
        raise ArchiveError(
            f"{known.path} is not what the server would take: {stored} has other contents. Copy it there "
            "under a name of its own, or build it with --store"
        )
    return known


def _same_archive(one: Path, other: Path) -> bool:
    if one.samefile(other):
        return True
    if one.is_file() and other.is_file():
        return filecmp.cmp(one, other, shallow=False)
    return mar.read(one).contents_sha256 == mar.read(other).contents_sha256


def _is_archive(path: Path) -> bool:
    try:
        return path.is_file() or mar.is_archive_folder(path)
    except OSError as error:  # somebody else's folder, or a name that is too long
        raise ArchiveError(f"{path}: {error.strerror}") from None


def _register_on(
    host: Host,
    archive: Path,
    known: Archive | None,
    workers: int | None,
    timeout: float,
    hold: Callable[[str], None],
    on_progress: Callable[[str], None],
    *,
    load: bool,
) -> ModelVersion:
    """Return the registered version when it is READY; else unregister it again, and any other one.

    `hold` gets the name of the model: without the archive here, only the server knows it, afterwards.
    """
    server, management = host.server, host.server.management
    before = _registered(server)
    sizes = [] if known is None or known.path.is_dir() else [file.size for file in known.files]
    try:
        with unpacking(host.running, archive.name, sizes):
            management.register(archive.name, initial_workers=workers if workers is not None else 1)
    except (AlreadyRegistered, ArchiveNotInStore) as error:
        hint = _instead(error, known, host.store)
        refused = type(error)(f"{hint}: {error}", status=error.status, body=error.body)
        refused.hint = hint
        raise refused from None
    name, version = _the_new_one(_registered(server) - before, known)
    try:
        _require_manageable(f"the server's {archive.name}: its", name, version)
        hold(name)
        if known is not None and (name, version) != (known.name, known.version):
            raise ReleaseError(
                f"the server's {archive.name} is {name} {version}, the one here ({known.path}) is "
                f"{known.name} {known.version}"
            )
        on_progress("waiting until its workers are READY")
        wanted = management.describe(name, version).min_workers if workers is None else workers
        return management.bring_up(archive.name, name, version, wanted, timeout=timeout)
    except (ArchiveError, ReleaseError, WorkersNotReady) as error:
        local = None if known is None or not load else known.path
        raise _with_reason(error, local, _taken_back(management, name, version)) from error
    except BaseException:  # Ctrl-C as well
        _taken_back(management, name, version)
        raise


def _instead(error: Exception, known: Archive | None, store: Path | None) -> str:
    """Return what to do about an archive that the server did not register."""
    if isinstance(error, AlreadyRegistered):
        which = "NAME VERSION" if known is None else named(known.name, known.version)
        return (
            f"it is registered already: `torchmar unregister {which}` first, or build it as another version"
        )
    names = [] if store is None else [path.name for path in mar.find_archives(store)]
    return f"give the name of an archive that is in the server's model store{listed(names, ': ')}"


def _taken_back(management: Management, name: str, version: str) -> str:
    """Unregister it again, and return what came of that."""
    try:
        management.take_away(name, version)
    except ClientError as error:
        return f"It could not be unregistered: {error}"
    return "It was unregistered again"


def _registered(connected: Server) -> set[tuple[str, str]]:
    """Return name and version of all that is registered; '' for the version of an unmanageable name."""
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
    """Return the name and version that was registered; others may register at the same time."""
    if known is not None and (known.name, known.version) in new:
        return known.name, known.version
    if len(new) != 1:
        versions = ", ".join(named(*one) for one in sorted(new)) or "none"
        are = "are" if len(new) > 1 else "is"
        raise ClientError(f"which version was registered is unknown: {versions} {are} new")
    return new.pop()


def _with_reason(error: Exception, local: Path | None, then: str) -> Exception:
    """Return the error with what was done about it; where the server does not say why, load it here."""
    text = f"{error}\n  {then}"
    if isinstance(error, WorkerFailedToLoad) and not error.reason and local is not None:
        try:
            check = check_archive(local, timeout=120)
        except ArchiveError:  # it cannot be unpacked here, which says nothing of the server
            return type(error)(text)
        if not check.ok:
            text = f"{error}\n  loading it here: {check.reason}\n  {then}"
    return type(error)(text)
