"""Write the normal form of a .mar: the same files give the same bytes.

Entries are sorted by name, with MAR-INF/digests.json last. They are stored, and their sizes precede their
data, because TorchServe reads a zip from its beginning. All have the same time and mode, and there are no
folders. Large data begins on a page, so that filesystems can share blocks between files.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ArchiveError
from ..mar import DIGESTS, FileEntry, listing
from ._source import SMALL, Contents, Source, move, write_all

_PAGE = 4096
_MODE = 0o100644
_UNIX = 3
_LIMIT = 0xFFFFFFFF  # larger numbers do not fit into a zip field; a zip64 field holds them
_ELSEWHERE = 0xFFFFFFFF  # the zip field's value then


def entry_time() -> int:
    """Return every entry's time in seconds since 1970: SOURCE_DATE_EPOCH, or 1980. Zip ends in 2107.

    Raises ArchiveError if the variable is no such number.
    """
    earliest, latest = 315_532_800, 4_354_819_199
    text = os.environ.get("SOURCE_DATE_EPOCH", str(earliest))
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > latest:
        raise ArchiveError(f"SOURCE_DATE_EPOCH is {text!r}, expected seconds since 1970, at most {latest}")
    return max(int(text), earliest)


def write_zip(contents: Contents, file: Path, *, sync: bool) -> tuple[FileEntry, ...]:
    """Write a new file and return its entries. With `sync`, it is on disk. Raises OSError, ArchiveError."""
    with file.open("xb+", buffering=0) as opened:  # readable too, for the digests
        sink = _Sink(opened.fileno(), _dos(entry_time()), sync=sync)
        files = [sink.add(name, contents[name]) for name in sorted(contents.keys() - {DIGESTS})]
        files.append(sink.add(DIGESTS, listing(files)))
        sink.finish()
        if sync:
            os.fsync(opened.fileno())
    return tuple(files)


class _Sink:
    """A zip while it is written."""

    def __init__(self, file: int, date_time: tuple[int, int], *, sync: bool) -> None:
        self._file = file
        self._date_time = date_time
        self._sync = sync
        self._entries: list[_Entry] = []
        self._end = 0

    def add(self, name: str, content: bytes | Source) -> FileEntry:
        """Append one entry."""
        size = len(content) if isinstance(content, bytes) else content.size
        entry = _Entry(name.encode(), size, self._end, self._date_time)
        start = entry.offset + len(entry.local())
        if isinstance(content, bytes):
            crc32, sha256 = zlib.crc32(content), hashlib.sha256(content).hexdigest()
            write_all(self._file, content, start)
        else:
            crc32, sha256 = move(content, self._file, start, sync=self._sync)
        entry = replace(entry, crc32=crc32)
        write_all(self._file, entry.local(), entry.offset)
        self._entries.append(entry)
        self._end = start + size
        return FileEntry(name, size, sha256)

    def finish(self) -> None:
        """Write the zip's directory at its end."""
        directory = b"".join(entry.central() for entry in self._entries)
        count, size, offset = len(self._entries), len(directory), self._end
        end = b""
        if offset >= _LIMIT:
            end += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
            end += struct.pack("<4sLQL", b"PK\6\7", 0, offset + size, 1)
        end += struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, _field(offset), 0)
        write_all(self._file, directory + end, self._end)


@dataclass(frozen=True)
class _Entry:
    """One entry: `size` bytes of data behind its local header, which begins at byte `offset`."""

    name: bytes
    size: int
    offset: int
    date_time: tuple[int, int]
    crc32: int = 0

    def local(self) -> bytes:
        """Return the header before the data."""
        large = self.size >= _LIMIT
        extra = struct.pack("<2H2Q", 1, 16, self.size, self.size) if large else b""
        if self.size >= SMALL:
            extra += _padding(self.offset + 30 + len(self.name) + len(extra))
        return self._header(b"PK\3\4", large=large, extra=extra) + self.name + extra

    def central(self) -> bytes:
        """Return its record in the zip's directory."""
        values = [value for value in (self.size, self.size, self.offset) if value >= _LIMIT]
        extra = struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""
        made_by = struct.pack("<H", _UNIX << 8 | _version(large=bool(values)))
        header = self._header(b"PK\1\2" + made_by, large=bool(values), extra=extra)
        tail = struct.pack("<3H2L", 0, 0, 0, _MODE << 16, _field(self.offset))
        return header + tail + self.name + extra

    def _header(self, start: bytes, *, large: bool, extra: bytes) -> bytes:
        """Return the part that both headers share."""
        flags = 0 if self.name.isascii() else 0x800  # the name is UTF-8
        sizes = (self.crc32, _field(self.size), _field(self.size), len(self.name), len(extra))
        return start + struct.pack("<5H3L2H", _version(large=large), flags, 0, *self.date_time, *sizes)


def _field(value: int) -> int:
    """Return the 32-bit field for a size or an offset."""
    return value if value < _LIMIT else _ELSEWHERE


def _version(*, large: bool) -> int:
    """Return the zip version that reading an entry requires."""
    return 45 if large else 20


def _padding(end: int) -> bytes:
    """Return an extra field, like Android's zipalign, that aligns what follows to a page."""
    count = -end % _PAGE
    if count == 0:
        return b""
    count += _PAGE if count < 6 else 0  # its own header and the alignment take 6 bytes
    return struct.pack("<3H", 0xD935, count - 4, _PAGE) + bytes(count - 6)


def _dos(seconds: int) -> tuple[int, int]:
    """Return (time, date) in zip's format, in steps of two seconds."""
    at = time.gmtime(seconds)
    date = (at.tm_year - 1980) << 9 | at.tm_mon << 5 | at.tm_mday
    return at.tm_hour << 11 | at.tm_min << 5 | at.tm_sec // 2, date
