"""Choose and compute the metrics of an answer's kind: classes, numbers, texts, boxes, masks or a ranking.

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
from dataclasses import dataclass
from typing import Any

from ..compare import Comparator
from ..errors import DatasetError
from ..masks import overlaps
from ._boxes import boxes
from ._classes import classes
from ._evidence import Evidence, mean_of
from ._numbers import numbers
from ._ranking import ranking
from ._texts import texts

KINDS = ("classes", "numbers", "text", "boxes", "mask", "ranking", "same")

_OF_COMPARATOR = {"first": "classes", "boxes": "boxes", "mask": "mask", "text": "text"}


@dataclass(frozen=True)
class Kind:
    """What an archive answers. `key` is the answer's key that counts, '' for all of it."""

    name: str
    key: str = ""

    def part(self, answer: Any) -> Any:
        """Return what counts of an answer. Raises DatasetError."""
        if not self.key:
            return answer
        if not isinstance(answer, Mapping) or self.key not in answer:
            raise DatasetError(f"--metric {self.name}: an answer has no {self.key!r}: {answer!r:.80}")
        return answer[self.key]


def kind_of(comparator: Comparator, answer: Any, wanted: str | None = None) -> Kind:
    """Return what an archive answers, by its comparator and one of its answers. Raises DatasetError."""
    if wanted is not None and wanted not in KINDS:
        raise DatasetError(f"--metric {wanted}: expected one of {', '.join(KINDS)}")
    if comparator.kind == "fields":
        parts = {key: Comparator.of(one).kind for key, one in comparator.options["fields"].items()}
        found = [(_of_part(kind), key) for key, kind in parts.items()]
        for name, key in found:
            if wanted in {None, name}:
                return Kind(name, key)
    if wanted is not None:
        return Kind(wanted)
    if comparator.kind in _OF_COMPARATOR:
        return Kind(_OF_COMPARATOR[comparator.kind])
    if isinstance(answer, str):
        return Kind("text")
    return Kind("numbers" if _is_numbers(answer) else "same")


def _of_part(kind: str) -> str:
    return {"first": "ranking", "exact": "text"}.get(kind, _OF_COMPARATOR.get(kind, "same"))


def _is_numbers(answer: Any) -> bool:
    values = answer.values() if isinstance(answer, Mapping) else [answer]
    return bool(values) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)


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
