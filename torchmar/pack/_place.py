"""Putting an archive into a store: whole, on disk, and only then under its name."""

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
from ..files import DISK_FULL, remove_tree
from ..mar import DIGESTS, Archive, FileEntry, assemble, listing
from ..processes import own_token
from ..unpack import opened, require_sound
from ._folder import sync_folder, write_folder
from ._source import Contents, Source
from ._zip import write_zip


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A name beside `target` to write it under; what is left there at the end is removed.

    It begins with a dot: TorchServe, where it loads all that its store holds, passes over hidden files.
    """
    temporary = _hidden(target, "tmp")
    try:
        yield temporary
    finally:
        _remove(temporary)


def write(
    contents: Contents, path: Path, *, target: Path | None = None, sync: bool = True
) -> tuple[FileEntry, ...]:
    """Write a new .mar, or a folder where `target` (by default `path`) does not end in .mar; what is in it.

    With `sync` it is on disk then. Raises ArchiveError, and leaves what was written so far: see `beside`.
    """
    target = target or path
    sizes = [len(content) if isinstance(content, bytes) else content.size for content in contents.values()]
    require_sound(target, list(contents), sizes)
    try:
        return (write_zip if target.suffix == ".mar" else write_folder)(contents, path, sync=sync)
    except OSError as error:
        raise not_written(target, error, sum(sizes)) from error


def read_back(path: Path, files: tuple[FileEntry, ...], contents: Contents) -> Archive:
    """What was written at `path`, as reading it would tell: whole, by its checksums, and in its form.

    `write` has digested it on its way. Raises ArchiveError where it is another by now, ArchiveCorrupt where
    all that does not make an archive.
    """
    with opened(path) as written, ThreadPoolExecutor(1) as aside:
        whole = aside.submit(written.sha256)
        for name in written.sizes if path.is_file() else ():
            for _ in written.blocks(name):  # each is held against its CRC-32
                pass
        sha256 = whole.result()

    def read_file(name: str) -> bytes | None:
        content = listing(files) if name == DIGESTS else contents.get(name)
        return content.read() if isinstance(content, Source) else content

    return assemble(path, files, read_file, sha256)


def publish(temporary: Path, target: Path, *, force: bool) -> None:
    """Give a written archive its name; never that of another one, unless `force`.

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
        raise not_written(target, error) from error


def _publish_file(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # fails where the name is taken: no gap between asking and doing
    except FileExistsError:
        raise taken(target) from None
    except OSError:  # no hard links on this filesystem
        if target.exists():
            raise taken(target) from None
        temporary.replace(target)


def _publish_folder(temporary: Path, target: Path, *, force: bool) -> None:
    try:
        temporary.rename(target)  # fails where the name is taken, but for an empty folder
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}:
            raise
        if not force:
            raise taken(target) from None
        previous = _hidden(target, "old.tmp")
        target.rename(previous)
        try:
            temporary.rename(target)
        except OSError:
            previous.rename(target)
            raise
        _remove(previous)


def taken(target: Path, *, built: bool = True) -> ArchiveExists:
    """What to raise where the name belongs to other contents; before or after new ones were `built`."""
    yet = "" if built else ", and nothing was built or checked of what is here now"
    return ArchiveExists(
        f"{target} is there already, built from something else{yet}. A served version should not change: "
        "raise `version` in model.yaml (or give --version), or --replace"
    )


def not_written(target: Path, error: OSError, size: int = 0) -> ArchiveError:
    """What to raise where the system would not take it; `size` in bytes."""
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
