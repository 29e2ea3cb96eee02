"""What a classifier's scores are, and the probabilities that they come to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def to_probabilities(scores: Array, kind: str) -> Array:
    """Scores of shape (n, outputs) → probabilities, float64 (n, classes).

    The softmax of `logits`; `probabilities` as they are; the `sigmoid` of each. A model with one output tells
    one class from another: it is the second of two classes.
    """
    values: Array = scores.astype(np.float64)
    if kind == "logits":
        exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
        probabilities: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return probabilities
    if kind == "sigmoid":
        values = np.exp(-np.logaddexp(0, -values))
    elif kind != "probabilities":
        raise ValueError(f"scores: found {kind!r}, expected logits, probabilities or sigmoid")
    return np.concatenate([1 - values, values], axis=-1) if values.shape[-1] == 1 else values
