"""Count versions on: the next one after a version that is taken."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from .errors import ArchiveError
from .names import shown, version_problem

_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")
_PARTS = re.compile(r"[0-9]+|[^0-9]+")


def next_version(version: str, taken: Collection[str] = ()) -> str:
    """Return the version with its last number raised by one, until it is not `taken`.

    1.2 → 1.3, 1.9 → 1.10, 3 → 4; leading zeros stay, as in 2026.09 → 2026.10. Only numbers between dots are
    counted on: what follows 2.0-rc1 is for people to say. Raises ArchiveError.
    """
    if not _NUMBERS.fullmatch(version) or version_problem(version):
        what = "only numbers between dots, as 1.9, are counted on"
        raise ArchiveError(f"name the next version: {what}, and it is {shown(version)!r}")
    before, dot, last = version.rpartition(".")
    number = int(last)
    while True:
        number += 1
        found = f"{before}{dot}{number:0{len(last)}}"
        if found not in taken:
            break
    if problem := version_problem(found):
        raise ArchiveError(f"name the next version: {problem}")
    return found


def order(version: str) -> list[tuple[int, int, str]]:
    """Return a key to sort versions by: their numbers count as numbers, so that 1.9 is before 1.10."""
    found = []
    for part in _PARTS.findall(version):
        number = part.lstrip("0")
        is_number = part.isascii() and part.isdigit()
        found.append((0, len(number), number) if is_number else (1, 0, part))
    return found


def versions_in(store: Path, name: str) -> frozenset[str]:
    """Return the versions of a model that a store has files or folders for, by their names alone.

    Those of another model whose name begins with `name` and a dash do no harm. A store that does not exist
    has none. Raises OSError.
    """
    try:
        files = os.listdir(store)  # noqa: PTH208 (no Path for each file)
    except FileNotFoundError:
        return frozenset()
    begins = f"{name}-"
    return frozenset(
        file.removeprefix(begins).removesuffix(".mar") for file in files if file.startswith(begins)
    )
