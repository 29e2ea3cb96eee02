"""Judge classes: accuracy, macro F1, calibration, and which classes are confused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DatasetError
from ._evidence import Evidence, Metric, mean_of

NONE = "(none)"
"""Stands for the class of an answer without rows."""

_BINS = 10  # of confidence


@dataclass(frozen=True)
class Classes(Evidence):
    """Also tells which classes are confused, and how sure the answers were.

    `names` are the classes' names, and `wanted` the label's by example. `right` is bool, by example.
    """

    names: Sequence[str] = ()
    wanted: Sequence[str] = ()
    right: Any = None
    confusion: Sequence[Sequence[int]] = ()
    """How often a class (row) was answered as another (column), in the order of `names`."""
    reliability: Sequence[tuple[float, float, int]] = ()
    """Each bin of confidence that is not empty: its mean, the share right, the count."""
    unknown: Sequence[str] = ()
    """Labels that no answer has in any row."""


def classes(answers: Sequence[Any], labels: Sequence[Any]) -> Classes:
    """Return what rows of classes show, the likeliest first: `label`, perhaps `index` and `probability`.

    The label of an example is a class's name, or its number. Accuracy decides.
    """
    import numpy as np

    rows = [_rows(answer) for answer in answers]
    wanted = _named(labels, rows)
    found = [_name(one[0]) if one else NONE for one in rows]
    places = [_place(one, name) for one, name in zip(rows, wanted, strict=True)]
    names = sorted({*found, *wanted}, key=_as_numbers)
    number = {name: place for place, name in enumerate(names)}
    answered, meant = (np.array([number[name] for name in side]) for side in (found, wanted))
    right = np.array([place == 0 for place in places])
    confidence = np.array([_probability(one) for one in rows])

    def macro_f1(indices: Any) -> float:
        asked, got = meant[indices], answered[indices]
        labels, answers, both = (
            np.bincount(one, minlength=len(names)) for one in (asked, got, asked[asked == got])
        )
        there = labels + answers > 0
        return float((2 * both[there] / (labels + answers)[there]).mean())

    def calibration_error(indices: Any) -> float:
        bins = _reliability(confidence[indices], right[indices])
        return sum(count / len(indices) * abs(share - sure) for sure, share, count in bins)

    metrics = [mean_of("accuracy", right.tolist(), is_share=True)]
    every = {_name(row) for one in rows for row in one}
    if max(map(len, rows)) >= 5 and len(every) > 5:
        near = [place is not None and place < 5 for place in places]
        metrics.append(mean_of("top 5", near, is_share=True))
    metrics.append(Metric("macro F1", macro_f1))
    is_sure = not np.isnan(confidence).any()
    if is_sure:
        metrics.append(Metric("calibration error", calibration_error, higher=False))
    return Classes(
        metrics,
        right.astype(float).tolist(),
        names=names,
        wanted=wanted,
        right=right,
        confusion=_confusion(meant, answered, len(names)),
        reliability=_reliability(confidence, right) if is_sure else (),
        unknown=sorted({*wanted} - every),
    )


def _confusion(meant: Any, answered: Any, count: int) -> list[list[int]]:
    import numpy as np

    table = np.zeros((count, count), dtype=int)
    np.add.at(table, (meant, answered), 1)
    return table.tolist()


def _reliability(confidence: Any, right: Any) -> list[tuple[float, float, int]]:
    """Return mean confidence, share right and count of each of 10 bins (Guo et al., ICML 2017)."""
    import numpy as np

    place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    inside = [place == one for one in np.unique(place)]
    return [(float(confidence[one].mean()), float(right[one].mean()), int(one.sum())) for one in inside]


def _rows(answer: Any) -> Sequence[Mapping[str, Any]]:
    rows = answer if isinstance(answer, list) else [answer]
    if not all(isinstance(row, Mapping) and "label" in row for row in rows):
        raise DatasetError(f'expected rows with "label" as answer, found {answer!r:.80}')
    return rows


def _name(row: Mapping[str, Any]) -> str:
    return str(row["label"])


def _named(labels: Sequence[Any], rows: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the names of the labels' classes.

    Labels are names if some answer has one of them as a name; else numbers, if some answer has one of them as
    its `index`. That is decided for all of them at once: an answer may leave out the classes that are not
    likely, and a name may be a number itself.
    """
    texts = [str(label) for label in labels]
    every = [row for one in rows for row in one]
    known = {_name(row) for row in every}
    by_number = {str(row["index"]): _name(row) for row in every if "index" in row}
    if known & {*texts} or not by_number.keys() & {*texts}:
        return texts
    return [by_number.get(text, text) for text in texts]


def _place(rows: Sequence[Mapping[str, Any]], wanted: str) -> int | None:
    """Return where a class stands among the rows; None if nowhere."""
    return next((place for place, row in enumerate(rows) if _name(row) == wanted), None)


def _probability(rows: Sequence[Mapping[str, Any]]) -> float:
    found = rows[0].get("probability") if rows else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= 1.00001:
        return float("nan")
    return min(1.0, float(found))


def _as_numbers(name: str) -> tuple[int, int, str]:
    """Order names that are numbers as numbers, before the others."""
    return (0, int(name), name) if name.isdecimal() and len(name) < 19 else (1, 0, name)
