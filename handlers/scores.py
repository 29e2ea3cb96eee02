"""Convert a classifier's scores to probabilities.

logits: a row's softmax. probabilities: the module ends in Softmax or Sigmoid, and they stay unchanged.
sigmoid: the sigmoid of each, for labels that do not exclude one another or for a single yes or no. A single
score, p after conversion, belongs to the second of two classes: [1 - p, p].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCORES = ("logits", "probabilities", "sigmoid")

Array = NDArray[Any]

# The rounding error of float16, bfloat16 and int8 near 0 and 1.
_ROUNDED = 0.01


def to_probabilities(scores: Array, kind: str) -> Array:
    """Convert (n, scores) to float64 (n, classes). Raises ValueError if the scores cannot be of that kind."""
    if kind not in SCORES:
        raise ValueError(f"scores: {kind!r} is none of {', '.join(SCORES)}")
    if scores.ndim != 2:
        raise ValueError(f"the model gives an array of shape {scores.shape}, expected (pictures, classes)")
    found: Array = scores.astype(np.float64)
    with np.errstate(all="ignore"):  # the request with NaN or infinity is refused later
        if kind == "logits":
            if found.shape[1] == 1:
                raise ValueError(_ONE_LOGIT)
            exponentials = np.exp(found - found.max(axis=1, keepdims=True))
            found = exponentials / exponentials.sum(axis=1, keepdims=True)
        elif kind == "sigmoid":
            found = np.where(found >= 0, 1 / (1 + np.exp(-found)), np.exp(found) / (1 + np.exp(found)))
        else:
            found = _no_more_than_rounded(found)
    return np.concatenate([1 - found, found], axis=1) if found.shape[1] == 1 else found


def _no_more_than_rounded(found: Array) -> Array:
    """Return probabilities between 0 and 1; NaN where rounding cannot explain the distance."""
    return np.where((found >= -_ROUNDED) & (found <= 1 + _ROUNDED), found.clip(0, 1), np.nan)


def require_scores(kind: str, found: Array, more: Callable[[], Array], *, squashed: bool = False) -> None:
    """Raise ValueError if a model's scores contradict their declared kind.

    `found` are the scores of some inputs; more() gives those of others, and is called if these prove nothing.
    `squashed` says that the model ends with a sigmoid or a softmax.
    """
    if kind == "logits" and found.shape[1] == 1 and not squashed:
        raise ValueError(_ONE_LOGIT)
    if kind == "probabilities" and np.isnan(to_probabilities(found, kind)).any():
        raise ValueError(
            "take `scores: probabilities` out of model.yaml, write `scores: sigmoid` if each output is a "
            "class of its own, or have the module end in Softmax or Sigmoid: outputs lie from "
            f"{found.min():.4g} to {found.max():.4g}, and probabilities from 0 to 1"
        )
    within = bool((found >= 0).all() and (found <= 1).all())
    if kind != "probabilities" and (
        (within and squashed) or (_are_probabilities(found) and _are_probabilities(more()))
    ):
        taken = "softmax" if kind == "logits" else "sigmoid"
        raise ValueError(
            "write `scores: probabilities` under `params` in model.yaml, or leave the module's last layer "
            f"out: its outputs are probabilities already, and their {taken} would be taken once more"
        )


_ONE_LOGIT = (
    "write `scores: sigmoid` under `params` in model.yaml if the model's one output is a logit, or "
    "`scores: probabilities` if it is a probability, or let it give an output for each class: the softmax of "
    "one output is always 1"
)


def _are_probabilities(scores: Array) -> bool:
    """Return whether each row has several scores between 0 and 1 that sum to 1."""
    found = scores.astype(np.float64)
    return bool(found.shape[1] > 1 and (found >= 0).all() and (abs(found.sum(axis=1) - 1) < 0.001).all())


# -- which of a model's outputs they are ---------------------------------------------------------


def only_scores(outputs: Mapping[str, Array], rows: int) -> Array:
    """Return a model's scores, (rows, classes): its only output, or the one named `logits`.

    Raises ValueError.
    """
    scores = outputs[_only(outputs)]
    return scores if scores.ndim == 2 else scores.reshape(rows, -1)


def only_tensor(output: Any) -> Any:
    """Return the tensor in a module's output: alone, or in a tuple, a list, a mapping, a dataclass.

    Of several, it is the one named `logits`. Raises ValueError if that leaves none, or several.
    """
    from .runtimes import tensors_in

    found = dict(tensors_in("", output))
    try:
        return found[_only(found)]
    except ValueError as error:
        raise ValueError(f"{error} in a {type(output).__name__}") from None


def _only(found: Mapping[str, Any]) -> str:
    names = [name for name in found if name.rpartition(".")[2] == "logits"] or list(found)
    if len(names) == 1:
        return names[0]
    listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    raise ValueError(f"{len(names)} tensors ({listed})" if names else "no tensor")


def rows_of_scores(tensor: Any, rows: int) -> Any:
    """Return a module's tensor as float32 of shape (rows, outputs).

    Restores the batch dimension that `squeeze()` and the like drop for a batch of one. Raises ValueError if
    the numbers are no scores.
    """
    import torch

    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if not tensor.dtype.is_floating_point:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{kind} numbers, expected floating-point scores")
    if tensor.dtype != torch.float32:
        tensor = tensor.to(torch.float32)
    shape = list(tensor.shape)
    # A batch of one may lack dimensions; with the same count of numbers, reshaping restores them.
    if not torch.compiler.is_compiling() and (
        0 in shape or any(size != 1 for size in shape[2:]) or (rows > 1 and (shape or [0])[0] != rows)
    ):
        raise ValueError(f"found {shape}, expected scores of shape [{rows}, classes]")
    return tensor if tensor.ndim == 2 else tensor.reshape(rows, -1)
