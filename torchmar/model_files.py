"""The files of a model's folder: which of them there are, and which are requests."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable
from pathlib import Path

LARGE = 1_000_000
"""Bytes; a larger file is packed with an eager model's code only where model.yaml lists it."""

# Caches, and what torchmar itself may have put there.
_NOT_OURS = ("__pycache__", ".pyc", ".mar", ".mar.sig")
# What Windows leaves in folders unseen; the names that it hides begin with no dot.
_STRAY = {"thumbs.db", "ehthumbs.db", "desktop.ini"}
# A folder that holds one of these is a virtual environment, or an archive in a model store.
_FOREIGN = ("pyvenv.cfg", "MAR-INF")


def files_of(folder: Path) -> list[Path]:
    """Every file under a folder, in the order of their names, but for what is hidden, caches and archives.

    Links are followed. Raises OSError where a folder cannot be read.
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
                if real not in above:  # a link to a folder that it lies in
                    begun.append((path, (*above, real)))
            elif entry.is_file():
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _STRAY


def matching(folder: Path, files: Iterable[Path], pattern: str) -> list[Path]:
    """Those of a folder's files that `pattern` names: a file, a folder, or several by `*` and `?`."""

    def matches(name: str) -> bool:
        forms = {pattern, pattern.replace("**/", "")}  # which stands for no folder, too
        return (
            name == pattern
            or any(fnmatch.fnmatchcase(name, form) for form in forms)
            or name.startswith(pattern.rstrip("/") + "/")
        )

    return [path for path in files if matches(path.relative_to(folder).as_posix())]


def external_data(file: Path) -> list[Path]:
    """The files beside an .onnx that hold its tensors, whether they exist or not; [] for any other file.

    Without the package onnx nothing is known of them.
    """
    if file.suffix != ".onnx":
        return []
    try:
        import onnx

        graph = onnx.load(str(file), load_external_data=False).graph
    except Exception:  # protobuf's: whoever loads the model tells
        return []
    external = (each for each in graph.initializer if each.data_location == each.EXTERNAL)
    names = {pair.value for each in external for pair in each.external_data if pair.key == "location"}
    paths = (file.parent / name for name in sorted(names) if ".." not in Path(name).parts)
    return [path for path in paths if path.is_relative_to(file.parent)]


def requests_in(folder: Path) -> list[Path]:
    """The files of a golden folder, in the order of their names.

    Raises OSError; ValueError where something in it is no file that can be asked, or none is there.
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
