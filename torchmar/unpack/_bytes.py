"""Read the bytes of an open .mar, and report what is wrong with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import ArchiveCorrupt, ArchiveError
from ..names import shown

REPACK = "repack it with torch-model-archiver --archive-format zip-store"
_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"


class Bytes:
    """An open file that must not change while it is read; threads may read it concurrently."""

    def __init__(self, path: Path, file: int) -> None:
        self.path = path
        self._file = file
        self._facts = os.fstat(file)
        self.size = self._facts.st_size
        if not stat.S_ISREG(self._facts.st_mode):
            raise self.wrong("not a model archive: it is no file")
        if os.pread(file, 2, 0) == _GZIP:
            raise _is_tar(path)

    def at(self, start: int, length: int) -> bytes:
        """Return exactly `length` bytes from `start` on. Raises ArchiveCorrupt if the file ends earlier."""
        content = os.pread(self._file, length, start)
        while len(content) < length:
            more = os.pread(self._file, length - len(content), start + len(content))
            if not more:
                raise self.wrong("ends too early: a copy that was cut off")
            content += more
        return content

    def blocks(self, start: int, length: int) -> Iterator[bytes]:
        """Yield the same in blocks."""
        for at in range(start, start + length, _BLOCK):
            yield self.at(at, min(_BLOCK, start + length - at))

    def require_unchanged(self) -> None:
        """Raise ArchiveCorrupt if the file has changed since it was opened."""
        now = os.fstat(self._file)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._facts.st_mtime_ns):
            raise self.wrong("was changed while it was read; try again")

    def wrong(self, what: str, name: bytes | str | None = None) -> ArchiveCorrupt:
        """Return the error for a faulty entry, or for the whole file."""
        if name is None:
            return ArchiveCorrupt(f"{self.path}: {what}")
        text = name.decode(errors="replace") if isinstance(name, bytes) else name
        return ArchiveCorrupt(f"{self.path}: {shown(text)!r} {what}")

    def differs(self, name: bytes | str) -> ArchiveCorrupt:
        """Return the error for an entry whose two headers differ."""
        what = "differs between the zip's directory and its local header, by which TorchServe would serve it"
        return self.wrong(f"{what}: do not serve it", name)

    def hidden(self) -> ArchiveCorrupt:
        """Return the error for data that the directory does not list."""
        return self.wrong("holds data that its directory does not list: do not serve it")


def _is_tar(path: Path) -> ArchiveError:
    if path.name.endswith(".mar"):
        what = "it is a tar.gz archive under the name of a .mar, which TorchServe takes for a zip"
        return ArchiveCorrupt(f"{path}: {REPACK}: {what} and cannot unpack")
    return ArchiveError(
        f"{path}: {REPACK}, or unpack it (tar -xzf) and give the folder: it is a tar.gz archive, which "
        "TorchServe serves and torchmar does not read"
    )
