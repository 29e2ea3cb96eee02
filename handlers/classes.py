"""Turn class probabilities into an answer's rows, and check what every classifier must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .worker.answers import not_finite

Array = Any

SAME_CLASS: Mapping[str, Any] = {"kind": "first", "by": ["label", "index"]}
"""Two answers agree if their likeliest class is the same, with the same name."""


def ranked(
    probabilities: Array, labels: Sequence[str] | None, most: int, what: str = "input"
) -> list[dict[str, Any]]:
    """Return the likeliest classes of one instance; ties keep the order of their index.

    `probabilities` is float (classes,); `what` names the input. Raises Refused (500) if they contain NaN or
    infinity.
    """
    if not np.isfinite(probabilities).all():
        raise not_finite(what)
    best = np.argsort(-probabilities, kind="stable")[:most]
    return [
        {
            "label": labels[index] if labels is not None else str(index),
            "index": int(index),
            "probability": float(probabilities[index]),
        }
        for index in best
    ]


def one_hot(label: Any, labels: Sequence[str] | None, classes: int) -> Array:
    """Return 1 for the class of a label and 0 for the others, float64 (classes,).

    A label is the text of a class, or else its index. Raises ValueError for any other.
    """
    text = str(label)
    if labels is not None and text in labels:
        index = labels.index(text)
    elif not isinstance(label, bool) and text.isdecimal() and int(text) < classes:
        index = int(text)
    else:
        known = f"one of {', '.join(labels[:5])}{', …' if len(labels) > 5 else ''}" if labels else "an index"
        raise ValueError(f"label {text[:40]!r} is no class: expected {known}, or 0 to {classes - 1}")
    found = np.zeros(classes)
    found[index] = 1.0
    return found


def require_labels(labels: Sequence[str] | None, scores: int, file: str | None) -> None:
    """Raise ValueError if a model's number of scores differs from the labels'."""
    number = 2 if scores == 1 else scores
    if labels is not None and len(labels) != number:
        given = "one output, which is two classes" if scores == 1 else f"{number} classes"
        raise ValueError(f"labels: the module has {given}, `labels: {file}` names {len(labels)}")


def require_finite(scores: Array, what: str) -> None:
    """Raise ValueError if a module's outputs contain NaN or infinity; `what` names the inputs."""
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).reshape(len(scores), -1).all(axis=-1)).sum())
        raise ValueError(
            f"check the weights: for {bad} of {len(scores)} {what} the module gives NaN or infinity"
        )
