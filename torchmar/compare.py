"""Compare two answers of a model.

A handler chooses a comparator, and the archive carries it (MAR-INF/compare.json), so that the parity check,
the release gate, shadow traffic, `verify` and maintenance all judge alike. Comparators use only what the
caller gets, and execute no code of an archive.

    {"kind": "close"}                       JSON that is equal but for rounding; other content: the same bytes
    {"kind": "exact"}                       the same JSON, or the same bytes
    {"kind": "first", "by": ["label"]}      lists of rows: the first row says the same under each key of `by`
    {"kind": "boxes", "min_iou": 0.8, …}    lists of rows with `box`, `label` and `score`: found pair by pair
    {"kind": "tracks", "min_iou": 0.8, …}   frames as `boxes`, whose `id` mean the same things in all of them
    {"kind": "mask", "min_iou": 0.98, …}    masks, run-length encoded or as PNG: each class overlaps
    {"kind": "cosine", "min": 0.999}        lists of numbers: they point the same way
    {"kind": "text", "max_edits": 0.05}     texts: at most this share of the characters differs
    {"kind": "fields", "fields": {…}}       objects: a comparator for each key, else `close`; with `other`, a
                                            comparator for answers that are no objects
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat, zip_longest
from typing import Any

from .masks import overlaps

TOLERANCE = 1e-3
"""For two numbers, absolute and relative: wider than float32 rounding, narrower than anyone acts on."""

_SIX_DIGITS = 1e-5
_LIST = "predictions"  # the key of an answer to several instances
_LONGEST_TEXT = 2_000  # characters or words: an edit distance takes time by the product of both lengths
# Deep nesting, an integer beyond a float's range, a row without its key, and so on.
_NOT_COMPARABLE = (ValueError, RecursionError, OverflowError, TypeError, KeyError, IndexError)


@dataclass(frozen=True)
class Comparator:
    """A way to compare two answers: a kind from the module's list, and its options."""

    kind: str = "close"
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    """The tolerance for numbers without an option."""

    @classmethod
    def of(cls, content: Any, tolerance: float = TOLERANCE) -> Comparator:
        """Return the comparator in an archive; None means `close`. Raises ValueError for unknown content."""
        if content is None:
            return cls(tolerance=tolerance)
        kind = content.get("kind") if isinstance(content, Mapping) else None
        if not isinstance(kind, str) or kind not in _KINDS:
            raise ValueError(f"found {content!r}, expected one of {', '.join(sorted(_KINDS))} as `kind`")
        options = {key: value for key, value in content.items() if key != "kind"}
        _require_options(kind, options)
        if kind == "fields":
            options["fields"] = {key: cls.of(one).as_json() for key, one in options["fields"].items()}
            if "other" in options:
                options["other"] = cls.of(options["other"]).as_json()
        return cls(str(content["kind"]), options, tolerance)

    @property
    def minds_all_digits(self) -> bool:
        """Return whether more than six digits of a number can matter."""
        if self.kind == "fields":
            parts = [*self.options["fields"].values(), self.options.get("other")]
            return any(Comparator.of(part, self.tolerance).minds_all_digits for part in parts)
        tolerance = float(self.options.get("tolerance", self.tolerance))
        return self.kind == "exact" or tolerance < _SIX_DIGITS

    def as_json(self) -> dict[str, Any]:
        """Return the content for an archive."""
        return {"kind": self.kind, **self.options}

    def same(self, expected: Any, found: Any) -> bool:
        """Compare two answers: parsed JSON, or else text or bytes.

        Compares answers to several instances one by one. Returns False, and never raises, for incomparable
        answers.
        """
        try:
            if is_close(expected, found, 0.0):
                return True
            if self.kind not in _OF_ALL and _has_instances(expected) and _has_instances(found):
                one, other = expected[_LIST], found[_LIST]
                same = len(one) == len(other) and all(map(self._same, one, other))
            else:
                same = self._same(expected, found)
        except _NOT_COMPARABLE:
            return False
        return same

    def suits(self, answer: Any) -> bool:
        """Return whether it suits such an answer: `boxes` cannot compare texts, for example."""
        each = answer[_LIST] if self.kind not in _OF_ALL and _has_instances(answer) else [answer]
        try:
            return all(self._same(one, one) for one in each)
        except _NOT_COMPARABLE:
            return False

    def _same(self, expected: Any, found: Any) -> bool:
        return _KINDS[self.kind](expected, found, self.tolerance, self.options)


