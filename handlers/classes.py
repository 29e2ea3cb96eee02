"""Probabilities of classes → rows of an answer, and the checks that every classifier makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .worker.answers import not_finite

Array = Any

SAME_CLASS: Mapping[str, Any] = {"kind": "first", "by": ["label", "index"]}
"""Two answers say the same where the likeliest class is the same, and is called the same."""


def ranked(
    probabilities: Array, labels: Sequence[str] | None, most: int, what: str = "input"
) -> list[dict[str, Any]]:
    """The likeliest classes of one instance, ties in the order of their index.

    `probabilities` is float (classes,), of what was sent, a `what`. Raises Refused (500) where they are no
    numbers.
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


def require_labels(labels: Sequence[str] | None, scores: int, file: str | None) -> None:
    """Raise ValueError where a model's number of scores is not that of the labels."""
    number = 2 if scores == 1 else scores
    if labels is not None and len(labels) != number:
        told = "one output, which is two classes" if scores == 1 else f"{number} classes"
        raise ValueError(f"labels: the module has {told}, `labels: {file}` names {len(labels)}")


def require_finite(scores: Array, what: str) -> None:
    """Raise ValueError where a module's outputs are NaN or infinite; `what` is what the inputs are."""
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).reshape(len(scores), -1).all(axis=-1)).sum())
        raise ValueError(
            f"check the weights: for {bad} of {len(scores)} {what} the module gives NaN or infinity"
        )
