"""Zips byte by byte, sound ones and others, and what Java's ZipInputStream makes of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

STORED, DEFLATED = 0, 8
IN_PARTS, UTF8 = 0x8, 0x800
LIMIT = 0xFFFFFFFF
NAMES = ("needed", "flags", "method", "time", "date", "crc32", "stored", "size")


def deflated(content: bytes) -> bytes:
    """A raw deflate stream."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    return stream.compress(content) + stream.flush()


@dataclass
class Piece:
    """An entry; what `local` and `central` hold replaces what a sound one would say there.

    `data` is what lies between its header and the next, by default its content as `method` has it.
    """

    name: str | bytes
    content: bytes = b""
    method: int = STORED
    flags: int = 0
    data: bytes | None = None
    local: Mapping[str, int] = field(default_factory=dict)
    central: Mapping[str, int] = field(default_factory=dict)
    local_name: bytes | None = None
    local_extra: bytes = b""
    central_extra: bytes = b""
    comment: bytes = b""
    descriptor: bytes | None = None
    listed: bool = True

    def raw_name(self) -> bytes:
        """As it stands in the headers."""
        return self.name if isinstance(self.name, bytes) else self.name.encode()

    def stored(self) -> bytes:
        """The content as `method` has it."""
        return deflated(self.content) if self.method == DEFLATED else self.content

    def fields(self) -> dict[str, int]:
        """What a header says of a sound entry."""
        needed = 20 if self.method == DEFLATED else 10
        stored = len(self.stored())
        values = (needed, self.flags, self.method, 0, 33, zlib.crc32(self.content), stored, len(self.content))
        return dict(zip(NAMES, values, strict=True))

    def local_header(self) -> bytes:
        """The header, name and extra fields before the data."""
        values = self.fields()
        if self.flags & IN_PARTS:
            values |= {"crc32": 0, "stored": 0, "size": 0}
        values |= self.local
        name = self.raw_name() if self.local_name is None else self.local_name
        lengths = len(name), len(self.local_extra)
        return struct.pack("<4s5H3L2H", b"PK\3\4", *values.values(), *lengths) + name + self.local_extra

    def after(self) -> bytes:
        """The data descriptor."""
        if self.descriptor is not None:
            return self.descriptor
        return descriptor(self) if self.flags & IN_PARTS else b""

    def central_header(self, offset: int) -> bytes:
        """Its line in the directory."""
        mode = 0o40755 if self.raw_name().endswith(b"/") else 0o100644
        more = {"made_by": 0x031E, "disk": 0, "internal": 0, "external": mode << 16, "offset": offset}
        values = {**self.fields(), **more, **self.central}
        name = self.raw_name()
        lengths = len(name), len(self.central_extra), len(self.comment)
        start = (b"PK\1\2", values["made_by"], *(values[key] for key in NAMES))
        end = (values["disk"], values["internal"], values["external"], values["offset"])
        return struct.pack("<4s6H3L5H2L", *start, *lengths, *end) + name + self.central_extra + self.comment


def descriptor(piece: Piece, *, signature: bool = True, large: bool = False) -> bytes:
    """Checksum and sizes, as they follow an entry's data."""
    values = zlib.crc32(piece.content), len(piece.stored()), len(piece.content)
    return (b"PK\7\x08" if signature else b"") + struct.pack("<LQQ" if large else "<LLL", *values)