def _require_options(kind: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for unknown options, and for values that would compare nothing."""
    known = _OPTIONS.get(kind, {})
    for name, value in options.items():
        if name not in known or not isinstance(value, known[name]) or isinstance(value, bool):
            raise ValueError(f"comparator {kind}: option {name}={value!r} is not known")
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ValueError(f"comparator {kind}: {name}: found {value!r}, expected a number from 0 on")
    by = options.get("by", "label")
    if not by or not all(isinstance(key, str) for key in by):
        raise ValueError(f"comparator {kind}: by: found {by!r}, expected the names of keys")
    if kind == "fields" and "fields" not in options:
        raise ValueError('comparator fields: give `fields`, as {"kind": "fields", "fields": {"sum": …}}')


CLOSE = Comparator()
"""The default: JSON that is equal except for rounding."""


def _has_instances(answer: Any) -> bool:
    return isinstance(answer, Mapping) and answer.keys() == {_LIST} and isinstance(answer[_LIST], list)


# -- the kinds ----------------------------------------------------------------------------------


def _exact(one: Any, other: Any, _tolerance: float, _options: Mapping[str, Any]) -> bool:
    return bool(one == other)


def _close(one: Any, other: Any, tolerance: float, options: Mapping[str, Any]) -> bool:
    return is_close(one, other, float(options.get("tolerance", tolerance)))


def is_close(one: Any, other: Any, tolerance: float = TOLERANCE) -> bool:
    """Compare JSON: equal, except that numbers with a fraction may differ by `tolerance`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_close(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_close, one, other, repeat(tolerance)))
    if _is_number(one) and _is_number(other) and (isinstance(one, float) or isinstance(other, float)):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    # Two integers are classes, tokens or counts: 2080 is not 2081, however near.
    return type(one) is type(other) and bool(one == other)


ABSENT = object()
"""Stands for a missing part of an answer."""


def difference(one: Any, other: Any, tolerance: float = TOLERANCE) -> tuple[str, Any, Any]:
    """Find the first difference between two answers, apart from rounding: its place and both values.

    The place looks like `[0].label`, or is '' if they differ as a whole. ABSENT marks what only the other
    has.
    """
    parts: list[tuple[str, Any, Any]] = []
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = dict.fromkeys([*one, *other])
        parts = [(f".{key}", one.get(key, ABSENT), other.get(key, ABSENT)) for key in keys]
    elif isinstance(one, list) and isinstance(other, list):
        pairs = zip_longest(one, other, fillvalue=ABSENT)
        parts = [(f"[{index}]", *pair) for index, pair in enumerate(pairs)]
    for place, mine, theirs in parts:
        if not is_close(mine, theirs, tolerance):
            within, *both = difference(mine, theirs, tolerance)
            return place + within, both[0], both[1]
    return "", one, other


