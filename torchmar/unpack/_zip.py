"""Read a .mar: a zip in which every byte is accounted for.

In the terms of PKWARE's APPNOTE, it consists of: local headers, each with its data and perhaps a data
descriptor, from the first byte on (_local.py); the central directory, perhaps zip64's two records, and the
end record, which ends the file (_directory.py). Both parts list each entry, and must agree.

TorchServe unpacks with Java's ZipInputStream. It trusts the local header and, for deflated data, the end of
the stream. It reads names as UTF-8 whatever their flag says. It takes sizes after deflated data for 32-bit
unless they need more; newer versions have another rule. It never reads the directory. Python's zipfile, unzip
and others trust the directory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from ._bytes import Bytes
from ._headers import STORED
from ._local import Entry, entries
from ._names import PYCACHE, require_sound

_BLOCK = 1 << 20


class Zip:
    """The files of an open .mar. Raises ArchiveCorrupt if two readers could see different ones."""

    def __init__(self, path: Path, file: int) -> None:
        self._raw = Bytes(path, file)
        found = list(entries(self._raw))
        require_sound(path, [entry.name for entry in found], [entry.size for entry in found])
        self._folders = [entry for entry in found if entry.name.endswith("/")]
        markers = [entry for entry in found if entry.name.split("/")[-1] == PYCACHE and not entry.size]
        empty = {entry.name for entry in (*self._folders, *markers)}
        self._files = {entry.name: entry for entry in found if entry.name not in empty}
        self.sizes = {entry.name: entry.size for entry in self._files.values()}
        for entry in (*self._folders, *markers):
            if any(self._unpacked(entry)):  # empty, with no more bytes than it should have
                raise self._raw.wrong("is a folder with data: do not serve it", entry.name)

    def entry(self, name: str) -> Entry:
        """Return a file's entry. Raises KeyError."""
        return self._files[name]

    def blocks(self, name: str) -> Iterator[bytes]:
        """Read a file in blocks. Raises ArchiveCorrupt if it differs from its headers."""
        return self._unpacked(self._files[name])

    def sha256(self) -> str:
        """Return the digest of the .mar itself."""
        digest = sha256()
        for block in self._raw.blocks(0, self._raw.size):
            digest.update(block)
        return digest.hexdigest()

    def extract(self, folder: Path) -> None:
        """Unpack all files."""
        for entry in self._folders:
            (folder / entry.name).mkdir(parents=True, exist_ok=True)
        for entry in self._files.values():
            target = folder / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                file.writelines(self._unpacked(entry))

    def require_unchanged(self) -> None:
        """Raise ArchiveCorrupt if the file has changed since it was opened."""
        self._raw.require_unchanged()

    def _unpacked(self, entry: Entry) -> Iterator[bytes]:
        crc32 = size = 0
        for block in (self._raw.blocks if entry.method == STORED else self._inflated)(
            entry.start, entry.stored
        ):
            crc32, size = zlib.crc32(block, crc32), size + len(block)
            if size > entry.size:
                break
            yield block
        if (size, crc32) != (entry.size, entry.crc32):
            raise self._raw.wrong("is damaged: size or checksum differ", entry.name)

    def _inflated(self, start: int, length: int) -> Iterator[bytes]:
        """Inflate a stream that ends exactly where it should: Java reads on behind an earlier end."""
        stream, at, end, rest = zlib.decompressobj(-zlib.MAX_WBITS), start, start + length, b""
        while not stream.eof:
            if not rest:
                rest = self._raw.at(at, min(_BLOCK, end - at))
                at += len(rest)
            try:
                block = stream.decompress(rest, _BLOCK)
            except zlib.error as error:
                raise self._raw.wrong(f"holds deflated data that are damaged: {error}") from None
            if not rest and not block:
                break
            rest = stream.unconsumed_tail
            yield block
        if not stream.eof or stream.unused_data or at != end:
            raise self._raw.wrong("holds deflated data that do not end where they should: do not serve it")
