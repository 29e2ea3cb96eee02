"""Read the headers of a JPEG, PNG or WebP file before its pixels are decoded.

Pillow reads every text, profile and preview in a file, within its own limits, and rejects a picture for
damage that affects no pixel. This module reduces a file to what its pixels need, and Pillow sees only that.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class Damaged(Exception):
    """Describes a file's damage as a clause: "it is cut off"."""


class Unread(Exception):
    """Names a valid kind of picture that is not supported."""


@dataclass(frozen=True)
class PictureFile:
    """A picture before decoding; `raw` holds only what its pixels need.

    scans: how often a decoder passes over the picture. exif, xmp: where they may give the orientation.
    problem: why it cannot be decoded, if known.
    """

    kind: str
    raw: bytes
    width: int
    height: int
    scans: int = 1
    exif: bytes = b""
    xmp: bytes = b""
    problem: str = ""


def kind_of(raw: bytes) -> str | None:
    """Return JPEG, PNG or WEBP by a file's first bytes; None for anything else."""
    if raw[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if raw[:8] == PNG_MAGIC and len(raw) > len(PNG_MAGIC):
        return "PNG"
    if raw[:4] == b"RIFF" and raw[8:12] == b"WEBP":
        return "WEBP"
    return None


def read_picture_file(raw: bytes) -> PictureFile | None:
    """Return the picture's file; None if it is no JPEG, PNG or WebP. Raises Damaged and Unread."""
    kind = kind_of(raw)
    if kind is None:
        return None
    file = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}[kind](raw)
    if not file.width or not file.height:
        raise Damaged(f"its header says {file.width} × {file.height} pixels")
    return file


# -- JPEG: ITU-T T.81, annex B ------------------------------------------------------------------

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_MARKER = re.compile(rb"\xff([^\x00\xff])")  # more 0xff before it are padding
_ALONE = frozenset([0x01, *range(0xD0, 0xD9)])  # markers without a segment
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xCA}
_HIERARCHICAL = {0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}
_META = frozenset([*range(0xE0, 0xF0), 0xFE])  # APP0 to APP15, and comments
# Valid files stay far below this. 1.5 million empty segments, 6 MB, would take seconds.
_MOST_SEGMENTS = 1_000


def _jpeg(raw: bytes) -> PictureFile:
    kept: list[bytes | memoryview] = [raw[:2]]
    frame: tuple[int, int, int] | None = None
    exif = xmp = b""
    for marker, start, end in _segments(raw):
        if marker == _SOS:
            kept.append(memoryview(raw)[start:])
            break
        body = raw[start + 4 : end]
        if marker in _FRAMES:
            frame = _frame(marker, body)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/"):
            xmp = xmp or body
        if marker not in _META or _tells_colours(marker, body):
            kept.append(raw[start:end])
    if frame is None:
        raise Damaged("no frame header stands before its pixels")
    width, height, components = frame
    pixels = b"".join(kept)
    # The usual single scan with all components is decoded in one pass, whatever follows.
    scans = 1 if raw[start + 4 : start + 5] == bytes([components]) else _scans(pixels)
    return PictureFile("JPEG", pixels, width, height, scans, exif, xmp)


