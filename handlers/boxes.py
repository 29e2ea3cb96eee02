"""Convert detectors' boxes, measure their overlap, and choose among overlapping ones."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Form = Literal["xyxy", "xywh", "cxcywh"]


def to_corners(boxes: Array, form: Form) -> Array:
    """Convert (…, 4) in any form to float64 [x1, y1, x2, y2]. xywh has a corner first, cxcywh the centre."""
    found: Array = boxes.astype(np.float64)
    if form == "xyxy":
        return found
    first, sides = found[..., :2], found[..., 2:]
    if form == "cxcywh":
        first = first - sides / 2
    return np.concatenate([first, first + sides], axis=-1)


def overlaps(boxes: Array, others: Array) -> Array:
    """Return the intersection over union of each of (n, 4) with each of (m, 4): float64 (n, m).

    Boxes are [x1, y1, x2, y2].
    """
    boxes, others = boxes.astype(np.float64), others.astype(np.float64)
    first = np.maximum(boxes[:, None, :2], others[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.clip(last - first, 0, None).prod(axis=2)
    union = _areas(boxes)[:, None] + _areas(others)[None] - common
    found: Array = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def _areas(boxes: Array) -> Array:
    areas: Array = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)
    return areas


def kept(boxes: Array, scores: Array, classes: Array, most_overlap: float, most: int) -> Array:
    """Return the indexes that survive non-maximum suppression, at most `most`, the highest score first.

    Of two boxes of one class whose intersection over union exceeds `most_overlap`, the one with the higher
    score survives, as in torchvision.ops.batched_nms.
    """
    left = np.argsort(-scores, kind="stable")
    found: list[int] = []
    while len(left) and len(found) < most:
        best, left = left[0], left[1:]
        found.append(int(best))
        covered = overlaps(boxes[best][None], boxes[left])[0] > most_overlap
        left = left[~(covered & (classes[left] == classes[best]))]
    return np.array(found, dtype=np.int64)
