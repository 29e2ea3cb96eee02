"""Gather the facts that the plan of a release depends on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from .. import mar
from ..errors import ArchiveNotInStore, ClientError, NotAllowed, ReleaseError, TorchmarError
from ..files import why_not_writable
from ..mar import Archive
from ..measure.recorded import read_recorded
from ..signature import verify_signature
from ._canary import router_of, share_of
from ._fleet import Host, ServedState, observe
from ._options import Options

InStore = Literal["absent", "same", "other", "unknown"]

_NO_SUCH_ARCHIVE = "torchmar-asks-whether-it-may-register.mar"


@dataclass(frozen=True)
class Facts:
    """Holds what is known of a host before a release, in bytes; None is what cannot be seen from here.

    `desired` is the default version by the journal. `file_system` is where the store is. The
    server unpacks archives into the folder `temporary`, which has its own `free_temporary` and file system.
    `taken_disk`, `taken_temporary` and `taken_memory` are reserved for the servers of this machine before it.
    """

    host: str
    served: ServedState
    in_store: InStore = "absent"
    no_store: str = ""
    """Why nothing can be put into the store; '' where it can."""
    free_disk: int | None = None
    free_memory: int | None = None
    file_system: int | None = None
    temporary: str = ""
    free_temporary: int | None = None
    temporary_file_system: int | None = None
    taken_disk: int = 0
    taken_temporary: int = 0
    taken_memory: int = 0
    no_rights: str = ""
    """Why models may not be registered; '' where they may."""
    no_predictions: str = ""
    """Why the inference API does not answer; '' where it does."""
    no_canary: str = ""
    """Why the router cannot give the candidate a share; '' where it can, or no canary is wanted."""
    no_metrics: str = ""
    """Why the metrics cannot be had; '' where they can."""
    signature: str | None = None
    """None: nobody asked; '' where it is good; else what is wrong with it."""
    desired: str | None = None


def immutable_name(archive: Archive) -> str:
    """Return NAME-VERSION.mar, without .mar for a folder: the only file that a version is served from."""
    suffix = "" if archive.path.is_dir() else ".mar"
    return f"{archive.name}-{archive.version}{suffix}"


def gather_facts(host: Host, archive: Archive, options: Options, desired: str | None = None) -> Facts:
    """Return everything that a plan depends on; `desired` see Facts. Raises ReleaseError, ClientError."""
    try:
        if host.store is not None and not host.store.is_dir():
            raise ReleaseError(f"{host.store}: no such folder, expected the model store of {host.name}")
        return _look(host, archive, options, desired)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ReleaseError(f"{where}{error.strerror or error}, looking at {host.name}") from error


def _look(host: Host, archive: Archive, options: Options, desired: str | None) -> Facts:
    if options.shadow:
        # Raises for a file with a fault, before anything is done.
        read_recorded(options.shadow, archive.name, options.shadow_limits)
    key, served = options.public_key, observe(host.server, archive.name)
    store, temporary = host.store, None if host.running is None else host.running.unpacks_into
    unpacks_into = None if temporary is None else _nearest(temporary)
    return Facts(
        host=host.name,
        served=served,
        in_store=in_store(host, archive),
        no_canary=_no_canary(host, archive, served, options),
        no_store="" if store is None else why_not_writable(store),
        free_disk=None if store is None else shutil.disk_usage(store).free,
        free_memory=_free_memory() if host.local else None,
        file_system=None if store is None else store.stat().st_dev,
        temporary=str(temporary or ""),
        free_temporary=None if unpacks_into is None else shutil.disk_usage(unpacks_into).free,
        temporary_file_system=None if unpacks_into is None else unpacks_into.stat().st_dev,
        no_rights=_no_rights(host),
        no_predictions=_problem(host.server.inference.ping),
        no_metrics=_no_metrics(host),
        signature=None if key is None else _problem(partial(verify_signature, archive, Path(key))),
        desired=desired,
    )


def _no_canary(host: Host, archive: Archive, served: ServedState, options: Options) -> str:
    """Return why the router cannot give the candidate a share; '' where it can, or none is wanted."""
    if not options.canary or served.default is None or (router := router_of(options)) is None:
        return ""
    share = share_of(host, archive.name, archive.version, options.canary[0], served.default)
    reasons = (router.why_not(replace(share, percent=percent)) for percent in options.canary)
    return next(filter(None, reasons), "")


def in_store(host: Host, archive: Archive) -> InStore:
    """Return whether the store has this archive under its immutable name. Raises ArchiveError."""
    if host.store is None:
        return "unknown"
    stored = host.store / immutable_name(archive)
    _require_not_instead(host, stored)
    if not stored.exists():
        return "absent"
    return "same" if is_same(stored, archive) else "other"


def _require_not_instead(host: Host, stored: Path) -> None:
    """Raise ReleaseError where the server would serve another folder.

    TorchServe looks for a folder of that name where it runs before it looks into its model store.
    """
    if host.running is None:
        return
    instead = host.running.folder / stored.name
    if instead.is_dir() and not (stored.exists() and instead.samefile(stored)):
        raise ReleaseError(
            f"{instead}: rename this folder: {host.name} runs there, and would serve it instead of what is "
            "in its model store under that name"
        )


def is_same(stored: Path, archive: Archive) -> bool:
    """Return whether a file or folder is an archive to the byte. Raises ArchiveError, OSError."""
    if stored.is_dir() != archive.path.is_dir():
        return False
    if stored.is_file():
        return mar.file_sha256(stored) == archive.sha256
    return mar.read(stored).contents_sha256 == archive.contents_sha256


def _no_rights(host: Host) -> str:
    """Return why models may not be registered, by asking for an archive that is not there; else ''."""
    try:
        host.server.management.register(_NO_SUCH_ARCHIVE, initial_workers=0)
    except ArchiveNotInStore:
        return ""
    except NotAllowed as error:
        return str(error)
    except ClientError as error:
        return f"registering would fail: {error}"
    return ""


def _problem(call: Callable[[], object]) -> str:
    """Return what goes wrong with a call; '' where nothing does."""
    try:
        call()
    except TorchmarError as error:
        return str(error)
    return ""


def _no_metrics(host: Host) -> str:
    """Return why the watch will see no real traffic; '' where it will. Who has answered once has counters."""
    try:
        samples = host.server.metrics.samples()
    except ClientError as error:
        return str(error)
    return "" if samples else "the server shows no metrics (metrics_mode=prometheus in its configuration)"


def _nearest(folder: Path) -> Path | None:
    """Return the folder, or the one that it would be made in; None where that cannot be seen."""
    with suppress(OSError):
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return folder
    return None


def _free_memory() -> int | None:
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    return int(psutil.virtual_memory().available)
