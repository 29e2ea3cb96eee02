"""Copy an archive to another place."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import ArchiveError
from ..mar import Archive
from ._place import beside, publish, verify_written, write, write_error
from ._source import Source, move
from ._variant import files_of


def copy(archive: Archive, target: Path) -> None:
    """Copy a verified archive to the byte, under its own name and on disk.

    Digests what was written and compares it with the archive as it was verified; for a folder, file by file.
    The copy shares no file with the original. Raises ArchiveExists, ArchiveError.
    """
    with beside(target) as temporary:
        if archive.path.is_dir():
            contents = files_of(archive)
            made = verify_written(temporary, write(contents, temporary, target=target), contents)
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
        raise write_error(target, error, archive.size) from error
    if sha256 != archive.sha256:
        raise ArchiveError(
            f"{archive.path}: was changed while it was copied, or the disk is not sound: {target} would have "
            f"the SHA-256 {sha256}, expected {archive.sha256}"
        )
