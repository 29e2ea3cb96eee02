"""Read the entries of a .mar where they lie, as TorchServe does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ._bytes import REPACK, Bytes
from ._directory import Listed, directory
from ._headers import IN_PARTS, LIMIT, ZIP64, Fields, extra_fields, require_plain

_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTOR = b"PK\7\x08"  # the optional signature of a data descriptor
_SAME = ("flags", "method", "time", "date")


@dataclass(frozen=True)
class Entry:
    """One file: `stored` bytes of data from byte `start` on, which unpack to `size` bytes.

    A folder's name ends in a slash.
    """

    name: str
    method: int
    crc32: int
    stored: int
    size: int
    start: int


def entries(raw: Bytes) -> Iterator[Entry]:
    """Yield all entries in the order of their offsets. Raises ArchiveCorrupt.

    Each begins where the previous one ends, the first at byte 0, and the last ends where the directory
    begins.
    """
    end, (directory_at, listed) = 0, directory(raw)
    for one in sorted(listed, key=lambda one: one.offset):
        if one.offset != end:
            raise raw.hidden()
        entry = _entry(raw, one)
        end = entry.start + entry.stored + _descriptor(raw, one.fields, entry)
        yield entry
    if end != directory_at:
        raise raw.hidden()


def _entry(raw: Bytes, listed: Listed) -> Entry:
    """Return the entry; its local header must agree with the directory."""
    name, fields, offset = listed
    header = raw.at(offset, _LOCAL.size)
    if not header.startswith(b"PK\3\4"):
        raise raw.hidden()
    local = Fields(*_LOCAL.unpack(header)[1:])
    after = raw.at(offset + _LOCAL.size, local.name_length + local.extra_length)
    if after[: local.name_length] != name or any(
        getattr(local, field) != getattr(fields, field) for field in _SAME
    ):
        raise raw.differs(name)
    require_plain(raw, name, fields._replace(needed=local.needed))
    zip64 = extra_fields(raw, name, after[local.name_length :]).get(ZIP64)
    _require_sizes(raw, name, fields, local, zip64)
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise raw.wrong("is a name that is not UTF-8: do not serve it", name) from None
    start = offset + _LOCAL.size + len(after)
    return Entry(text, fields.method, fields.crc32, fields.stored, fields.size, start)


def _require_sizes(raw: Bytes, name: bytes, fields: Fields, local: Fields, zip64: bytes | None) -> None:
    """Compare a local header's checksum and sizes with the directory's; 0 if they follow the data."""
    unknown = {0} if fields.flags & IN_PARTS else set[int]()
    values, small = (fields.size, fields.stored), (local.size, local.stored)
    if (zip64 is not None) != (LIMIT in small):
        raise raw.differs(name)
    if zip64 is not None and unknown and max(values) <= LIMIT:
        what = "has sizes of 64 bits after its data where 32 do, which not every Java reads"
        raise raw.wrong(f"{what}: {REPACK}", name)
    large: tuple[int, ...] = values
    if zip64 is not None:
        if len(zip64) != 16:
            raise raw.differs(name)
        large = struct.unpack("<2Q", zip64)
    for few, many, value in zip(small, large, values, strict=True):
        if many not in {value, *unknown} or few not in {value, *unknown, *({LIMIT} if zip64 else ())}:
            raise raw.differs(name)
    if local.crc32 not in {fields.crc32, *unknown}:
        raise raw.differs(name)


def _descriptor(raw: Bytes, fields: Fields, entry: Entry) -> int:
    """Return the length of an entry's data descriptor, which must agree with the directory."""
    if not fields.flags & IN_PARTS:
        return 0
    large = max(entry.stored, entry.size) > LIMIT
    expected = struct.pack("<LQQ" if large else "<LLL", entry.crc32, entry.stored, entry.size)
    at = entry.start + entry.stored
    if raw.at(at, 4 + len(expected)) == _DESCRIPTOR + expected:
        return 4 + len(expected)
    if raw.at(at, len(expected)) == expected and not expected.startswith(_DESCRIPTOR):
        return len(expected)
    raise raw.differs(entry.name)
