"""List the files of a model's folder, and its golden requests."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path

LARGE = 1_000_000
"""In bytes; a larger file is packed with an eager model's code only if model.yaml lists it."""

# Caches, and files that torchmar itself may have put there.
_NOT_OURS = ("__pycache__", ".pyc", ".mar", ".mar.sig")
# Files that Windows hides although their names begin with no dot.
_STRAY = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
# A folder with one of these is a virtual environment, or an archive in a model store.
_FOREIGN = ("pyvenv.cfg", "MAR-INF")


def files_of(folder: Path) -> list[Path]:
    """Return every file under a folder, ordered by name, except hidden files, caches and archives.

    Follows links. Raises OSError if a folder is unreadable.
    """
    found: list[Path] = []
    begun: list[tuple[Path, tuple[Path, ...]]] = [(folder, (folder.resolve(),))]
    while begun:
        here, above = begun.pop()
        with os.scandir(here) as opened:
            entries = list(opened)
        if here != folder and any(entry.name in _FOREIGN for entry in entries):
            continue
        for entry in entries:
            path = here / entry.name
            if _is_hidden(entry.name) or entry.name.endswith(_NOT_OURS):
                continue
            if entry.is_dir():
                real = path.resolve()
                if real not in above:  # skips a link to a folder that contains it
                    begun.append((path, (*above, real)))
            elif entry.is_file():
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _STRAY


def matching(folder: Path, files: Iterable[Path], pattern: str) -> list[Path]:
    """Return those of a folder's files that `pattern` names: a file, a folder, or several by `*` and `?`."""

    def matches(name: str) -> bool:
        forms = {pattern, pattern.replace("**/", "")}  # `**/` also stands for no folder
        return (
            name == pattern
            or any(fnmatch.fnmatchcase(name, form) for form in forms)
            or name.startswith(pattern.rstrip("/") + "/")
        )

    return [path for path in files if matches(path.relative_to(folder).as_posix())]


def external_data(file: Path) -> list[Path]:
    """Return the files beside an .onnx that hold its tensors, existing or not; [] for other files.

    Returns [] without the package onnx.
    """
    if file.suffix != ".onnx":
        return []
    try:
        import onnx

        graph = onnx.load(str(file), load_external_data=False).graph
    except Exception:  # protobuf's errors; loading the model reports them
        return []
    external = (each for each in graph.initializer if each.data_location == each.EXTERNAL)
    names = {pair.value for each in external for pair in each.external_data if pair.key == "location"}
    paths = (file.parent / name for name in sorted(names) if ".." not in Path(name).parts)
    return [path for path in paths if path.is_relative_to(file.parent)]


def requests_in(folder: Path) -> list[Path]:
    """Return the files of a golden folder, ordered by name.

    Raises OSError; ValueError if it is empty, or holds something other than request files.
    """
    found = sorted(path for path in folder.iterdir() if not _is_hidden(path.name))
    for path in found:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no file"
            raise ValueError(f"{path.name!r} in it is {kind}; requests lie side by side")
        if not path.name.isprintable():
            raise ValueError(f"{path.name!r} in it cannot be written into an archive: rename it")
    if not found:
        raise ValueError("no files are in it")
    return found
