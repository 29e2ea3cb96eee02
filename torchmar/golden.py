"""Define golden requests: files with an expected answer each; the suffix gives the content type.

MAR-INF/golden/ of an archive holds a file for each request, and answers.json: {"FILE": EXPECTED}. EXPECTED is
one of

    {"answer": JSON}      the whole answer, parsed; text that is no JSON as a string
    {"base64": TEXT}      the bytes of an answer that is no text
    any other object      keys of the answer, or of its first row: {"index": 208}
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .answers import parsed, shown
from .compare import ABSENT, Comparator, difference, is_close
from .files import JSON, TEXT, content_type_of

# float32 has 24 bits: it rounds by 6e-8, sums of many by more, and counts integers up to this.
_ROUNDING, _WHOLE = 1e-5, 2.0**24

_ANSWER, _BASE64 = "answer", "base64"


@dataclass(frozen=True)
class GoldenRequest:
    """One request. `expected` has the form of answers.json; None if there is none."""

    name: str
    body: bytes
    expected: Any = None

    @property
    def content_type(self) -> str:
        """Return the content type by its name: JSON, text, or bytes."""
        return content_type_of(self.name)

    def parsed(self) -> dict[str, Any]:
        """Return the request as TorchServe passes it to a handler."""
        return passed_on(self.body, self.content_type)


def passed_on(body: bytes, content_type: str) -> dict[str, Any]:
    """Return a request's content as TorchServe passes it to a handler."""
    value: Any = bytearray(body)
    with suppress(ValueError, RecursionError):
        if content_type == JSON:
            value = json.loads(body)
        elif content_type == TEXT:
            value = body.decode()
    return {"body": value}


def request_of(name: str, body: bytes) -> GoldenRequest:
    """Return a request without an expected answer."""
    return GoldenRequest(name, body)


def expected_of(answer: Any, comparator: Comparator) -> dict[str, Any]:
    """Return answers.json's entry for an answer: parsed JSON, text or bytes; see `rounded`."""
    return rounded(whole(answer), comparator)


def whole(answer: Any) -> dict[str, Any]:
    """Return an answer in the form of answers.json, with all digits of its numbers."""
    return {_BASE64: base64.b64encode(answer).decode()} if isinstance(answer, bytes) else {_ANSWER: answer}


def rounded(expected: dict[str, Any], comparator: Comparator) -> dict[str, Any]:
    """Round a whole answer's numbers to six digits, if `comparator` needs no more.

    Further digits differ between machines.
    """
    return expected if comparator.minds_all_digits else _six(expected)


def is_repeated(first: Any, second: Any, comparator: Comparator) -> bool:
    """Return whether a worker repeated its answer; both are whole answers.

    An answer that depends on the clock is near its first answer too, but far from it a year later. So without
    explicit options, numbers must agree far more closely than by `comparator`: to float32's rounding, and
    beyond its integers, such as a time in seconds, to the last digit.
    """
    if comparator.kind == "close" and not comparator.options:
        return _again(first, second)
    return comparator.same(answer_of(first), answer_of(second))


def _again(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_again(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_again, one, other))
    if isinstance(one, float) and isinstance(other, float) and max(abs(one), abs(other)) < _WHOLE:
        return math.isclose(one, other, rel_tol=_ROUNDING, abs_tol=_ROUNDING)
    return type(one) is type(other) and bool(one == other)


def answer_of(expected: Any) -> Any:
    """Return the whole answer that `expected_of` stored: parsed JSON, text or bytes. Raises ValueError."""
    if isinstance(expected, Mapping) and expected.keys() == {_BASE64}:
        return base64.b64decode(expected[_BASE64], validate=True)
    if isinstance(expected, Mapping) and expected.keys() == {_ANSWER}:
        return expected[_ANSWER]
    raise ValueError(f"expected a whole answer, found {expected!r:.80}")


def apart(one: Any, other: Any, tolerance: float, length: int) -> tuple[str, str, str]:
    """Show two differing answers to people: the place of the difference, and each one's value there.

    Each takes about `length` characters. The place is '' if both are shown whole; otherwise it ends in a
    colon. Answers are parsed JSON, text or bytes, or have the form of answers.json.
    """
    if all(isinstance(each, Mapping) and each.keys() == {_ANSWER} for each in (one, other)):
        one, other = one[_ANSWER], other[_ANSWER]
    place = ""
    if max(len(_in_words(one)), len(_in_words(other))) > length:
        with suppress(RecursionError):
            place, one, other = difference(one, other, tolerance)
        if isinstance(one, str) and isinstance(other, str):
            alike = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
            at = max(0, alike - length // 4) if max(len(one), len(other)) > length else 0
            one, other = (f"{'…' if at else ''}{text[at:]}" for text in (one, other))
    named = f"{place.lstrip('.')}: " if place else ""
    return named, value_in_words(one, length), value_in_words(other, length)


def value_in_words(value: Any, length: int) -> str:
    """A part of an answer, or what is expected of one, for people: in about `length` characters."""
    if isinstance(value, Mapping) and value.keys() == {_ANSWER}:
        value = value[_ANSWER]
    return shown(_in_words(value).encode(errors="replace"), length)


def _in_words(value: Any) -> str:
    if value is ABSENT:
        return "nothing"
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "(nested too deeply to be shown)"


def _six(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _six(each) for key, each in value.items()}
    return [_six(each) for each in value] if isinstance(value, list) else value


def matches(expected: Any, body: bytes, comparator: Comparator) -> bool:
    """Return whether an answer is the one that answers.json expects. False for incomparable answers."""
    if isinstance(expected, Mapping) and expected.keys() == {_ANSWER}:
        return comparator.same(expected[_ANSWER], parsed(body))
    if isinstance(expected, Mapping) and expected.keys() == {_BASE64}:
        with suppress(ValueError, TypeError, binascii.Error):
            return comparator.same(base64.b64decode(expected[_BASE64], validate=True), body)
        return False
    try:
        return is_close(expected, counterpart(expected, body), comparator.tolerance)
    except (ValueError, RecursionError, OverflowError):
        return False


def counterpart(expected: Any, body: bytes) -> Any:
    """Return an answer's counterpart of `expected`, in the same form; otherwise its shortened text."""
    answer = parsed(body)
    if isinstance(expected, Mapping) and expected.keys() == {_BASE64}:
        return {_BASE64: base64.b64encode(body).decode()}
    if isinstance(expected, Mapping) and expected.keys() == {_ANSWER}:
        return {_ANSWER: body.decode(errors="replace") if isinstance(answer, bytes) else answer}
    row = answer[0] if isinstance(answer, list) and answer else answer
    if isinstance(expected, Mapping) and isinstance(row, Mapping) and row.keys() & expected.keys():
        return {key: row[key] for key in expected if key in row}
    return shown(body)
