"""One TorchServe server that is released to, and what can be known of it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .. import mar
from ..client import Server
from ..errors import ArchiveNotInStore, ClientError, ModelNotFound, NotAllowed, ReleaseError, SignatureError
from ..mar import Archive
from ..signature import verify_signature
from ._options import Options
from ._plan import Facts, InStore, immutable_name
from ._served import Served, ServedVersion
from .traffic.nginx import servers_of
from .traffic.recorded import read_recorded

_NO_SUCH_ARCHIVE = "torchmar-asks-whether-it-may-register.mar"


@dataclass(frozen=True)
class Host:
    """A server under a name. `store` is its model store, None where it cannot be reached from here.

    `local` tells whether it runs on this machine, so that this machine's memory is its. `max_body` is how
    many bytes a request may have by its configuration, None where that is not known here.
    """

    name: str
    server: Server
    store: Path | None = None
    local: bool = False
    max_body: int | None = None


def observe(server: Server, model: str) -> Served:
    """What a server serves of a model now. Raises ClientError."""
    management = server.management
    try:
        default = management.default_version(model)
        versions = management.versions(model)
    except ModelNotFound:
        return Served(model)
    return Served(model, default, tuple(ServedVersion.of(version) for version in versions))


def look(host: Host, archive: Archive, options: Options) -> Facts:
    """Everything that a plan depends on. Raises ClientError where the server does not answer."""
    if host.store is not None and not host.store.is_dir():
        raise ReleaseError(f"{host.store}: no such folder, expected the model store of {host.name}")
    if options.shadow:
        # What is wrong with the files is told now.
        read_recorded(options.shadow, archive.name, options.shadow_limits)
    if options.canary and options.nginx is not None:
        upstreams(host, Path(options.nginx))  # and so is what is wrong with nginx's
    served = observe(host.server, archive.name)
    may, why = _may_register(host)
    store = host.store
    return Facts(
        host=host.name,
        served=served,
        in_store=in_store(host, archive),
        no_store="" if store is None else _not_writable(store),
        no_nginx="" if options.nginx is None else _not_writable(Path(options.nginx).resolve().parent),
        free_disk=None if store is None else shutil.disk_usage(store).free,
        free_memory=_free_memory() if host.local else None,
        file_system=None if store is None else store.stat().st_dev,
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
    try:
        found = servers_of(nginx.read_text(encoding="utf-8")) if nginx.exists() else ()
    except (OSError, UnicodeDecodeError):
        found = ()  # what writes it will not write over what cannot be read
    if found and address.netloc not in found:
        raise ReleaseError(
            f"{nginx}: nginx sends to {', '.join(found)} by it, and not to {address.netloc}, the inference "
            "address of this server: give its address as it is there, or have nginx use another file"
        )
    return found or (address.netloc,), address.netloc


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
    if not stored.exists():
        return "absent"
    return "same" if is_same(stored, archive) else "other"


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


def _free_memory() -> int | None:
    try:
        import psutil
    except ModuleNotFoundError:
        return None
    return int(psutil.virtual_memory().available)
