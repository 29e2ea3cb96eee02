"""Read the directory at the end of a .mar, which every program but TorchServe uses."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ._bytes import Bytes
from ._headers import LIMIT, ZIP64, Fields, extra_fields, require_kind, require_plain
from ._names import require_room

_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_LIMIT_16 = 0xFFFF
_MAX_DIRECTORY = 16 * 2**20  # bytes


class Listed(NamedTuple):
    """A directory's record of an entry: its fields, with its true sizes, and its header's offset."""

    name: bytes
    fields: Fields
    offset: int


class _Extent(NamedTuple):
    """Entries on this disk, entries in total, size and offset of the directory."""

    here: int
    total: int
    size: int
    offset: int


_LIMITS = _Extent(_LIMIT_16, _LIMIT_16, LIMIT, LIMIT)


def directory(raw: Bytes) -> tuple[int, list[Listed]]:
    """Return the directory's offset and its records. Raises ArchiveCorrupt."""
    extent = _extent(raw)
    content = raw.at(extent.offset, extent.size)
    return extent.offset, list(_listed(raw, content, extent.total))


def _extent(raw: Bytes) -> _Extent:
    tail = raw.at(max(0, raw.size - _END.size - _LIMIT_16), min(raw.size, _END.size + _LIMIT_16))
    found = tail.rfind(b"PK\5\6")
    if found == -1 or len(tail) - found < _END.size:
        raise raw.wrong("not a model archive, or a copy that was cut off: it does not end as a zip does")
    if len(tail) - found > _END.size or tail[-2:] != b"\0\0":
        raise raw.wrong("holds a comment, or other data, after its end: do not serve it")
    _, disk, first_disk, *small, _ = _END.unpack(tail[found:])
    extent, end = _Extent(*small), raw.size - _END.size
    if end >= _LOCATOR.size and raw.at(end - _LOCATOR.size, 4) == b"PK\6\7":
        end -= _LOCATOR.size + _END_64.size
        extent = _extent_64(raw, end, extent)
    elif any(number == limit for number, limit in zip(extent, _LIMITS, strict=True)):
        raise raw.wrong("lacks the zip64 record that its end promises")
    sound = extent.here == extent.total and extent.offset + extent.size == end
    if disk or first_disk or not sound or extent.size > _MAX_DIRECTORY:
        raise raw.wrong("has an end record that is not true: do not serve it")
    require_room(raw.path, extent.total, 0)
    return extent


def _extent_64(raw: Bytes, at: int, small: _Extent) -> _Extent:
    """Return the numbers of zip64's record, which must agree with the end record's."""
    content = raw.at(max(0, at), _END_64.size + _LOCATOR.size)
    signature, length, _, needed, disk, first_disk, *numbers = _END_64.unpack(content[: _END_64.size])
    _, locator_disk, place, disks = _LOCATOR.unpack(content[_END_64.size :])
    large = _Extent(*numbers)
    agreed = all(few in (many, limit) for few, many, limit in zip(small, large, _LIMITS, strict=True))
    sound = (signature, length, needed, place, disks) == (b"PK\6\6", _END_64.size - 12, 45, at, 1)
    if not sound or not agreed or disk or first_disk or locator_disk:
        raise raw.wrong("has a zip64 record that is not true: do not serve it")
    return large


def _listed(raw: Bytes, content: bytes, count: int) -> Iterator[Listed]:
    at = 0
    for _ in range(count):
        if len(content) - at < _CENTRAL.size:
            raise raw.wrong("has a directory that is damaged: fewer entries than its end record says")
        signature, _, *values = _CENTRAL.unpack_from(content, at)
        fields = Fields(*values[:10])
        comment, disk, _, attributes, offset = values[10:]
        name_at = at + _CENTRAL.size
        extra_at = name_at + fields.name_length
        at = extra_at + fields.extra_length
        if signature != b"PK\1\2" or at > len(content):
            raise raw.wrong("has a directory that is damaged")
        name = content[name_at:extra_at]
        if comment or disk:
            raise raw.wrong("has a comment, or lies on another disk: do not serve it", name)
        require_kind(raw, name, attributes)
        zip64 = extra_fields(raw, name, content[extra_at:at]).get(ZIP64)
        size, stored, offset = _large(raw, name, zip64, (fields.size, fields.stored, offset))
        fields = fields._replace(size=size, stored=stored)
        require_plain(raw, name, fields)
        yield Listed(name, fields, offset)
    if at != len(content):
        raise raw.wrong("has a directory that is damaged: more entries than its end record says")


def _large(raw: Bytes, name: bytes, field: bytes | None, small: tuple[int, ...]) -> list[int]:
    """Return the numbers; those that do not fit are in zip64's field, in this order, and no others."""
    count = small.count(LIMIT)
    if (None if field is None else len(field)) != (8 * count or None):
        raise raw.wrong("has a zip64 field that is not true: do not serve it", name)
    large = iter(struct.unpack(f"<{count}Q", field or b""))
    return [next(large) if number == LIMIT else number for number in small]
