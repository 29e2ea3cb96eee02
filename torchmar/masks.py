"""Measure how far two masks overlap: run-length encoded as in COCO, or PNGs with an index for each pixel."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

_MOST_PIXELS = 1 << 28
_INDEXED = {0, 3}  # colour types: grey, and a palette


def overlaps(one: Any, other: Any) -> Iterator[tuple[int, int, int]]:
    """Yield for each class: the pixels in both masks, the pixels in at least one, and all pixels.

    A mask is a PNG, alone or as {"b64": TEXT}, or {"size", "counts"}, or an object of those by label. Raises
    ValueError, KeyError or TypeError for anything else, and for masks of different sizes or classes.
    """
    one, other = _decoded(one), _decoded(other)
    if isinstance(one, bytes) and isinstance(other, bytes):
        yield from _indexed_overlaps(one, other)
        return
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        raise TypeError("expected two masks of one form")
    if "counts" in one:
        if list(one["size"]) != list(other["size"]):
            raise ValueError("masks of different sizes")
        yield _run_overlap(one["counts"], other["counts"])
    elif one.keys() != other.keys():
        raise ValueError("masks of different classes")
    else:
        for label in one:
            yield from overlaps(one[label], other[label])


def _decoded(mask: Any) -> Any:
    if isinstance(mask, Mapping) and mask.keys() == {"b64"}:
        return base64.b64decode(mask["b64"], validate=True)
    return mask


def mask_iou(one: Sequence[int], other: Sequence[int]) -> float:
    """Return the intersection over union of two masks, each as COCO's run lengths.

    Run lengths are of 0 and 1 in turn, 0 first. Returns 1 if both are empty. Raises ValueError if their sizes
    differ.
    """
    both, either, _ = _run_overlap(one, other)
    return both / either if either else 1.0


def _run_overlap(one: Sequence[int], other: Sequence[int]) -> tuple[int, int, int]:
    if sum(one) != sum(other) or min((*one, *other), default=0) < 0:
        raise ValueError("masks of different sizes")
    both = either = start = 0
    cursors = [_Runs(one), _Runs(other)]
    for end in sorted({*accumulate(one), *accumulate(other)}):
        values = [cursor.value_at(start) for cursor in cursors]
        both += (end - start) * (values[0] and values[1])
        either += (end - start) * (values[0] or values[1])
        start = end
    return both, either, start


class _Runs:
    """Returns a run-length encoding's value at a position; positions must ascend."""

    def __init__(self, counts: Sequence[int]) -> None:
        self._ends = list(accumulate(counts))
        self._run = 0

    def value_at(self, position: int) -> bool:
        while self._run < len(self._ends) and self._ends[self._run] <= position:
            self._run += 1
        return self._run % 2 == 1


# -- PNG: w3.org/TR/png-3 -----------------------------------------------------------------------


def _indexed_overlaps(one: bytes, other: bytes) -> Iterator[tuple[int, int, int]]:
    size, pixels = read_indexes(one)
    other_size, other_pixels = read_indexes(other)
    if size != other_size:
        raise ValueError("masks of different sizes")
    for index in sorted({*pixels, *other_pixels}):
        # A byte for each pixel in one large integer compares a million pixels in a millisecond.
        table = bytes(each == index for each in range(256))
        first = int.from_bytes(pixels.translate(table), "little")
        second = int.from_bytes(other_pixels.translate(table), "little")
        yield (first & second).bit_count(), (first | second).bit_count(), len(pixels)


def read_indexes(png: bytes) -> tuple[tuple[int, int], bytes]:
    """Return a PNG's width and height, and its pixels, a byte each.

    Supports what Pillow writes for mode P: 8 bits, a palette or grey, unfiltered rows. Raises ValueError for
    any other.
    """
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or len(png) < 33:
        raise ValueError("no PNG")
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", png, 16)
    if depth != 8 or colours not in _INDEXED or interlaced or not 0 < width * height <= _MOST_PIXELS:
        raise ValueError("a PNG that holds no index of 8 bits for each pixel")
    length = height * (width + 1)
    unpacking = zlib.decompressobj()
    try:
        rows = unpacking.decompress(b"".join(_data(png)), length)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from None
    if len(rows) != length or any(rows[:: width + 1]):
        raise ValueError("a PNG that is cut off, or whose rows are filtered")
    starts = range(1, length, width + 1)
    return (width, height), b"".join(rows[start : start + width] for start in starts)


def _data(png: bytes) -> Iterator[bytes]:
    position = 8
    while position + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, position)
        if kind == b"IDAT":
            yield png[position + 8 : position + 8 + length]
        position += length + 12
