"""Read the labels of the classes, from a file beside model.yaml or from this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..requests import text_of

_HERE = Path(__file__).parent


def read_labels(name: str, folder: Path) -> list[str]:
    """Return the labels of a .txt, one per line, or of a .json; `name` may also be a list in this package.

    A .json holds a list, or an object of labels by index or of indices by label. Raises ValueError, which
    begins with "labels: ", if there is no such file, or a label is empty.
    """
    try:
        return _read(name, folder)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"labels: {name}: {getattr(error, 'strerror', None) or error}") from None


def _read(name: str, folder: Path) -> list[str]:
    file = folder / name
    if "." not in name and "/" not in name:
        file = _HERE / f"{name}.txt"
    if not file.is_file():  # a pipe would block
        raise ValueError("no such file")
    text = text_of(file.read_bytes())
    if text is None:
        raise ValueError("save it as UTF-8: it is in another encoding, or no text")
    text = text.replace("\ufeff", "")  # joined files have marks inside
    labels = _of_json(text) if file.suffix.lower() == ".json" else _of_lines(text)
    if not labels:
        raise ValueError("holds no labels")
    empty = [number for number, label in enumerate(labels, 1) if not label.strip()]
    if empty:
        raise ValueError(f"label {empty[0]} of {len(labels)} is empty")
    if any("\0" in label for label in labels):
        raise ValueError("save it as UTF-8: it is in another encoding, or no text")
    "".join(labels).encode()  # fails for half a character, which JSON can express
    return labels


def _of_json(text: str) -> list[str]:
    found = json.loads(text)
    labels = _in_order(found) if isinstance(found, dict) else found
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError('expected a list of labels, or {"0": "cat", …}, or {"cat": 0, …}')
    return labels


def _in_order(found: dict[str, Any]) -> list[Any]:
    """Return the labels of TorchServe's index_to_name.json, or of torchvision's class_to_idx, by index.

    Of ImageNet's `{"0": ["n01440764", "tench"]}`, the last text is the label.
    """
    if all(isinstance(value, int) and not isinstance(value, bool) for value in found.values()):
        pairs = [(value, key) for key, value in found.items()]
    else:
        pairs = [(int(key) if key.isdecimal() else -1, value) for key, value in found.items()]
    by_index = dict(pairs)
    missing = [index for index in range(len(pairs)) if index not in by_index]
    if missing:
        raise ValueError(f"expected the indices 0 to {len(pairs) - 1}, each once: {missing[0]} is missing")
    labels = [by_index[index] for index in range(len(pairs))]
    return [label[-1] if isinstance(label, list) and label else label for label in labels]


def _of_lines(text: str) -> list[str]:
    # Split only at a text file's line ends: splitlines() would also split at rarer characters.
    labels = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while labels and not labels[-1].strip():
        labels.pop()
    if text.lstrip()[:1] + text.rstrip()[-1:] in {"[]", "{}"}:
        raise ValueError("holds a list as programs write it: one label a line, or name it .json")
    return labels


def duplicates(labels: Sequence[str]) -> list[str]:
    """Return the labels that several classes share."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for label in labels:
        if label in seen:
            twice[label] = None
        seen.add(label)
    return list(twice)
