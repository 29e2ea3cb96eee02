"""What a classifier's scores are, and the probabilities that they come to.

logits: the softmax of a row. probabilities: the module ends in Softmax or Sigmoid, and they stay as they are.
sigmoid: the sigmoid of each, of labels that do not exclude one another or of a single yes or no. One score
for a picture, p after this, is that of the second of two classes: [1 - p, p].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCORES = ("logits", "probabilities", "sigmoid")

Array = NDArray[Any]

# What float16, bfloat16 and int8 make of 0 and of 1.
_ROUNDED = 0.01


def to_probabilities(scores: Array, kind: str) -> Array:
    """(n, scores) → float64 (n, classes). Raises ValueError where the scores cannot be of that kind."""
    if kind not in SCORES:
        raise ValueError(f"scores: {kind!r} is none of {', '.join(SCORES)}")
    if scores.ndim != 2:
        raise ValueError(f"the model gives an array of shape {scores.shape}, expected (pictures, classes)")
    found: Array = scores.astype(np.float64)
    with np.errstate(all="ignore"):  # what is no number is told to its own request
        if kind == "logits":
            if found.shape[1] == 1:
                raise ValueError(
                    "write `scores: sigmoid` under `output` in model.yaml, or `scores: probabilities` if the "
                    "module ends in Sigmoid, and build the archive again: the model gives one score for a "
                    "picture, and the softmax of one logit is 1 whatever the picture is"
                )
            exponentials = np.exp(found - found.max(axis=1, keepdims=True))
            found = exponentials / exponentials.sum(axis=1, keepdims=True)
        elif kind == "sigmoid":
            found = np.where(found >= 0, 1 / (1 + np.exp(-found)), np.exp(found) / (1 + np.exp(found)))
        else:
            found = _no_more_than_rounded(found)
    return np.concatenate([1 - found, found], axis=1) if found.shape[1] == 1 else found


def _no_more_than_rounded(found: Array) -> Array:
    """Probabilities between 0 and 1; NaN where they are further from it than rounding brings them."""
    return np.where((found >= -_ROUNDED) & (found <= 1 + _ROUNDED), found.clip(0, 1), np.nan)


def require_scores(kind: str, found: Array, more: Callable[[], Array]) -> None:
    """Raises ValueError where a model's scores contradict what they are said to be.

    found: those of one input; more() gives those of other ones, and is called where these are no proof.
    """
    if kind == "probabilities" and np.isnan(to_probabilities(found, kind)).any():
        raise ValueError(
            "take `scores: probabilities` out of model.yaml, or have the module end in Softmax or Sigmoid, "
            "and build the archive again: the model gives scores from "
            f"{found.min():.4g} to {found.max():.4g}"
        )
    if kind != "probabilities" and _are_probabilities(found) and _are_probabilities(more()):
        taken = "softmax" if kind == "logits" else "sigmoid"
        raise ValueError(
            "write `scores: probabilities` under `output` in model.yaml and build the archive again: the "
            f"model's scores are probabilities already, and their {taken} would make all classes alike"
        )


def _are_probabilities(scores: Array) -> bool:
    """Whether each row has several scores, between 0 and 1, that come to 1."""
    found = scores.astype(np.float64)
    return bool(found.shape[1] > 1 and (found >= 0).all() and (abs(found.sum(axis=1) - 1) < 0.001).all())
