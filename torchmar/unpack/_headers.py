"""Define a zip's header fields, and which of them an archive may have."""

from __future__ import annotations

import stat
import struct
import zlib
from typing import NamedTuple

from ._bytes import REPACK, Bytes

STORED, DEFLATED = 0, 8
LIMIT = 0xFFFFFFFF  # a 32-bit field's value when a zip64 field holds the number
IN_PARTS = 1 << 3  # flag: checksum and sizes follow the data
ZIP64 = 0x0001

_ENCRYPTED, _UTF8 = 1 << 0, 1 << 11
_EFFORT = 1 << 1 | 1 << 2  # flags: the compression effort
_VERSIONS = {10, 20, 45}  # the zip version needed for: storing; deflating and folders; zip64

_UNICODE_PATH, _TIMES, _ALIGNMENT = 0x7075, 0x5455, 0xD935
# Times, owners and the jar mark do not affect unpacking. Any other field could change what is read.
_HARMLESS = {0x000A, 0x5855, 0x7875, 0xCAFE}


class Fields(NamedTuple):
    """The fields that an entry's two headers share, after their signatures."""

    needed: int
    flags: int
    method: int
    time: int
    date: int
    crc32: int
    stored: int
    size: int
    name_length: int
    extra_length: int


def require_plain(raw: Bytes, name: bytes, fields: Fields) -> None:
    """Raise ArchiveCorrupt if TorchServe cannot read an entry, or reads it unlike other programs."""
    if fields.flags & _ENCRYPTED:
        raise raw.wrong("is encrypted, which TorchServe cannot read", name)
    if fields.method not in (STORED, DEFLATED):
        what = f"is compressed by method {fields.method}, which TorchServe cannot unpack"
        raise raw.wrong(f"{what}: {REPACK}", name)
    allowed = _UTF8 | _EFFORT | (IN_PARTS if fields.method == DEFLATED else 0)
    if fields.flags & ~allowed or fields.needed not in _VERSIONS:
        what = f"needs what TorchServe does not read (flags {fields.flags:#x}, version {fields.needed})"
        raise raw.wrong(f"{what}: {REPACK}", name)
    if fields.method == STORED and fields.stored != fields.size:
        raise raw.wrong("is stored, and has two sizes: do not serve it", name)


def require_kind(raw: Bytes, name: bytes, attributes: int) -> None:
    """Raise ArchiveCorrupt if an entry's attributes say that it is neither a file nor a folder."""
    if stat.S_IFMT(attributes >> 16) not in {0, stat.S_IFDIR if name.endswith(b"/") else stat.S_IFREG}:
        raise raw.wrong("is neither a file nor a folder: do not serve it", name)


def extra_fields(raw: Bytes, name: bytes, extra: bytes) -> dict[int, bytes]:
    """Return a header's extra fields. Raises ArchiveCorrupt for any that may change what is read."""
    fields: dict[int, bytes] = {}
    while extra:
        kind, length = struct.unpack("<HH", extra[:4]) if len(extra) >= 4 else (0, len(extra))
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if len(field) != length or kind in fields or not _may_have(kind, field, name):
            raise raw.wrong(
                f"has a field {kind:#06x}, which not everybody reads alike: do not serve it", name
            )
        fields[kind] = field
    return fields


def _may_have(kind: int, field: bytes, name: bytes) -> bool:
    if kind == _UNICODE_PATH:
        return field == struct.pack("<BL", 1, zlib.crc32(name)) + name
    if kind == _ALIGNMENT:
        return len(field) >= 2 and not any(field[2:])
    if kind == _TIMES:
        return bool(field)  # Java reads its first byte even if it is empty
    return kind == ZIP64 or kind in _HARMLESS
