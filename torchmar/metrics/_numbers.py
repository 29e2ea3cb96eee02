"""Judge numbers: RMSE, MAE and R²."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DatasetError
from ._evidence import Evidence, Metric

_SPELT = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


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
    numbers = [(_number(answered[key], "answer"), _number(wanted[key], "label")) for key in answered]
    return [one for one, _ in numbers], [other for _, other in numbers]


def _number(value: Any, what: str) -> float:
    """Return a finite number, also one that a table holds as text. Raises DatasetError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not (isinstance(value, str) and _SPELT.fullmatch(value)):
        raise DatasetError(f"expected a number as {what}, found {value!r:.80}")
    if not math.isfinite(number := float(value)):
        raise DatasetError(f"expected a finite number as {what}, found {value!r:.80}")
    return number
