"""Compute the metrics of an answer's kind: classes, numbers, texts, boxes, masks or a ranking.

A label has the form of the answer, or of the part of it that counts:

    classes    the class, by its name or its number         accuracy, top 5, macro F1, calibration error
    numbers    the number, or {name: number}                RMSE, MAE, R²
    text       the text                                     exact, WER, CER, BLEU, chrF
    boxes      [{"box": [x1, y1, x2, y2], "label": …}]      mAP, mAP at 0.5
    mask       the mask, as the archive answers             mean IoU
    ranking    the ids that suit, or {id: gain}             NDCG, hit rate, recall
    same       the whole answer                             share that the archive's comparator finds equal
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..compare import Comparator
from ..errors import DatasetError
from ..kinds import Kind
from ..masks import overlaps
from ._boxes import boxes
from ._classes import classes
from ._evidence import Evidence, mean_of
from ._numbers import numbers
from ._ranking import ranking
from ._texts import texts


def _mask_iou(answer: Any, label: Any) -> float:
    """Return the mean IoU of the classes that either mask has."""
    try:
        found = [both / either for both, either, _ in overlaps(label, answer) if either]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"expected a mask of the answer's form as label: {error}") from None
    return sum(found) / len(found) if found else 1.0


def evidence(kind: Kind, answers: Sequence[Any], labels: Sequence[Any], comparator: Comparator) -> Evidence:
    """Return what answers and labels show. Raises DatasetError where they do not suit."""
    parts = [kind.part(answer) for answer in answers]
    if kind.name == "same":
        each = [float(comparator.same(*pair)) for pair in zip(labels, answers, strict=True)]
        return Evidence([mean_of("agreement", each, is_share=True)], each)
    if kind.name == "mask":
        each = [_mask_iou(*pair) for pair in zip(parts, labels, strict=True)]
        return Evidence([mean_of("mean IoU", each)], each)
    return _EVIDENCE[kind.name](parts, labels)


_EVIDENCE: Mapping[str, Callable[[Sequence[Any], Sequence[Any]], Evidence]] = {
    "classes": classes,
    "numbers": numbers,
    "text": texts,
    "boxes": boxes,
    "ranking": ranking,
}