def zip64(*values: int) -> bytes:
    """The extra field with numbers of 64 bits."""
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def written(
    pieces: Sequence[Piece],
    *,
    before: bytes = b"",
    gap: bytes = b"",
    end: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    """All of it as a zip; `end` is another end record, `gap` stands before the directory, `tail` last."""
    body, directory = before, b""
    for piece in pieces:
        if piece.listed:
            directory += piece.central_header(len(body))
        body += piece.local_header() + (piece.stored() if piece.data is None else piece.data) + piece.after()
    body += gap
    count = sum(piece.listed for piece in pieces)
    if end is None:
        end = end_record(count, len(directory), len(body))
    return body + directory + end + tail


def end_record(count: int, size: int, offset: int, *, comment: bytes = b"", here: int | None = None) -> bytes:
    """What ends a zip."""
    numbers = 0, 0, count if here is None else here, count, size, offset, len(comment)
    return struct.pack("<4s4H2LH", b"PK\5\6", *numbers) + comment


class JavaRefuses(Exception):
    """An exception of Java's."""


def as_java(raw: bytes, *, newer: bool = False) -> list[tuple[str, bytes]]:
    """What ZipInputStream gives, entry by entry; folders' names end in a slash. Raises JavaRefuses.

    Written from the sources of OpenJDK 17, `newer`: of 25. It shares nothing with torchmar/unpack.
    """
    source, found = _Input(raw), []
    while source.raw[source.at : source.at + 4] == b"PK\3\4":
        found.append(_next_entry(source, newer=newer))
    return found


@dataclass
class _Input:
    raw: bytes
    at: int = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        content = self.raw[self.at : self.at + count]
        if len(content) < count:
            raise JavaRefuses("EOF")
        self.at += count
        return content


def _next_entry(source: _Input, *, newer: bool) -> tuple[str, bytes]:
    """Read a local header, as readLOC does, and what it leads to."""
    _, flags, method, _, _, crc, stored, size, length, extra_length = struct.unpack(
        "<4x5H3L2H", source.take(30)
    )
    try:
        name = source.take(length).decode()
    except UnicodeDecodeError as error:
        raise JavaRefuses("malformed input") from error
    extra = source.take(extra_length)
    if flags & 1:
        raise JavaRefuses("encrypted ZIP entry not supported")
    wide = newer and LIMIT in (stored, size) and _has_zip64(extra)
    if flags & IN_PARTS and method != DEFLATED:
        raise JavaRefuses("only DEFLATED entries can have EXT descriptor")
    if not flags & IN_PARTS and LIMIT in (stored, size):
        size, stored = _sizes(extra, (size, stored))
    if method == STORED:
        content = source.take(size)
        if size and zlib.crc32(content) != crc:
            raise JavaRefuses("invalid entry CRC")
        return name, content
    if method != DEFLATED:
        raise JavaRefuses("unsupported compression method")
    content, used = _inflate(source)
    if flags & IN_PARTS:
        crc, stored, size = _descriptor(source, wide=wide or max(len(content), used) > LIMIT)
    if (crc, stored, size) != (zlib.crc32(content), used, len(content)):
        raise JavaRefuses("invalid entry size or CRC")
    return name, content


def _descriptor(source: _Input, *, wide: bool) -> tuple[int, ...]:
    """What follows the data, as readEnd takes it."""
    if source.raw[source.at : source.at + 4] == b"PK\7\x08":
        source.take(4)
    form = struct.Struct("<LQQ" if wide else "<LLL")
    return form.unpack(source.take(form.size))


def _fields_of(extra: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 < len(extra):
        kind, length = struct.unpack("<HH", extra[at : at + 4])
        at += 4
        if at + length > len(extra):
            break
        found.append((kind, extra[at : at + length]))
        at += length
    return found


def _has_zip64(extra: bytes) -> bool:
    return any(kind == 1 and len(value) >= 16 for kind, value in _fields_of(extra))


def _sizes(extra: bytes, small: tuple[int, int]) -> tuple[int, int]:
    for kind, value in _fields_of(extra):
        if kind == 1 and len(value) >= 16:
            small = struct.unpack("<QQ", value[:16])
    return small


def _inflate(source: _Input) -> tuple[bytes, int]:
    """The content, and how many bytes of input it took; Inflater stops where the stream does."""
    stream = zlib.decompressobj(-15)
    rest = source.raw[source.at :]
    try:
        content = stream.decompress(rest)
    except zlib.error as error:
        raise JavaRefuses(str(error)) from error
    if not stream.eof:
        raise JavaRefuses("Unexpected end of ZLIB input stream")
    used = len(rest) - len(stream.unused_data)
    source.take(used)
    return content, used
