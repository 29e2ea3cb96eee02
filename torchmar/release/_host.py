"""One TorchServe server that is released to, and what can be known of it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .. import mar
from ..client import Server
from ..errors import ArchiveNotInStore, ClientError, ModelNotFound, NotAllowed, ReleaseError, SignatureError
from ..files import decode_text, read_text
from ..mar import Archive
from ..measure.recorded import read_recorded
from ..names import shown, unsayable
from ..server import RunningServer
from ..signature import verify_signature
from ._options import Options
from ._plan import Facts, InStore, immutable_name
from ._state import ServedState, ServedVersion
from .routers.nginx import is_ours, servers_of

_NO_SUCH_ARCHIVE = "torchmar-asks-whether-it-may-register.mar"


@dataclass(frozen=True)
class Host:
    """A server under a name. `store` is its model store, None where it cannot be reached from here.

    `local` tells whether it runs on this machine, so that this machine's memory is its. `max_body` is how
    many bytes a request may have by its configuration, None where that is not known here. `running` is its
    process, where that is one of this machine that was found.
    """

    name: str
    server: Server
    store: Path | None = None
    local: bool = False
    max_body: int | None = None
    running: RunningServer | None = None

    @property
    def temporary(self) -> Path | None:
        """The folder that it unpacks archives into; None where that is not known here."""
        return None if self.running is None else self.running.unpacks_into


def observe(server: Server, model: str) -> ServedState:
    """What a server serves of a model now, of all that can be managed there. Raises ClientError."""
    management = server.management
    try:
        default = management.default_version(model)
        versions = management.versions(model)
    except ModelNotFound:
        return ServedState(model)
    known = tuple(ServedVersion.of(version) for version in versions if _can_be_said(version.version))
    return ServedState(model, default if _can_be_said(default) else shown(default), known)


def _can_be_said(version: str) -> bool:
    """Whether a version that somebody registered can be said in a URL, and in a line of text."""
    return version.isprintable() and version != "all" and unsayable(version) is None


def gather_facts(host: Host, archive: Archive, options: Options) -> Facts:
    """Everything that a plan depends on. Raises ReleaseError, ClientError."""
    try:
        if host.store is not None and not host.store.is_dir():
            raise ReleaseError(f"{host.store}: no such folder, expected the model store of {host.name}")
        return _look(host, archive, options)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ReleaseError(f"{where}{error.strerror or error}, looking at {host.name}") from error


def _look(host: Host, archive: Archive, options: Options) -> Facts:
    if options.shadow:
        # What is wrong with the files is told now.
        read_recorded(options.shadow, archive.name, options.shadow_limits)
    if options.canary and options.nginx is not None:
        upstreams(host, Path(options.nginx))  # and so is what is wrong with nginx's
        with suppress(OSError, UnicodeDecodeError):
            require_ours(Path(options.nginx), Path(options.nginx).read_bytes())
    served = observe(host.server, archive.name)
    may, why = _may_register(host)
    store, unpacks_into = host.store, None if host.temporary is None else _nearest(host.temporary)
    return Facts(
        host=host.name,
        served=served,
        in_store=in_store(host, archive),
        no_store="" if store is None else _not_writable(store),
        no_nginx="" if options.nginx is None else _not_writable(Path(options.nginx).resolve().parent),
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


def upstreams(host: Host, nginx: Path) -> tuple[tuple[str, ...], str]:
    """All servers that nginx is to send to, those that it sends to already among them; and this host.

    Raises ReleaseError where it sends to others alone, whose clients would be sent away from them.
    """
    address = urlsplit(host.server.inference.address)
    if address.scheme != "http":
        what = f"nginx would ask {host.server.inference.address} without TLS"
        raise ReleaseError(f"{what}: a canary needs an http:// address")
    found: tuple[str, ...] = ()
    with suppress(OSError, UnicodeDecodeError):  # what writes it will not write over what cannot be read
        found = servers_of(read_text(nginx))
    if found and address.netloc not in found:
        raise ReleaseError(
            f"{nginx}: nginx sends to {', '.join(found)} by it, and not to {address.netloc}, the inference "
            "address of this server: give its address as it is there, or have nginx use another file"
        )
    return found or (address.netloc,), address.netloc


def require_ours(nginx: Path, found: bytes | None) -> None:
    """Raises ReleaseError where nginx's file says something that was not written here: it would be lost."""
    if not is_ours(decode_text(found or b"")):
        raise ReleaseError(
            f"{nginx}: give --nginx a file of its own, which your configuration includes: what is in this "
            "one was not written by torchmar, and would be replaced"
        )


def _signature(archive: Archive, options: Options) -> str | None:
    if options.public_key is None:
        return None
    try:
        verify_signature(archive, Path(options.public_key))
    except SignatureError as error:
        return str(error)
    return ""


def in_store(host: Host, archive: Archive) -> InStore:
    """Whether the store has this archive under its immutable name. Raises ArchiveError."""
    if host.store is None:
        return "unknown"
    stored = host.store / immutable_name(archive)
    _require_not_instead(host, stored)
    if not stored.exists():
        return "absent"
    return "same" if is_same(stored, archive) else "other"


def _require_not_instead(host: Host, stored: Path) -> None:
    """Raises ReleaseError for a folder that nobody compares, and that the server would serve.

    TorchServe looks for a folder of the given name where it runs before it looks into its model store.
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
    """Whether a file or folder holds just what an archive does, to the byte. Raises ArchiveError, OSError."""
    if stored.is_dir() != archive.path.is_dir():
        return False
    if stored.is_file():
        return mar.file_sha256(stored) == archive.sha256
    return mar.read(stored).contents_sha256 == archive.contents_sha256


def _may_register(host: Host) -> tuple[bool, str]:
    """Ask for what cannot be there: whoever may register is told that it is not."""
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
    """Why nothing can be asked there, as where the token is another server's."""
    try:
        host.server.inference.ping()
    except ClientError as error:
        return str(error)
    return ""


def _no_metrics(host: Host) -> str:
    """Why the watch will see no real traffic. A server that has answered once has counters to show."""
    try:
        samples = host.server.metrics.samples()
    except ClientError as error:
        return str(error)
    return "" if samples else "the server shows no metrics (metrics_mode=prometheus in its configuration)"


def _not_writable(folder: Path) -> str:
    """Why no file can be made there; '' where one can, as far as can be told without."""
    try:
        if not folder.is_dir():
            return f"{folder}: no such folder"
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: not writable for this user"


def _nearest(folder: Path) -> Path | None:
    """The folder, or the one that it would be made in; None where that cannot be seen."""
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
