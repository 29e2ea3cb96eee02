"""Read MAR-INF/reference.json, torchmar's or a stranger's: every part of it is checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import ArchiveCorrupt
from ..mar import REFERENCE, Archive, reference_json
from ..names import shown
from ._reference import FORM, Numbers, Reference


def reference_of(archive: Archive) -> Reference | None:
    """Return the reference that an archive carries; None without one. Raises ArchiveError."""
    content = reference_json(archive)
    if content is None:
        return None
    try:
        return parsed_reference(content)
    except ValueError as error:
        remedy = "give --reference, or build the archive again"
        raise ArchiveCorrupt(f"{archive.path}: {remedy}: {REFERENCE}: {error}") from None


def parsed_reference(content: Mapping[str, Any]) -> Reference:
    """Return the reference that is the content of a reference.json. Raises ValueError, which says where."""
    form = content.get("form")
    if form != FORM:
        raise ValueError(f"expected form {FORM}, found {shown(repr(form), 40)}")
    return Reference(
        _count(content, "answered"),
        _count(content, "refused"),
        _text(content, "data_sha256"),
        {name: _numbers(f"numbers.{name}", one) for name, one in _object(content, "numbers").items()},
        {name: _classes(f"classes.{name}", one) for name, one in _object(content, "classes").items()},
        {name: _vectors(f"vectors.{name}", one) for name, one in _object(content, "vectors").items()},
    )


def _wrong(where: str, what: str) -> ValueError:
    return ValueError(f"{shown(where, 100)}: {what}")


def _object(content: Any, key: str, where: str = "") -> Mapping[str, Any]:
    found = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping):
        raise _wrong(where + key, "expected an object")
    return found


def _text(content: Mapping[str, Any], key: str) -> str:
    found = content.get(key)
    if not isinstance(found, str):
        raise _wrong(key, "expected a text")
    return found


def _count(content: Mapping[str, Any], key: str, where: str = "") -> int:
    found = content.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < 2**53:
        raise _wrong(where + key, "expected a count")
    return found


def _floats(where: str, content: Any) -> tuple[float, ...]:
    if not isinstance(content, list):
        raise _wrong(where, "expected a list of numbers")
    for one in content:
        if not isinstance(one, int | float) or isinstance(one, bool) or not _is_finite(one):
            raise _wrong(where, f"expected finite numbers, found {shown(repr(one), 40)}")
    return tuple(map(float, content))


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond the largest float
        return False


def _numbers(where: str, content: Any) -> Numbers:
    if not isinstance(content, Mapping):
        raise _wrong(where, "expected an object")
    edges, sample = (_floats(f"{where}.{key}", content.get(key)) for key in ("edges", "sample"))
    if not edges or sorted(set(edges)) != list(edges):
        raise _wrong(f"{where}.edges", "expected numbers in ascending order")
    if not sample or sorted(sample) != list(sample):
        raise _wrong(f"{where}.sample", "expected numbers in ascending order")
    counts = content.get("counts")
    if not isinstance(counts, list) or len(counts) != len(edges) + 1:
        raise _wrong(f"{where}.counts", f"expected {len(edges) + 1} counts, one more than edges")
    named = {str(bin_): count for bin_, count in enumerate(counts)}
    return Numbers(edges, tuple(_count(named, key, f"{where}.counts.") for key in named), sample)


def _classes(where: str, content: Any) -> dict[str, int]:
    if not isinstance(content, Mapping):
        raise _wrong(where, "expected an object")
    return {label: _count(content, label, f"{where}.") for label in content}


def _vectors(where: str, content: Any) -> list[tuple[float, ...]]:
    if not isinstance(content, list):
        raise _wrong(where, "expected a list of vectors")
    found = [_floats(where, one) for one in content]
    if len({len(one) for one in found}) > 1:
        raise _wrong(where, "expected vectors of one length")
    return found
