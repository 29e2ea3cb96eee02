"""Comparators: whether two answers of a model say the same.

A handler chooses one, and it travels in the archive (MAR-INF/compare.json), so that the parity check, the
release gate, shadow traffic, `verify` and maintenance all judge alike. Each works on what the caller gets
and on nothing else; none executes code of an archive.

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
"""Between two numbers, absolute and relative: wider than float32 rounds, narrower than anyone acts on."""

_SIX_DIGITS = 1e-5
_LIST = "predictions"  # what a request with several instances is answered with
_LONGEST_TEXT = 2_000  # characters or words: an edit distance takes the product of both lengths
# Nested too deeply, an integer beyond the range of a float, a row that lacks what it is compared by, …
_NOT_COMPARABLE = (ValueError, RecursionError, OverflowError, TypeError, KeyError, IndexError)


@dataclass(frozen=True)
class Comparator:
    """How two answers are compared: a kind from the module's list, and its options."""

    kind: str = "close"
    options: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    """For numbers that no option speaks of."""

    @classmethod
    def of(cls, content: Any, tolerance: float = TOLERANCE) -> Comparator:
        """Read what an archive carries; None means `close`. Raises ValueError for what is not known."""
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
        """Tell whether more than six digits of a number can matter to it."""
        if self.kind == "fields":
            parts = [*self.options["fields"].values(), self.options.get("other")]
            return any(Comparator.of(part, self.tolerance).minds_all_digits for part in parts)
        tolerance = float(self.options.get("tolerance", self.tolerance))
        return self.kind == "exact" or tolerance < _SIX_DIGITS

    def as_json(self) -> dict[str, Any]:
        """What an archive carries."""
        return {"kind": self.kind, **self.options}

    def same(self, expected: Any, found: Any) -> bool:
        """Compare two answers, each parsed JSON or, where it is none, text or bytes.

        Answers to several instances are compared instance by instance. False, never an error, for what cannot
        be compared.
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
        """Tell whether it is for answers like this one: `boxes` cannot compare texts, whatever they say."""
        each = answer[_LIST] if self.kind not in _OF_ALL and _has_instances(answer) else [answer]
        try:
            return all(self._same(one, one) for one in each)
        except _NOT_COMPARABLE:
            return False

    def _same(self, expected: Any, found: Any) -> bool:
        return _KINDS[self.kind](expected, found, self.tolerance, self.options)


def _require_options(kind: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that are not known, and for values that would compare nothing."""
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
"""What is compared where nobody says how: JSON that is equal but for rounding."""


def _has_instances(answer: Any) -> bool:
    return isinstance(answer, Mapping) and answer.keys() == {_LIST} and isinstance(answer[_LIST], list)


# -- the kinds ----------------------------------------------------------------------------------


def _exact(one: Any, other: Any, _tolerance: float, _options: Mapping[str, Any]) -> bool:
    return bool(one == other)


def _close(one: Any, other: Any, tolerance: float, options: Mapping[str, Any]) -> bool:
    return is_close(one, other, float(options.get("tolerance", tolerance)))


def is_close(one: Any, other: Any, tolerance: float = TOLERANCE) -> bool:
    """Compare JSON: equal but for numbers with a fraction, which may differ by `tolerance`."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_close(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_close, one, other, repeat(tolerance)))
    if _is_number(one) and _is_number(other) and (isinstance(one, float) or isinstance(other, float)):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    # Two integers are classes, tokens or counts: 2080 is not 2081, however near.
    return type(one) is type(other) and bool(one == other)


ABSENT = object()
"""What an answer says where it says nothing."""


def difference(one: Any, other: Any, tolerance: float = TOLERANCE) -> tuple[str, Any, Any]:
    """Find where two answers differ first, but for rounding: the place, and what each has there.

    The place is as `[0].label`, or '' where they differ as a whole; ABSENT is what only the other has.
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
    """Each row of one has a row of its own in the other: the same label, a score as high, boxes that overlap.

    A row near the threshold may be found once and not the other time: rows below `min_score` need no partner.
    Where there are rows, one at least needs a partner all the same, or nothing was compared.
    """
    there, back = _pairs(one, other, options), _pairs(other, one, options)
    return there is not None and back is not None and (bool(there) or not (one or other))


def _tracks(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    """Each frame has the same boxes, and whoever has one `id` in one answer has one in the other.

    Which number that is does not matter: a tracker counts from wherever it began.
    """
    frames, others = (answer[_LIST] if _has_instances(answer) else [answer] for answer in (one, other))
    there, back = ([*map(_pairs, *both, repeat(options))] for both in ((frames, others), (others, frames)))
    compared = any(there) or not any((*frames, *others))  # as of `boxes`, over all frames
    return len(frames) == len(others) and compared and _keeps_ids(there) and _keeps_ids(back)


def _keeps_ids(frames: Iterable[list[tuple[Any, Any]] | None]) -> bool:
    """No frame lacks a partner, and each id of one answer always goes with the same one of the other."""
    partners: dict[Any, Any] = {}
    return all(
        pairs is not None
        and all(partners.setdefault(row["id"], partner["id"]) == partner["id"] for row, partner in pairs)
        for pairs in frames
    )


def _pairs(one: Any, other: Any, options: Mapping[str, Any]) -> list[tuple[Any, Any]] | None:
    """The rows of two lists that show the same thing; None where a row of either has no partner."""
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
    """Intersection over union of two boxes [x1, y1, x2, y2]; 0 where both are empty."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (one, other)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else float(list(one) == list(other))


def _mask(one: Any, other: Any, _tolerance: float, options: Mapping[str, Any]) -> bool:
    """Each class has nearly the same pixels; one that has less than `min_share` of all is not looked at."""
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
    """Levenshtein's distance divided by the longer one's length: 0 for the same, 1 for nothing in common.

    Long texts are compared word by word; texts of too many words count as 1.
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
"""Kinds that compare the answers to all instances together: others compare one after another."""
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
