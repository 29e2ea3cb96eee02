"""Choose what a training minimises: the cross-entropy of classes, or the square of an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import DatasetError
from ._config import Loss

Compute = Callable[[Any, Any], Any]
"""Takes the module's output and the target, both (n, k), and returns the mean loss."""

_LEAST = 1e-7  # a probability, before its logarithm is taken
_TEMPERATURE = 2.0  # of a distillation


def loss_of(wanted: Loss, scores: str, *, classes: bool) -> tuple[str, Compute]:
    """Return a loss with its name. `scores` says what a classifier's outputs are, see handlers/scores.py.

    Raises DatasetError where cross-entropy is wanted and labels are no classes.
    """
    if wanted == "cross_entropy" and not classes:
        raise DatasetError("--loss cross_entropy: leave it out: the labels are no classes")
    if classes and wanted != "squared":
        return "cross_entropy", _cross_entropy(scores)
    return "squared", _squared(scores if classes else "")


def _cross_entropy(scores: str) -> Compute:
    from torch.nn import functional

    def compute(output: Any, target: Any) -> Any:
        if output.shape[1] == 1:  # of two classes, the second one
            target, kind = target[:, 1:], "sigmoid" if scores == "sigmoid" else "probability"
        else:
            kind = scores
        if kind == "logits":
            return functional.cross_entropy(output, target)
        if kind == "sigmoid":
            return functional.binary_cross_entropy_with_logits(output, target)
        if kind == "probability":
            return functional.binary_cross_entropy(output.clamp(_LEAST, 1 - _LEAST), target)
        return -(target * output.clamp(min=_LEAST).log()).sum(1).mean()

    return compute


def _squared(scores: str) -> Compute:
    def compute(output: Any, target: Any) -> Any:
        found = _probabilities(output, scores)
        if found.shape != target.shape:
            shapes = f"{tuple(found.shape[1:])} and {tuple(target.shape[1:])}"
            raise DatasetError(f"the module gives another shape than the labels: {shapes}")
        return ((found - target) ** 2).sum(1).mean()

    return compute


def _probabilities(output: Any, scores: str) -> Any:
    import torch

    if scores == "logits":
        output = output.softmax(1)
    elif scores == "sigmoid":
        output = output.sigmoid()
    if scores and output.shape[1] == 1:
        return torch.cat([1 - output, output], 1)
    return output


def distance_to(scores: str, *, classes: bool) -> Compute:
    """Return how far outputs are from a teacher's; for logits the KL divergence at a temperature of 2."""
    from torch.nn import functional

    if not classes or scores != "logits":
        return _squared("")

    def compute(output: Any, teacher: Any) -> Any:
        one, other = (side / _TEMPERATURE for side in (output, teacher))
        log_p, q = functional.log_softmax(one, 1), functional.softmax(other, 1)
        return functional.kl_div(log_p, q, reduction="batchmean") * _TEMPERATURE**2

    return compute
