"""Put an archive into a store: complete and on disk first, then under its name."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..errors import ArchiveError, ArchiveExists
from ..files import DISK_FULL, remove_tree, sync_folder
from ..mar import DIGESTS, Archive, FileEntry, archive_from_files, listing
from ..processes import own_token
from ..unpack import opened, require_sound
from ._folder import write_folder
from ._source import Contents, Source
from ._zip import write_zip


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Yield a name next to `target` to write under; removes what is left there at the end.

    The name begins with a dot: when TorchServe loads its whole store, it skips hidden files.
    """
    temporary = _hidden(target, "tmp")
    try:
        yield temporary
    finally:
        _remove(temporary)


def write(
    contents: Contents, path: Path, *, target: Path | None = None, sync: bool = True
) -> tuple[FileEntry, ...]:
    """Write a new .mar, or a folder if `target` (by default `path`) does not end in .mar; returns its files.

    With `sync`, they are on disk. Raises ArchiveError and leaves partial files: see `beside`.
    """
    target = target or path
    sizes = [len(content) if isinstance(content, bytes) else content.size for content in contents.values()]
    require_sound(target, list(contents), sizes)
    try:
        return (write_zip if target.suffix == ".mar" else write_folder)(contents, path, sync=sync)
    except OSError as error:
        raise write_error(target, error, sum(sizes)) from error


def verify_written(path: Path, files: tuple[FileEntry, ...], contents: Contents) -> Archive:
    """Read what was written at `path`: complete, by its checksums, and in its form.

    `write` computed the digests on the way. Raises ArchiveError if it has changed since, ArchiveCorrupt if it
    is no archive.
    """
    with opened(path) as written, ThreadPoolExecutor(1) as aside:
        whole = aside.submit(written.sha256)
        for name in written.sizes if path.is_file() else ():
            for _ in written.blocks(name):  # compares each with its CRC-32
                pass
        sha256 = whole.result()

    def read_file(name: str) -> bytes | None:
        content = listing(files) if name == DIGESTS else contents.get(name)
        return content.read() if isinstance(content, Source) else content

    return archive_from_files(path, files, read_file, sha256)


def publish(temporary: Path, target: Path, *, force: bool) -> None:
    """Give a written archive its name. Replaces another archive only with `force`.

    Raises ArchiveExists, ArchiveError.
    """
    try:
        if temporary.is_dir():
            _publish_folder(temporary, target, force=force)
        elif force:
            temporary.replace(target)
        else:
            _publish_file(temporary, target)
        sync_folder(target.parent)
    except OSError as error:
        raise write_error(target, error) from error


def _publish_file(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # fails if the name exists, so there is no gap between check and use
    except FileExistsError:
        raise name_taken_error(target) from None
    except OSError:  # no hard links on this filesystem
        if target.exists():
            raise name_taken_error(target) from None
        temporary.replace(target)


def _publish_folder(temporary: Path, target: Path, *, force: bool) -> None:
    try:
        temporary.rename(target)  # fails if the name exists, unless it is an empty folder
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}:
            raise
        if not force:
            raise name_taken_error(target) from None
        previous = _hidden(target, "old.tmp")
        target.rename(previous)
        try:
            temporary.rename(target)
        except OSError:
            previous.rename(target)
            raise
        _remove(previous)


def name_taken_error(target: Path, *, built: bool = True) -> ArchiveExists:
    """Return the error for a name that other contents have, before or after new ones were `built`."""
    yet = "" if built else ", and nothing was built or checked of what is here now"
    return ArchiveExists(
        f"{target} is there already, built from something else{yet}. A served version should not change: "
        "raise `version` in model.yaml (or give --version), or --replace"
    )


def write_error(target: Path, error: OSError, size: int = 0) -> ArchiveError:
    """Return the error for a failed write; `size` is in bytes."""
    what = f"{target}: could not be written: {error.strerror or error}"
    if error.errno in DISK_FULL:
        free = shutil.disk_usage(target.parent).free
        what += f" ({size:,} bytes are needed, {free:,} are free in {target.parent})"
    return ArchiveError(what)


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{own_token()}-{secrets.token_hex(4)}.{kind}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink(missing_ok=True)
