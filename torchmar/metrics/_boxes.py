"""Judge boxes: the mean average precision of COCO."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from typing import Any

from ..compare import box_iou
from ..errors import DatasetError
from ._evidence import Evidence, Metric


def boxes(answers: Sequence[Any], labels: Sequence[Any]) -> Evidence:
    """Return what boxes show; mAP averages over overlaps from 0.5 to 0.95, as COCO does."""
    found, wanted = (
        [[_box(row, what) for row in _rows(one, what)] for one in side]
        for side, what in ((answers, "answer"), (labels, "label"))
    )
    names = sorted({str(row["label"]) for one in (*found, *wanted) for row in one})
    number = {name: place + 1 for place, name in enumerate(names)}

    @cache
    def precisions(indices: tuple[int, ...]) -> tuple[float, float]:
        # an example that is drawn twice is two pictures
        return _precisions([wanted[n] for n in indices], [found[n] for n in indices], number)

    metrics = (
        Metric("mAP", lambda indices: precisions(tuple(indices))[0]),
        Metric("mAP50", lambda indices: precisions(tuple(indices))[1]),
    )
    return Evidence(metrics, [_f1(*pair) for pair in zip(found, wanted, strict=True)], resamples=50)


Rows = Sequence[Mapping[str, Any]]


def _precisions(
    wanted: Sequence[Rows], found: Sequence[Rows], number: Mapping[str, int]
) -> tuple[float, float]:
    """Return mAP and mAP at 0.5 of pictures; nan without a box to find."""
    from faster_coco_eval import COCO, COCOeval_faster

    if not any(wanted):
        return math.nan, math.nan
    with redirect_stdout(StringIO()):  # it prints its tables
        truth = COCO(_coco(wanted, number))
        answered = COCO(_coco(found, number))
        judged = COCOeval_faster(truth, answered, iouType="bbox", print_function=lambda *_: None)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return float(judged.stats[0]), float(judged.stats[1])


def _coco(pictures: Sequence[Rows], number: Mapping[str, int]) -> dict[str, Any]:
    """Return boxes in COCO's form."""
    rows: list[dict[str, Any]] = []
    for picture, boxes_of_it in enumerate(pictures):
        for row in boxes_of_it:
            x1, y1, x2, y2 = row["box"]
            rows.append(
                {
                    "id": len(rows) + 1,
                    "image_id": picture,
                    "category_id": number[str(row["label"])],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": float(row.get("score", 1.0)),
                }
            )
    return {
        "info": {},
        "images": [{"id": picture, "width": 1, "height": 1} for picture in range(len(pictures))],
        "annotations": rows,
        "categories": [{"id": place, "name": name} for name, place in number.items()],
    }


def _rows(found: Any, what: str) -> Sequence[Any]:
    if not isinstance(found, list):
        raise DatasetError(f"expected a list of boxes as {what}, found {found!r:.80}")
    return found


def _box(row: Any, what: str) -> Mapping[str, Any]:
    box = row.get("box") if isinstance(row, Mapping) else None
    if not isinstance(box, list) or len(box) != 4 or "label" not in row or not all(map(_is_number, box)):
        wanted = '{"box": [x1, y1, x2, y2], "label": …}'
        raise DatasetError(f"expected {wanted} in each {what}, found {row!r:.80}")
    if not _is_number(row.get("score", 1.0)):
        raise DatasetError(f"expected a number as score, found {row!r:.80}")
    return row  # type: ignore[no-any-return]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _f1(found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> float:
    """Return the F1 of the boxes that overlap by half and have the right label."""
    free, right = list(wanted), 0
    for row in sorted(found, key=lambda one: -float(one.get("score", 1.0))):
        partner = next(
            (
                one
                for one in free
                if str(one["label"]) == str(row["label"]) and box_iou(one["box"], row["box"]) >= 0.5
            ),
            None,
        )
        if partner is not None:
            free.remove(partner)
            right += 1
    both = len(found) + len(wanted)
    return 2 * right / both if both else 1.0
