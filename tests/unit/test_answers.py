"""When two answers say the same, and when one says what an archive expects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.answers import counterpart, expected_matches, same, shown

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def row(label: str, index: int, probability: float) -> dict[str, Any]:
    """A row as handlers/image_classifier.py answers it."""
    return {"label": label, "index": index, "probability": probability}


@pytest.mark.parametrize(
    ("expected", "found", "equal"),
    [
        ([row("cat", 1, 0.5), row("dog", 2, 0.4)], [row("cat", 1, 0.8), row("emu", 3, 0.1)], True),
        ([row("cat", 1, 0.5), row("dog", 2, 0.4)], [row("cat", 1, 0.5)], True),
        ([row("cat", 1, 0.5)], [row("dog", 2, 0.5)], False),
        ([row("crane", 134, 0.5)], [row("crane", 517, 0.5)], False),
        ([row("cat", 1, 0.5)], [], False),
        ([row("cat", 1, 0.5)], {"error": "inference failed"}, False),
        ({"predictions": [[row("cat", 1, 0.5)]]}, {"predictions": [[row("cat", 1, 0.9)]]}, True),
        ({"predictions": [[row("cat", 1, 0.5)]]}, {"predictions": [[row("dog", 2, 0.5)]]}, False),
        # A detector, a tagger, a classifier of another make: every row and number counts.
        (
            [{"label": "cat", "score": 0.5, "box": [1, 2]}],
            [{"label": "cat", "score": 0.5, "box": [9, 9]}],
            False,
        ),
        ([{"label": "cat", "score": 0.5}], [{"label": "cat", "score": 0.4}], False),
        ([{"label": "cat", "score": 0.5}], [{"label": "cat", "score": 0.5000001}], True),
        ([{"label": "cat"}, {"label": "dog"}], [{"label": "cat"}, {"label": "emu"}], False),
        ([{**row("cat", 1, 0.5), "box": [1]}], [{**row("cat", 1, 0.5), "box": [2]}], False),
        ([{"index": 3, "probability": 0.5}], [{"index": 4, "probability": 0.5}], False),
        ([{"label": "cat"}], {"error": "inference failed"}, False),
        ({"embedding": [1.0, 2.0]}, {"embedding": [1.0000001, 2]}, True),
        ({"embedding": [1.0, 2.0]}, {"embedding": [1.1, 2.0]}, False),
        ([1, 2], [1, 2, 3], False),
        ({"tokens": [20800]}, {"tokens": [20801]}, False),
        ({"tokens": [10**400]}, {"tokens": [1.0]}, False),
        (True, 1.0, True),
        ("a", "b", False),
    ],
)
def test_same_answers(expected: Any, found: Any, equal: bool) -> None:
    """Of a classifier's rows the first class decides, and of all else everything; numbers may round
    otherwise, but integers are classes and tokens.
    """
    assert same(json.dumps(expected).encode(), json.dumps(found).encode()) == equal


def test_the_tolerance_is_what_it_is_told_to_be() -> None:
    """Absolute near zero, relative elsewhere."""
    assert same(b"100.0", b"101.0", tolerance=0.02)
    assert not same(b"100.0", b"101.0", tolerance=0.005)
    assert same(b"0.0", b"0.01", tolerance=0.02)


def test_answers_that_are_no_json() -> None:
    """They are the same where every byte is; JSON too deep to read is no reason to crash."""
    assert same(b"\xff\xd8", b"\xff\xd8")
    assert not same(b"\xff\xd8", b"\xff\xd9")
    deep = b"[" * 100_000 + b"]" * 100_000
    assert not same(deep, deep + b" ")
    assert not expected_matches({"answer": []}, deep)


@given(JSON)
def test_how_json_is_written_does_not_matter(value: Any) -> None:
    """Any JSON is the same as itself with other white space, both as an answer and as an expectation."""
    body = json.dumps(value, indent=2).encode()
    assert same(json.dumps(value).encode(), body)
    assert expected_matches({"answer": value}, body)


@given(JSON, JSON)
def test_it_does_not_matter_which_is_first(one: Any, other: Any) -> None:
    """Neither of two answers is the better one."""
    first, second = json.dumps(one).encode(), json.dumps(other).encode()
    assert same(first, second) == same(second, first)


ROWS = b'[{"index": 208, "label": "Labrador", "probability": 0.5}, {"index": 1}]'


@pytest.mark.parametrize(
    ("expected", "body", "matches"),
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
        (208, ROWS, False),
    ],
)
def test_what_an_archive_expects(expected: Any, body: bytes, matches: bool) -> None:
    """The first row under the keys that are expected, or the whole answer."""
    assert expected_matches(expected, body) == matches


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
