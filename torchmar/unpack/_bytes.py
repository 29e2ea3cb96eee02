"""The bytes of an open .mar, and how what is wrong with them is told."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import ArchiveCorrupt, ArchiveError
from ..names import shown

REPACK = "pack it anew with torch-model-archiver --archive-format zip-store"
_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"


class Bytes:
    """An open file that stays as it is while it is read; threads may read it at once."""

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
        """Just so many bytes from `start` on. Raises ArchiveCorrupt where the file ends before."""
        content = os.pread(self._file, length, start)
        while len(content) < length:
            more = os.pread(self._file, length - len(content), start + len(content))
            if not more:
                raise self.wrong("ends too early: a copy that was cut off")
            content += more
        return content

    def blocks(self, start: int, length: int) -> Iterator[bytes]:
        """The same, piece by piece."""
        for at in range(start, start + length, _BLOCK):
            yield self.at(at, min(_BLOCK, start + length - at))

    def require_unchanged(self) -> None:
        """Raise ArchiveCorrupt where the file was written to since it was opened."""
        now = os.fstat(self._file)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._facts.st_mtime_ns):
            raise self.wrong("was changed while it was read; try again")

    def wrong(self, what: str, name: bytes | str | None = None) -> ArchiveCorrupt:
        """What to raise where an entry, or all of the file, is not sound."""
        if name is None:
            return ArchiveCorrupt(f"{self.path}: {what}")
        text = name.decode(errors="replace") if isinstance(name, bytes) else name
        return ArchiveCorrupt(f"{self.path}: {shown(text)!r} {what}")

    def differs(self, name: bytes | str) -> ArchiveCorrupt:
        """What to raise where an entry's two headers do not say the same."""
        what = "is one thing in the zip's directory and another where it lies, which TorchServe would serve"
        return self.wrong(f"{what}: do not serve it", name)

    def hidden(self) -> ArchiveCorrupt:
        """What to raise where there is more than the directory lists."""
        return self.wrong("holds data that its directory does not list: do not serve it")


def _is_tar(path: Path) -> ArchiveError:
    if path.name.endswith(".mar"):
        what = "it is a tar.gz archive under the name of a .mar, which TorchServe takes for a zip"
        return ArchiveCorrupt(f"{path}: {REPACK}: {what} and cannot unpack")
    return ArchiveError(
        f"{path}: {REPACK}, or unpack it (tar -xzf) and give the folder: it is a tar.gz archive, which "
        "TorchServe serves and torchmar does not read"
    )