def _first(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    by = options.get("by", "label")
    keys = [by] if isinstance(by, str) else by
    rows = [answer[0] if isinstance(answer, list) and answer else answer for answer in (one, other)]
    return type(rows[0]) is type(rows[1]) and (
        rows[0] == rows[1] or all(bool(rows[0][key] == rows[1][key]) for key in keys)
    )


def _boxes(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    """Compare boxes: each row has a partner with the same label, a similar score and an overlapping box.

    Rows below `min_score` need no partner, because a row near the threshold may appear in one answer only. If
    there are rows, at least one must have a partner, or nothing was compared.
    """
    there, back = _pairs(one, other, options), _pairs(other, one, options)
    return there is not None and back is not None and (bool(there) or not (one or other))


def _tracks(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    """Compare tracks: each frame has the same boxes, and ids correspond one to one.

    The numbers themselves do not matter: a tracker counts from anywhere.
    """
    frames, others = (answer[_LIST] if _has_instances(answer) else [answer] for answer in (one, other))
    there, back = ([*map(_pairs, *both, repeat(options))] for both in ((frames, others), (others, frames)))
    compared = any(there) or not any((*frames, *others))  # as for `boxes`, over all frames
    return len(frames) == len(others) and compared and _keeps_ids(there) and _keeps_ids(back)


def _keeps_ids(frames: Iterable[list[tuple[Any, Any]] | None]) -> bool:
    """Return whether every row has a partner, and each id always has the same partner id."""
    partners: dict[Any, Any] = {}
    return all(
        pairs is not None
        and all(partners.setdefault(row["id"], partner["id"]) == partner["id"] for row, partner in pairs)
        for pairs in frames
    )


def _pairs(one: Any, other: Any, options: Mapping[str, Any]) -> list[tuple[Any, Any]] | None:
    """Pair the rows of two lists that show the same thing; None if a row of either has no partner."""
    if not isinstance(one, list) or not isinstance(other, list):
        raise TypeError("expected two lists of rows")
    least, slack, threshold = (
        float(options.get(name, default))
        for name, default in (("min_iou", 0.8), ("score", 0.1), ("min_score", 0.0))
    )

    def agree(row: Mapping[str, Any], partner: Mapping[str, Any]) -> bool:
        alike = row["label"] == partner["label"] and abs(row["score"] - partner["score"]) <= slack
        return alike and box_iou(row["box"], partner["box"]) >= least

    free, pairs, alone = list(other), [], []
    for row in sorted(one, key=lambda each: -float(each["score"])):
        partner = next((each for each in free if agree(row, each)), None)
        if partner is None:
            alone.append(row)
        else:
            free.remove(partner)
            pairs.append((row, partner))
    return None if any(not row["score"] < threshold for row in (*alone, *free)) else pairs


def box_iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection over union of two boxes [x1, y1, x2, y2]; 0 if both are empty."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (one, other)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else float(list(one) == list(other))


def _mask(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    """Compare masks: each class has nearly the same pixels. Ignores classes below `min_share` of all."""
    least, share = float(options.get("min_iou", 0.98)), float(options.get("min_share", 0.0))
    return all(
        either <= share * pixels or both >= least * either for both, either, pixels in overlaps(one, other)
    )


def _cosine(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    if not isinstance(one, list) or not isinstance(other, list):
        raise TypeError("expected two lists of numbers")
    if len(one) != len(other):
        return False
    pairs = [(float(x), float(y)) for x, y in zip(one, other, strict=True)]
    product = math.fsum(x * y for x, y in pairs)
    lengths = math.hypot(*(x for x, _ in pairs)) * math.hypot(*(y for _, y in pairs))
    return lengths > 0 and product / lengths >= float(options.get("min", 0.999))


def _text(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    if not isinstance(one, str) or not isinstance(other, str):
        raise TypeError("expected two texts")
    return edit_share(one, other) <= float(options.get("max_edits", 0.0))


def edit_share(one: Sequence[str], other: Sequence[str]) -> float:
    """Return Levenshtein's distance divided by the longer length: 0 if equal, 1 if nothing matches.

    Compares long texts word by word; texts of too many words count as 1.
    """
    if one == other:
        return 0.0
    longest = max(len(one), len(other))
    if longest > _LONGEST_TEXT:
        return (
            edit_share(one.split(), other.split()) if isinstance(one, str) and isinstance(other, str) else 1.0
        )
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, target in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (letter != target))
    return row[-1] / longest


def _fields(one: Any, other: Any, tolerance: float, options: Mapping[str, Any]) -> bool:
    if "other" in options and not (isinstance(one, Mapping) or isinstance(other, Mapping)):
        return Comparator.of(options["other"], tolerance).same(one, other)
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        raise TypeError("expected two objects")
    own = options["fields"]
    return one.keys() == other.keys() and all(
        Comparator.of(own.get(key), tolerance).same(one[key], other[key]) for key in one
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: Mapping[str, Callable[[Any, Any, float, Mapping[str, Any]], bool]] = {
    "boxes": _boxes,
    "close": _close,
    "cosine": _cosine,
    "exact": _exact,
    "fields": _fields,
    "first": _first,
    "mask": _mask,
    "text": _text,
    "tracks": _tracks,
}
_OF_ALL = {"tracks"}
"""Kinds that compare the answers to all instances together; others compare them one by one."""
_NUMBER: tuple[type, ...] = (int, float)
_PAIRED: Mapping[str, tuple[type, ...]] = {"min_iou": _NUMBER, "score": _NUMBER, "min_score": _NUMBER}
_OPTIONS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "boxes": _PAIRED,
    "close": {"tolerance": _NUMBER},
    "cosine": {"min": _NUMBER},
    "fields": {"fields": (dict,), "other": (dict,)},
    "first": {"by": (str, list)},
    "mask": {"min_iou": _NUMBER, "min_share": _NUMBER},
    "text": {"max_edits": _NUMBER},
    "tracks": _PAIRED,
}
