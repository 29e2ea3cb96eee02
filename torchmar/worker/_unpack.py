"""Unpack an archive into a temporary folder, as TorchServe does before it starts a worker."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .. import mar
from ..errors import ArchiveError
from ..files import free_bytes, remove_tree


@contextlib.contextmanager
def unpacked(path: Path, prefix: str) -> Iterator[Path]:
    """Unpack an archive for the block, and remove it afterwards in any case.

    Raises ArchiveError if it is no archive, or does not fit.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix)).resolve()
    except OSError as error:
        remedy = "set TMPDIR to a folder with room"
        raise ArchiveError(f"{path}: cannot be unpacked: {error}; {remedy}") from error
    try:
        try:
            mar.extract(path, folder)
        except ArchiveError as error:
            if isinstance(error.__cause__, OSError):
                raise ArchiveError(f"{error}. {_room(folder)}") from error.__cause__
            raise
        yield folder
    finally:
        with contextlib.suppress(OSError):
            remove_tree(folder)


def _room(folder: Path) -> str:
    free = free_bytes(folder)
    if free is None:
        return "Set TMPDIR to a folder with room"
    return f"{folder.parent} has {free:,} bytes free; set TMPDIR to a folder with room"
