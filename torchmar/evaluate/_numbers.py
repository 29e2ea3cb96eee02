"""Judge numbers: RMSE, MAE and R²."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DatasetError
from ._evidence import Evidence, Metric


def numbers(answers: Sequence[Any], labels: Sequence[Any]) -> Evidence:
    """Return what numbers show; of several in an answer, the metrics are averaged."""
    import numpy as np

    rows = [_row(answer, label) for answer, label in zip(answers, labels, strict=True)]
    found, wanted = (np.array([row[side] for row in rows]) for side in (0, 1))
    apart = found - wanted

    def rmse(indices: Any) -> float:
        return float(np.sqrt((apart[indices] ** 2).mean(axis=0)).mean())

    def r2(indices: Any) -> float:
        spread = ((wanted[indices] - wanted[indices].mean(axis=0)) ** 2).sum(axis=0)
        if not spread.all():  # labels that are all the same: it is not defined
            return float("nan")
        return float((1 - (apart[indices] ** 2).sum(axis=0) / spread).mean())

    metrics = (
        Metric("RMSE", rmse, higher=False),
        Metric("MAE", lambda indices: float(np.abs(apart[indices]).mean()), higher=False),
        Metric("R²", r2),
    )
    return Evidence(metrics, (-np.abs(apart).mean(axis=1)).tolist())


def _row(answer: Any, label: Any) -> tuple[list[float], list[float]]:
    """Return an answer's numbers and the label's, in one order. Raises DatasetError."""
    answered = dict(answer) if isinstance(answer, Mapping) else {"": answer}
    wanted = label if isinstance(label, Mapping) else {"": label}
    if not isinstance(label, Mapping) and len(answered) == 1:
        wanted = dict.fromkeys(answered, label)
    if answered.keys() != wanted.keys():
        names = ", ".join(map(str, answered))
        raise DatasetError(f"give a label with the numbers {names}: found {label!r:.80}")
    try:
        return [float(answered[key]) for key in answered], [float(wanted[key]) for key in answered]
    except (TypeError, ValueError):
        raise DatasetError(f"expected a number as label, found {label!r:.80} for {answer!r:.80}") from None
