"""Handle files: foreign text, other users' files, disk space, and folders of any depth."""

from __future__ import annotations

import codecs
import errno
import itertools
import os
import shutil
import stat
import tempfile
from pathlib import Path


def decode_text(raw: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark; drops the mark.

    Windows editors and shells write such marks. Raises UnicodeDecodeError, a ValueError.
    """
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return raw.decode("utf-16")
    return raw.decode("utf-8-sig")


def read_text(path: Path) -> str:
    """Read a text file from outside. Raises OSError, UnicodeDecodeError."""
    return decode_text(path.read_bytes())


JSON, TEXT, BINARY = "application/json", "text/plain", "application/octet-stream"
"""TorchServe's worker parses the first, decodes the second, and passes the third on unchanged."""


def content_type_of(name: str) -> str:
    """Return a file's content type by its suffix: JSON, text, or bytes."""
    end = name.lower()
    return JSON if end.endswith(".json") else TEXT if end.endswith(".txt") else BINARY


def is_file(path: Path) -> bool:
    """Return whether this user can see such a file; Path.is_file raises in another user's folder."""
    return os.path.isfile(path)  # noqa: PTH113 (it never raises)


def is_folder(path: Path) -> bool:
    """Return whether this user can see such a folder."""
    return os.path.isdir(path)  # noqa: PTH112 (it never raises)


def exists(path: Path) -> bool:
    """Return whether it exists, as far as this user can see."""
    return os.path.exists(path)  # noqa: PTH110 (it never raises)


DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
"""The OSError numbers for a full disk, or an exhausted quota."""


def free_bytes(folder: Path) -> int | None:
    """Return the bytes that this user may still write on a folder's disk; None if unknown."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def why_not_writable(folder: Path) -> str:
    """Return why no file can be made in a folder; '' where one can, as far as can be seen without trying."""
    try:
        if not folder.is_dir():
            return f"{folder}: no such folder"
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder}: not writable for this user"


def size(count: int) -> str:
    """Return a number of bytes for people: 18.6 MB."""
    value, units = float(count), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def why_no_file(path: Path) -> str:
    """Return why a file cannot be written; '' where it can, as far as can be seen without trying."""
    if is_folder(path):
        return "it is a folder"
    if not is_folder(path.parent):
        return f"there is no folder {path.parent}"
    return "" if os.access(path if exists(path) else path.parent, os.W_OK) else "not writable for this user"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole: beside it, fsync, rename. Links and permissions stay. Raises OSError."""
    target = path.resolve()
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fchmod(opened.fileno(), mode)
            os.fsync(opened.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Write a folder's list of names to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder and its content. Removes links without following them. Raises OSError.

    shutil.rmtree recurses into each level, and fails at a thousand. Here each folder moves up into the first
    one before it is emptied, so neither calls nor paths become long.
    """
    if folder.is_symlink():
        raise NotADirectoryError(f"{folder} is a symbolic link")
    numbers = itertools.count()
    emptied = [folder]
    while emptied:
        here = emptied.pop()
        _allow_changes(here)
        with os.scandir(here) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink()
                    continue
                child = Path(entry.path)
                if here != folder:
                    _allow_changes(child)  # moving a folder changes its parent entry
                    child = child.rename(_free_name(folder, numbers))
                emptied.append(child)
        if here != folder:
            here.rmdir()
    folder.rmdir()


def _allow_changes(folder: Path) -> None:
    mode = folder.lstat().st_mode
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        folder.chmod(stat.S_IMODE(mode) | stat.S_IRWXU)


def _free_name(folder: Path, numbers: itertools.count[int]) -> Path:
    return next(path for number in numbers if not os.path.lexists(path := folder / f".removed-{number}"))
