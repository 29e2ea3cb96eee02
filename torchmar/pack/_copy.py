"""The same archive in another place."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ArchiveError
from ..mar import Archive
from ._place import beside, not_written, publish, read_back, write
from ._source import Source, move
from ._variant import files_of


def copy(archive: Archive, target: Path) -> None:
    """Put an archive that was verified under a name of its own, to the byte and on disk.

    What was written is digested, and held against the archive as it was verified: a folder file by file. No
    file is shared with it. Raises ArchiveExists, ArchiveError.
    """
    with beside(target) as temporary:
        if archive.path.is_dir():
            contents = files_of(archive)
            made = read_back(temporary, write(contents, temporary, target=target), contents)
            if made.contents_sha256 != archive.contents_sha256:
                raise ArchiveError(f"{archive.path}: was changed while it was copied; verify it again")
        else:
            _copy_file(archive, temporary, target)
        publish(temporary, target, force=False)


def _copy_file(archive: Archive, temporary: Path, target: Path) -> None:
    source = Source.of(archive.path)
    try:
        sink = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            _, sha256 = move(source, sink, 0, sync=True)
            os.fsync(sink)
        finally:
            os.close(sink)
    except OSError as error:
        raise not_written(target, error, archive.size) from error
    if sha256 != archive.sha256:
        raise ArchiveError(
            f"{archive.path}: was changed while it was copied, or the disk is not sound: {target} would have "
            f"the SHA-256 {sha256}, expected {archive.sha256}"
        )