def _segments(raw: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment, up to the first scan's header."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(raw, position)
        if found is None:
            raise Damaged("it is cut off before its pixels")
        marker, start, position = found[1][0], found.start(), found.end()
        if marker == _EOI:
            raise Damaged("it ends before its pixels")
        if marker not in _ALONE:
            # The length includes itself; decoders take a smaller one for an empty segment.
            position += max(2, int.from_bytes(raw[position : position + 2], "big"))
            if position > len(raw):
                raise Damaged("it is cut off before its pixels")
        yield marker, start, position
    raise Damaged(f"more than {_MOST_SEGMENTS:,} segments stand before its pixels")


def _frame(marker: int, body: bytes) -> tuple[int, int, int]:
    """Return width, height, and the components of a single scan: 0 if there are several scans."""
    if len(body) < 6:
        raise Damaged("its frame header is too short")
    bits, height, width, components = struct.unpack_from(">BHHB", body)
    if marker in _HIERARCHICAL:
        raise Unread(f"a JPEG of the rare process SOF{marker - 0xC0}")
    if bits != 8:
        raise Unread(f"a JPEG of {bits} bits a sample, where only 8 are read")
    if components not in {1, 3, 4}:
        raise Unread(f"a JPEG of {components} components, where 1, 3 and 4 are read")
    return width, height, 0 if marker in _PROGRESSIVE else components


def _tells_colours(marker: int, body: bytes) -> bool:
    """Return whether the segment defines the components' colours; decoders ignore shorter ones."""
    return (marker == 0xE0 and body[:5] == b"JFIF\0" and len(body) >= 14) or (
        marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12
    )


def _scans(raw: bytes) -> int:
    """Return how many scans the decoder will take.

    Each has its own marker, so counting those is enough for nearly every file. Many markers may belong to
    data after the picture (phones append films), so this then follows the markers as the decoder does.
    """
    data = np.frombuffer(raw, dtype=np.uint8)
    most = int(np.count_nonzero((data[:-1] == 0xFF) & (data[1:] == _SOS)))  # faster than bytes.count
    if most <= 16:
        return max(most, 1)
    scans = 0
    position = 2
    for _ in range(100 * most):
        found = _MARKER.search(raw, position)
        if found is None or found[1][0] == _EOI:
            return max(scans, 1)
        marker, position = found[1][0], found.end()
        scans += marker == _SOS
        if marker not in _ALONE:
            position += max(2, int.from_bytes(raw[position : position + 2], "big"))
    return most


# -- PNG: w3.org/TR/png-3 -----------------------------------------------------------------------

_CHUNK = struct.Struct(">I4s")
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_PNG_TEXTS = {b"tEXt", b"zTXt", b"iTXt"}
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"
_PNG_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
# The orientation is in EXIF of at most 64 KB, hexadecimal in a text, or near the beginning of XMP.
_MOST_TEXT = 200_000


def _png(raw: bytes) -> PictureFile:
    header = palette = exif = b""
    texts: dict[bytes, bytes] = {}
    data: list[bytes] = []
    for kind, start, end in _chunks(raw):
        if not header:
            header = _png_header(raw, kind, start, end)
        elif kind == b"IDAT":
            data.append(raw[start:end])
        elif kind == b"PLTE":
            palette = _sound_chunk(raw, start, end)
        elif kind == b"eXIf":
            exif = raw[start:end]
        elif kind in _PNG_TEXTS:
            name = raw[start : start + 80].partition(b"\0")[0]
            if name in {_EXIF_TEXT, _XMP_TEXT}:
                texts.setdefault(name, raw[start - 4 : end])
    if not header:
        raise Damaged("it is cut off in its header")
    width, height = struct.unpack_from(">II", header, 8)
    length = _CHUNK.pack(sum(map(len, data)), b"IDAT")
    # An empty checksum: Pillow checks the data's own one, but not those of chunks with pixels.
    kept = b"".join([PNG_MAGIC, header, palette, length, *data, bytes(4), _PNG_END])
    exif = exif or _exif_in(texts.get(_EXIF_TEXT, b""))
    xmp = _text_in(texts.get(_XMP_TEXT, b""))
    problem = "" if data else "it is cut off or damaged before its pixels"
    return PictureFile("PNG", kept, width, height, 1, exif, xmp, problem)


def _chunks(raw: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of each chunk's content; the last one may be cut off."""
    position = len(PNG_MAGIC)
    while position + 8 <= len(raw):
        length, kind = _CHUNK.unpack_from(raw, position)
        if kind == b"IEND":
            return
        start = position + 8
        yield kind, start, start + length
        position = start + length + 4


def _png_header(raw: bytes, kind: bytes, start: int, end: int) -> bytes:
    if kind == b"CgBI":
        raise Unread("a PNG in the form that Apple packs into apps (CgBI)")
    if kind != b"IHDR":
        raise Damaged("its first chunk is not IHDR")
    header = _sound_chunk(raw, start, end)
    if end - start != 13:
        raise Damaged(f"its header has {end - start} bytes and not 13")
    depth, colours = header[16], header[17]
    if depth not in _PNG_DEPTHS.get(colours, ()):
        raise Damaged(f"no PNG has {depth} bits in colour type {colours}")
    return header


def _sound_chunk(raw: bytes, start: int, end: int) -> bytes:
    """Return the whole chunk, after checking its checksum."""
    if end + 4 > len(raw):
        raise Damaged("it is cut off in its header")
    if zlib.crc32(raw[start - 4 : end]).to_bytes(4, "big") != raw[end : end + 4]:
        name = raw[start - 4 : start].decode()
        raise Damaged(f"the checksum of its chunk {name} is wrong")
    return raw[start - 8 : end + 4]


def _text_in(chunk: bytes) -> bytes:
    """Return the text of a tEXt, zTXt or iTXt chunk with its name; only the beginning if compressed."""
    kind, (_, _, text) = chunk[:4], chunk.partition(b"\0")
    compressed = kind == b"zTXt" or (kind == b"iTXt" and text[:1] == b"\1")
    if kind == b"zTXt":
        text = text[1:]
    elif kind == b"iTXt":
        text = text[2:].split(b"\0", 2)[-1]
    if not compressed:
        return text
    try:
        return zlib.decompressobj().decompress(text, _MOST_TEXT)
    except zlib.error:
        return b""


def _exif_in(chunk: bytes) -> bytes:
    """Return ImageMagick's form of EXIF: an empty line, a name, a length, and hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(_text_in(chunk).split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


# -- WebP: RFC 9649 -----------------------------------------------------------------------------


def _webp(raw: bytes) -> PictureFile:
    length = int.from_bytes(raw[4:8], "little") + 8
    if length > len(raw):
        raise Damaged(f"it is cut off: {len(raw):,} of {length:,} bytes are there")
    size = _webp_size(raw)
    if size is None:
        raise Damaged("it does not begin as WebP does")
    return PictureFile("WEBP", raw, *size)


def _webp_size(raw: bytes) -> tuple[int, int] | None:
    """Return width and height of the canvas."""
    kind = raw[12:16]
    if len(raw) >= 30 and kind == b"VP8 " and raw[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", raw, 26)
        return width & 0x3FFF, height & 0x3FFF
    if len(raw) >= 25 and kind == b"VP8L" and raw[20] == 0x2F:
        bits = int.from_bytes(raw[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if len(raw) >= 30 and kind == b"VP8X":
        return int.from_bytes(raw[24:27], "little") + 1, int.from_bytes(raw[27:30], "little") + 1
    return None
