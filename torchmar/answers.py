"""Whether two answers say the same: another number of threads or requests in a batch rounds otherwise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

TOLERANCE = 1e-3
"""Between two numbers, absolute and relative: wider than float32 rounds, narrower than anyone acts on."""

_WHOLE = "answer"
_CLASSIFIED = {"label", "index", "probability"}  # the keys of a row of handlers/image_classifier.py
# No JSON, nested too deeply, an integer beyond the range of a float beside a float.
_NOT_COMPARABLE = (ValueError, RecursionError, OverflowError)


def same(expected: bytes, found: bytes, *, tolerance: float = TOLERANCE) -> bool:
    """Whether two answers say the same: JSON that is equal but for rounding, or else the same bytes.

    A classifier's rows say the same where the first of them name the same class, wherever in an answer they
    are: rows with the keys label, index and probability, and no others. Rows of any other form, as those of
    a detector, are compared whole.
    """
    if expected == found:
        return True
    try:
        return _close(json.loads(expected), json.loads(found), tolerance, by_top1=True)
    except _NOT_COMPARABLE:
        return False


def expected_matches(expected: Any, body: bytes, *, tolerance: float = TOLERANCE) -> bool:
    """Whether an answer is what an archive's answers.json expects.

    {"answer": JSON}: the whole answer is that JSON but for rounding. Any other object, as {"index": 208}:
    the answer's first row, or the answer itself where it is one row, says the same under each of its keys.
    """
    try:
        return _close(expected, counterpart(expected, body), tolerance)
    except _NOT_COMPARABLE:
        return False


def counterpart(expected: Any, body: bytes) -> Any:
    """What an answer says of that which is expected, in the form of `expected`; else its text, shortened."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        # A handler's str is sent as it is, without the quotes of JSON.
        answer = body.decode(errors="replace")
    if isinstance(expected, Mapping) and expected.keys() == {_WHOLE}:
        return {_WHOLE: answer}
    row = answer[0] if isinstance(answer, list) and answer else answer
    if isinstance(expected, Mapping) and isinstance(row, Mapping) and row.keys() & expected.keys():
        return {key: row[key] for key in expected if key in row}
    return shown(body)


def shown(body: bytes, length: int = 200) -> str:
    """An answer for people: on one line, at most `length` characters, nothing that a terminal would obey."""
    # Four bytes are the longest character there is: the rest of a large answer is not even looked at.
    start = body[: 4 * length + 4].decode(errors="replace")
    text = " ".join("".join(each if each.isprintable() else " " for each in start).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _is_classified(answer: Any) -> bool:
    """Whether an answer is a classifier's: the likeliest classes, in their order."""
    return (
        isinstance(answer, list)
        and bool(answer)
        and all(isinstance(row, dict) and row.keys() == _CLASSIFIED for row in answer)
    )


def _close(one: Any, other: Any, tolerance: float, *, by_top1: bool = False) -> bool:
    close = partial(_close, tolerance=tolerance, by_top1=by_top1)
    if by_top1 and _is_classified(one) and _is_classified(other):
        return all(close(one[0][key], other[0][key]) for key in ("label", "index"))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    if _is_number(one) and _is_number(other) and (isinstance(one, float) or isinstance(other, float)):
        return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    # Two integers are classes, tokens or counts: 2080 is not 2081, however near.
    return bool(one == other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
