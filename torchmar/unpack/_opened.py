"""Open an archive in either form."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ..errors import ArchiveError
from ..names import shown
from ._folder import Folder
from ._zip import Zip


class Contents(Protocol):
    """The files of an archive in either form."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Return the unpacked size of each file in bytes, by name."""
        ...

    def blocks(self, name: str) -> Iterator[bytes]:
        """Read a file in blocks. Raises ArchiveCorrupt if it differs from its description."""
        ...

    def sha256(self) -> str | None:
        """Return the digest of the archive's own file; None for a folder."""
        ...

    def extract(self, folder: Path) -> None:
        """Unpack into an empty or new folder."""
        ...


@contextmanager
def opened(path: Path) -> Iterator[Contents]:
    """Open an archive whose entries are safe to read. Raises ArchiveError, ArchiveCorrupt."""
    if not path.name.isprintable():
        where = shown(str(path), len(str(path)))
        raise ArchiveError(f"{where}: rename it: its name holds characters that are not shown")
    try:
        if path.is_dir():
            yield Folder(path)
            return
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # do not wait for a pipe
        with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
            contents = Zip(path, file.fileno())
            yield contents
            contents.require_unchanged()
    except FileNotFoundError as error:
        raise ArchiveError(f"{error.filename or path}: no such file") from None
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error.strerror or error}") from error
