"""Write an archive as a folder, which TorchServe serves in place without unpacking or copying."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..files import sync_folder
from ..mar import DIGESTS, FileEntry, listing
from ..unpack import PYCACHE
from ._source import Contents, Source, move, write_all


def write_folder(contents: Contents, folder: Path, *, sync: bool) -> tuple[FileEntry, ...]:
    """Write a new folder and return its files.

    With `sync`, they are on disk. Raises OSError, ArchiveError.
    """
    paths = {name: folder / name for name in (*sorted(contents.keys() - {DIGESTS}), DIGESTS)}
    folders = {
        parent for path in paths.values() for parent in path.parents if folder in (parent, *parent.parents)
    }
    for path in sorted(folders):
        path.mkdir()
    files = [_add(name, contents[name], path, sync=sync) for name, path in paths.items() if name != DIGESTS]
    files.append(_add(DIGESTS, listing(files), paths[DIGESTS], sync=sync))
    for path in folders:
        if any(path.glob("*.py")):
            (path / PYCACHE).touch()
        if sync:
            sync_folder(path)
    return tuple(files)


def _add(name: str, content: bytes | Source, path: Path, *, sync: bool) -> FileEntry:
    if isinstance(content, Source) and content.linkable and _linked(content, path):
        known = content.digested()  # digests the current bytes, which have both names now
        assert known.sha256 is not None
        with known.opened() as file:
            if sync:
                os.fsync(file)
        return FileEntry(name, known.size, known.sha256)
    with path.open("xb+", buffering=0) as opened:  # readable too, for the digests
        sink = opened.fileno()
        if isinstance(content, bytes):
            size, sha256 = len(content), hashlib.sha256(content).hexdigest()
            write_all(sink, content, 0)
        else:
            size, (_, sha256) = content.size, move(content, sink, 0, sync=sync)
        if sync:
            os.fsync(sink)
    return FileEntry(name, size, sha256)


def _linked(source: Source, path: Path) -> bool:
    """Return whether a hard link to the source's whole file succeeded."""
    if source.offset or source.path.stat().st_size != source.size:
        return False
    try:
        path.hardlink_to(source.path)
    except OSError:  # another filesystem, or one without hard links
        return False
    return True
