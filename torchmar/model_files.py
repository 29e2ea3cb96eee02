"""The files of a model's folder: which of them there are, which are requests, and the labels' text."""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import read_text

LARGE = 1_000_000
"""Bytes; a larger file is packed with an eager model's code only where model.yaml lists it."""

# Caches, and what torchmar itself may have put there.
_NOT_OURS = ("__pycache__", ".pyc", ".mar", ".mar.sig")
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
            if entry.name.startswith(".") or entry.name.endswith(_NOT_OURS):
                continue
            if entry.is_dir():
                real = path.resolve()
                if real not in above:  # a link to a folder that it lies in
                    begun.append((path, (*above, real)))
            elif entry.is_file():
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


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


def requests_in(folder: Path) -> list[Path]:
    """The files of a golden folder, in the order of their names.

    Raises OSError; ValueError where something in it is no file that can be asked, or none is there.
    """
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in found:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "no file"
            raise ValueError(f"{path.name!r} in it is {kind}; requests lie side by side")
        if not path.name.isprintable():
            raise ValueError(f"{path.name!r} in it cannot be written into an archive: rename it")
    if not found:
        raise ValueError("no files are in it")
    return found


def read_labels(file: Path) -> list[str]:
    """The label of each class, from a .txt with one a line, or a .json with a list.

    Raises OSError; ValueError where it is no such file, or a label is empty.
    """
    if not file.is_file():  # a pipe would be waited for
        raise ValueError("no such file")
    text = read_text(file).replace("\ufeff", "")  # files that were joined have marks inside
    labels: list[str]
    if file.suffix.lower() == ".json":
        labels = json.loads(text)
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("expected a list of labels")
    else:
        # Only what ends a line in a text file does: splitlines() would also split at rarer characters.
        labels = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        while labels and not labels[-1].strip():
            labels.pop()
        if text.lstrip()[:1] + text.rstrip()[-1:] in {"[]", "{}"}:
            raise ValueError("holds a list as programs write it: one label a line, or name it .json")
    if not labels:
        raise ValueError("holds no labels")
    empty = [number for number, label in enumerate(labels, 1) if not label.strip()]
    if empty:
        raise ValueError(f"label {empty[0]} of {len(labels)} is empty")
    if any("\0" in label for label in labels):
        raise ValueError("save it as UTF-8: it is in another encoding, or no text")
    "".join(labels).encode()  # half a character, which JSON can say, is no label
    return labels


def duplicates(labels: Sequence[str]) -> list[str]:
    """The labels that several classes have."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for label in labels:
        if label in seen:
            twice[label] = None
        seen.add(label)
    return list(twice)
