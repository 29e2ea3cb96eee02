"""Check the file names of an archive together: every program must take each for the same file."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import ArchiveCorrupt
from ..names import shown

# Limits for a stranger's archive; TorchServe itself has none.
MAX_FILES = 10_000
MAX_BYTES = 64 * 2**30
MAX_DEPTH = 32  # nested folders; many a library recurses into each
MAX_NAME = 1000  # bytes, without TorchServe's own folder: Linux opens paths of 4,095
MAX_PART = 255  # bytes between two slashes, the limit of filesystems

# An empty file of this name in each folder with Python files keeps Python from caching bytecode there, so
# that the store stays as built. It does not count as a file of the archive.
PYCACHE = "__pycache__"


def require_sound(path: Path, names: Sequence[str], sizes: Sequence[int]) -> None:
    """Raise ArchiveCorrupt unless these may be the files of an archive; a folder's name ends in a slash.

    No name leads out, no two can be confused, no other code runs than the visible source, and the total is no
    bomb.
    """
    require_room(path, len(names), sum(sizes))
    for name in names:
        problem = _problem(name)
        if problem is not None:
            raise ArchiveCorrupt(f"{path}: {shown(name)!r} {problem}: do not serve it")
    problem = _clash(names) or _shadow(names)
    if problem is not None:
        raise ArchiveCorrupt(f"{path}: {problem}: do not serve it")


def require_room(path: Path, files: int, size: int) -> None:
    """Raise ArchiveCorrupt if an archive has more files or bytes than a model needs."""
    if files > MAX_FILES:
        raise ArchiveCorrupt(f"{path}: has more than {MAX_FILES:,} files: too much for a model")
    if size > MAX_BYTES:
        raise ArchiveCorrupt(f"{path}: has {size:,} bytes, unpacked: too much for a model")


def _problem(name: str) -> str | None:
    """Return what is wrong with a single name."""
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or re.match("[A-Za-z]:", name):
        return "leads out of the archive"
    if "" in parts or "." in parts:
        return "can be written in several ways"
    if not name.isprintable():
        return "holds characters that are not shown"
    if len(parts) > MAX_DEPTH:
        return f"lies {len(parts):,} folders deep, at most {MAX_DEPTH} are expected"
    if len(name.encode()) > MAX_NAME or max(len(part.encode()) for part in parts) > MAX_PART:
        return "is longer than filesystems take"
    return None


def _clash(names: Iterable[str]) -> str | None:
    """Find two names for one file: on a disk that ignores case, for example, or for a human reader."""
    seen: dict[str, str] = {}  # by the form that all spellings share; a folder's name ends in a slash
    listed: set[str] = set()
    for name in names:
        if name in listed:
            return f"{shown(name)!r} is there more than once"
        listed.add(name)
        here = ""
        for part in re.findall("[^/]+/?", name):
            here += part
            other = seen.setdefault(_folded(here), here)
            if other != here:
                return f"{shown(other)!r} and {shown(here)!r} can be taken for each other"
    return None


def _folded(name: str) -> str:
    name = unicodedata.normalize("NFKC", name.removesuffix("/"))
    return unicodedata.normalize("NFKC", name.casefold())


def _shadow(names: Iterable[str]) -> str | None:
    """Find code that Python runs instead of the source next to it: a package, a library, cached bytecode.

    The order is importlib's: packages before modules; libraries, then sources, then bytecode.
    """
    files = {name for name in names if not name.endswith("/")}
    sources = {name.removesuffix(".py") for name in files if name.endswith(".py")}
    for name in sorted(files):
        folder, slash, file = name.rpartition("/")
        module, _, suffix = file.partition(".")
        kind = suffix.split(".")[-1]
        wins_over = set()
        if kind in {"so", "pyd"}:
            wins_over.add(f"{folder}{slash}{module}")
        if module == "__init__" and kind in {"py", "pyc", "so", "pyd"}:
            wins_over.add(folder)
        if kind == "pyc" and folder.split("/")[-1] == PYCACHE:
            wins_over.add(f"{folder.removesuffix(PYCACHE)}{module}")
        for source in sorted(wins_over & sources):
            return f"Python would run {shown(name)!r} instead of {shown(source + '.py')!r}, so remove it"
    return None
