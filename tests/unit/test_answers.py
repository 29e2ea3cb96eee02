"""An answer parsed, shown, and held against what an archive expects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.answers import parsed, shown
from torchmar.compare import CLOSE
from torchmar.golden import answer_of, counterpart, expected_of, matches

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def test_answers_that_are_no_json() -> None:
    """They are text, or bytes; JSON too deep to read is no reason to crash."""
    assert parsed(b"hello") == "hello"
    assert parsed(b"\xff\xd8") == b"\xff\xd8"
    deep = b"[" * 100_000 + b"]" * 100_000
    assert parsed(deep) == deep.decode()
    assert not matches({"answer": []}, deep, CLOSE)


@given(JSON)
def test_how_json_is_written_does_not_matter(value: Any) -> None:
    """Any JSON is what is expected of it, with whatever white space."""
    body = json.dumps(value, indent=2).encode()
    assert matches({"answer": value}, body, CLOSE)
    assert matches(expected_of(value, CLOSE), body, CLOSE)


@given(st.binary(max_size=20))
def test_any_body_is_what_is_expected_of_it(body: bytes) -> None:
    """JSON, text, and bytes that are neither."""
    expected = json.loads(json.dumps(expected_of(parsed(body), CLOSE)))
    assert matches(expected_of(answer_of(expected), CLOSE), body, CLOSE)
    assert matches(expected, body, CLOSE) or parsed(body) != parsed(body)
    assert not matches(expected, body + b"\xff\xfe", CLOSE)


@pytest.mark.parametrize("expected", [{"base64": "!"}, {"base64": 3}, {"base64": None}])
def test_expectations_that_are_no_base64_match_nothing(expected: Any) -> None:
    """An archive's answers.json may be anybody's."""
    assert not matches(expected, b"\xff", CLOSE)


ROWS = b'[{"index": 208, "label": "Labrador", "probability": 0.5}, {"index": 1}]'


@pytest.mark.parametrize(
    ("expected", "body", "right"),
    [
        ({"index": 208}, ROWS, True),
        ({"index": 207}, ROWS, False),
        ({"index": 1}, ROWS, False),
        ({"index": 208, "probability": 0.5000001}, ROWS, True),
        ({"index": 208, "probability": 0.6}, ROWS, False),
        ({"index": 208, "box": None}, ROWS, False),
        ({"index": 208}, b'{"index": 208}', True),
        ({"index": 208}, b"[]", False),
        ({"index": 208}, b"oops", False),
        ({"answer": [{"score": 1.0}]}, b'[{"score": 1.0000001}]', True),
        ({"answer": [{"score": 1.0}]}, b'[{"score": 1.0}, {"score": 2.0}]', False),
        ({"answer": "hello"}, b"hello", True),
        ({"answer": "hello"}, b'"hello"', True),
        ({"answer": "hello"}, b"hello!", False),
        ({"base64": "/9g="}, b"\xff\xd8", True),
        ({"base64": "/9g="}, b"\xff\xd9", False),
        (208, ROWS, False),
    ],
)
def test_what_an_archive_expects(expected: Any, body: bytes, right: bool) -> None:
    """The first row under the keys that are expected, or the whole answer."""
    assert matches(expected, body, CLOSE) == right


def test_what_is_shown_beside_the_expectation() -> None:
    """The same keys; where there are none, the answer's text."""
    assert counterpart({"index": 207}, ROWS) == {"index": 208}
    assert counterpart({"answer": 3}, b"4") == {"answer": 4}
    assert counterpart({"index": 207}, b"out of  memory\n") == "out of memory"


@given(st.binary(max_size=900), st.integers(1, 200))
def test_an_answer_is_shown_on_one_short_line(body: bytes, length: int) -> None:
    """Whatever it is."""
    text = shown(body, length)
    assert len(text) <= length
    assert text.isprintable()
