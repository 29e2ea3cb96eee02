"""Gather the facts that the plan of a release depends on."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from .. import mar
from ..errors import ArchiveNotInStore, ClientError, NotAllowed, ReleaseError, SignatureError
from ..files import why_not_writable
from ..mar import Archive
from ..measure.recorded import read_recorded
from ..signature import verify_signature
from ._canary import router_of, share_of
from ._fleet import Host, observe
from ._options import Options
from ._plan import Facts, InStore, immutable_name
from ._state import ServedState

_NO_SUCH_ARCHIVE = "torchmar-asks-whether-it-may-register.mar"


def gather_facts(host: Host, archive: Archive, options: Options) -> Facts:
    """Return everything that a plan depends on. Raises ReleaseError, ClientError."""
    try:
        if host.store is not None and not host.store.is_dir():
            raise ReleaseError(f"{host.store}: no such folder, expected the model store of {host.name}")
        return _look(host, archive, options)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ReleaseError(f"{where}{error.strerror or error}, looking at {host.name}") from error


def _look(host: Host, archive: Archive, options: Options) -> Facts:
    if options.shadow:
        # Raises for a file with a fault, before anything is done.
        read_recorded(options.shadow, archive.name, options.shadow_limits)
    served = observe(host.server, archive.name)
    may, why = _may_register(host)
    store, unpacks_into = host.store, None if host.temporary is None else _nearest(host.temporary)
    return Facts(
        host=host.name,
        served=served,
        in_store=in_store(host, archive),
        no_canary=_no_canary(host, archive, served, options),
        no_store="" if store is None else why_not_writable(store),
        free_disk=None if store is None else shutil.disk_usage(store).free,
        free_memory=_free_memory() if host.local else None,
        file_system=None if store is None else store.stat().st_dev,
        temporary=str(host.temporary or ""),
        free_temporary=None if unpacks_into is None else shutil.disk_usage(unpacks_into).free,
        temporary_file_system=None if unpacks_into is None else unpacks_into.stat().st_dev,
        may_register=may,
        why_not=why,
        no_predictions=_no_predictions(host),
        no_metrics=_no_metrics(host),
        signature=_signature(archive, options),
    )


def _no_canary(host: Host, archive: Archive, served: ServedState, options: Options) -> str:
    """Return why the router cannot give the candidate a share; '' where it can, or none is wanted."""
    router = router_of(options)
    if router is None or not options.canary or served.default is None:
        return ""
    share = share_of(host, archive.name, archive.version, options.canary[0], served.default)
    reasons = (router.why_not(replace(share, percent=percent)) for percent in options.canary)
    return next(filter(None, reasons), "")


def _signature(archive: Archive, options: Options) -> str | None:
    if options.public_key is None:
        return None
    try:
        verify_signature(archive, Path(options.public_key))
    except SignatureError as error:
        return str(error)
    return ""


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


def _may_register(host: Host) -> tuple[bool, str]:
    """Return whether models may be registered, and why not: by asking for an archive that is not there."""
    try:
        host.server.management.register(_NO_SUCH_ARCHIVE, initial_workers=0)
    except ArchiveNotInStore:
        return True, ""
    except NotAllowed as error:
        return False, str(error)
    except ClientError as error:
        return False, f"registering would fail: {error}"
    return True, ""


def _no_predictions(host: Host) -> str:
    """Return why the inference API does not answer, as where the token is another server's; else ''."""
    try:
        host.server.inference.ping()
    except ClientError as error:
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
