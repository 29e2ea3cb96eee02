"""Each comparator, with pairs that say the same and pairs that do not."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.answers import parsed
from torchmar.compare import Comparator, box_iou, edit_share, is_close
from torchmar.masks import mask_iou

BOX = {"box": [10.0, 10.0, 50.0, 90.0], "label": "person", "score": 0.9}
TIE = {"box": [25.0, 40.0, 32.0, 60.0], "label": "tie", "score": 0.5}
MOVED = {**BOX, "box": [200.0, 10.0, 240.0, 90.0]}


def frames(*ids: tuple[int, int]) -> dict[str, Any]:
    """An answer to several frames: a person and a tie, with their ids."""
    return {"predictions": [[{"id": one, **BOX}, {"id": other, **TIE}] for one, other in ids]}


ROW = {"label": "cat", "index": 3, "probability": 0.7}

SAME: list[tuple[dict[str, Any], Any, Any]] = [
    ({"kind": "close"}, {"a": [1.0, 2, "x"]}, {"a": [1.0001, 2, "x"]}),
    ({"kind": "exact"}, [1, "x"], [1, "x"]),
    ({"kind": "first", "by": "label"}, [ROW, {**ROW, "label": "dog"}], [{**ROW, "probability": 0.6}]),
    ({"kind": "first", "by": "label"}, [], []),
    ({"kind": "boxes"}, [BOX, TIE], [{**TIE, "score": 0.45}, {**BOX, "box": [10.5, 10.0, 50.0, 90.5]}]),
    ({"kind": "boxes", "min_score": 0.3}, [BOX], [BOX, {**TIE, "score": 0.26}]),
    ({"kind": "boxes", "min_score": 0.95}, [BOX], [BOX, TIE]),
    ({"kind": "boxes"}, [], []),
    (
        {"kind": "mask"},
        {"size": [2, 100], "counts": [50, 100, 50]},
        {"size": [2, 100], "counts": [51, 99, 50]},
    ),
    ({"kind": "mask"}, {"size": [2, 2], "counts": [4]}, {"size": [2, 2], "counts": [4]}),
    ({"kind": "cosine"}, [1.0, 2.0, 3.0], [1.001, 2.0, 2.999]),
    ({"kind": "text", "max_edits": 0.1}, "All circuits are busy now.", "All circuits are busy now"),
    ({"kind": "fields", "fields": {"v": {"kind": "cosine"}}}, {"v": [1, 0], "n": 2}, {"v": [2, 0], "n": 2}),
    ({"kind": "fields", "fields": {}, "other": {"kind": "text", "max_edits": 0.5}}, "ab", "ac"),
    ({"kind": "tracks"}, [{"id": 1, **BOX}], [{"id": 7, **BOX, "score": 0.85}]),
]
DIFFERENT: list[tuple[dict[str, Any], Any, Any]] = [
    ({"kind": "close"}, {"a": 1.0}, {"a": 1.1}),
    ({"kind": "close"}, {"a": 1}, {"b": 1}),
    ({"kind": "close"}, [2080], [2081]),
    ({"kind": "close"}, True, 1),
    ({"kind": "close"}, "1", b"1"),
    ({"kind": "exact"}, 0.1, 0.1 + 1e-9),
    ({"kind": "first", "by": "label"}, [ROW], [{**ROW, "label": "dog"}]),
    ({"kind": "first", "by": "label"}, [ROW], []),
    ({"kind": "first", "by": "label"}, [ROW], [{"class": "cat"}]),
    ({"kind": "boxes"}, [BOX, TIE], [MOVED, TIE]),
    ({"kind": "boxes"}, [BOX, TIE], [BOX]),
    ({"kind": "boxes"}, [BOX], [BOX, TIE]),
    # Boxes near the threshold need no partner, but where none has one nothing was compared.
    ({"kind": "boxes", "min_score": 0.95}, [BOX], [TIE]),
    ({"kind": "boxes", "min_score": 0.95}, [BOX], []),
    ({"kind": "boxes"}, [BOX, BOX], [BOX]),
    ({"kind": "boxes"}, [BOX], [{**BOX, "label": "tie"}]),
    ({"kind": "boxes"}, [BOX], [{**BOX, "score": 0.5}]),
    ({"kind": "boxes"}, [BOX], {"error": "none"}),
    ({"kind": "mask"}, {"size": [2, 2], "counts": [0, 4]}, {"size": [2, 2], "counts": [2, 2]}),
    ({"kind": "mask"}, {"size": [2, 2], "counts": [0, 4]}, {"size": [1, 4], "counts": [0, 4]}),
    ({"kind": "mask"}, {"size": [2, 2], "counts": [0, 4]}, {"size": [2, 2], "counts": [0, 5]}),
    ({"kind": "cosine"}, [1.0, 0.0], [0.0, 1.0]),
    ({"kind": "cosine"}, [1.0, 0.0], [1.0]),
    ({"kind": "cosine"}, [0.0, 0.0], [1.0, 0.0]),
    ({"kind": "text"}, "now.", "now"),
    ({"kind": "text", "max_edits": 0.1}, "All circuits are busy now.", "all heck it could be he now"),
    ({"kind": "fields", "fields": {"v": {"kind": "cosine"}}}, {"v": [1, 0], "n": 2}, {"v": [1, 0], "n": 3}),
    ({"kind": "fields", "fields": {"v": {"kind": "cosine"}}}, {"v": [1, 0]}, {"v": [0, 1]}),
    ({"kind": "fields", "fields": {}, "other": {"kind": "text", "max_edits": 0.5}}, "ab", "cd"),
    ({"kind": "fields", "fields": {}, "other": {"kind": "text"}}, "ab", {"text": "ab"}),
    ({"kind": "tracks"}, [{"id": 1, **BOX}], [{"id": 1, **MOVED}]),
    ({"kind": "tracks"}, [{"id": 1, **BOX}], [BOX]),
]


@pytest.mark.parametrize(("how", "one", "other"), SAME)
def test_what_says_the_same(how: dict[str, Any], one: Any, other: Any) -> None:
    """In both directions, and as one instance of several."""
    comparator = Comparator.of(how)
    assert comparator.same(one, other)
    assert comparator.same(other, one)
    assert comparator.same({"predictions": [one, one]}, {"predictions": [other, other]})


@pytest.mark.parametrize(("how", "one", "other"), DIFFERENT)
def test_what_does_not_say_the_same(how: dict[str, Any], one: Any, other: Any) -> None:
    """In both directions, and as one instance of several; what cannot be compared is no error."""
    comparator = Comparator.of(how)
    assert not comparator.same(one, other)
    assert not comparator.same(other, one)
    assert not comparator.same({"predictions": [one, one]}, {"predictions": [one, other]})


def test_tracks_are_followed_over_all_frames() -> None:
    """Which numbers they have does not matter; that one changes, or two are one, does."""
    tracks = Comparator.of({"kind": "tracks"})
    assert tracks.same(frames((1, 2), (1, 2)), frames((2, 1), (2, 1)))
    for other in (frames((1, 2), (2, 1)), frames((1, 2), (1, 3)), frames((1, 1), (1, 1)), frames((1, 2))):
        assert not tracks.same(frames((1, 2), (1, 2)), other)
        assert not tracks.same(other, frames((1, 2), (1, 2)))
    assert tracks.suits(frames((1, 2)))
    assert Comparator.of({"kind": "boxes"}).same(frames((1, 2), (1, 2)), frames((1, 2), (2, 1)))


def test_tracks_of_which_none_has_a_partner_are_others() -> None:
    """Near the threshold, too: over all frames together, since one may show nothing else."""
    tracks = Comparator.of({"kind": "tracks", "min_score": 0.95})
    person, tie = ({"id": 1, **BOX}, {"id": 1, **TIE})
    assert not tracks.same({"predictions": [[person], []]}, {"predictions": [[tie], []]})
    assert tracks.same({"predictions": [[person], [tie]]}, {"predictions": [[person], []]})
    assert tracks.same({"predictions": [[], []]}, {"predictions": [[], []]})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
KINDS: list[dict[str, Any]] = [
    {"kind": name} for name in ("boxes", "close", "cosine", "exact", "first", "mask", "text", "tracks")
]


@given(st.sampled_from([*KINDS, {"kind": "fields", "fields": {"": {"kind": "text"}}}]), JSON, JSON)
def test_any_two_answers_can_be_compared(how: dict[str, Any], one: Any, other: Any) -> None:
    """Without an error, in either order with the same verdict; an answer says the same as itself."""
    comparator = Comparator.of(how)
    assert comparator.same(one, one)
    assert comparator.same(one, other) == comparator.same(other, one)


UNKNOWN: list[Any] = ["close", 3, {"kind": "best"}, {"kind": "boxes", "iou": 1}]
UNKNOWN += [{"kind": "fields"}, {"kind": ["close"]}, {"kind": {}}, {"kind": "first", "by": []}]
UNKNOWN += [{"kind": "first", "by": [1]}, {"kind": "close", "tolerance": -1}]
UNKNOWN += [{"kind": "close", "tolerance": math.inf}, {"kind": "boxes", "min_score": math.nan}]
UNKNOWN += [{"kind": "text", "max_edits": "1"}, {"kind": "fields", "fields": {"a": {"kind": "best"}}}]
UNKNOWN += [{"kind": "fields", "fields": {}, "other": {"kind": "best"}}]


@pytest.mark.parametrize("content", UNKNOWN)
def test_an_unknown_comparator_is_told(content: Any) -> None:
    """Also inside another one."""
    with pytest.raises(ValueError, match=r"close|3|best|iou|max_edits|fields|by|\{|min_score"):
        Comparator.of(content)


@pytest.mark.parametrize(("how", "one", "other"), SAME)
def test_a_comparator_suits_what_it_compares(how: dict[str, Any], one: Any, other: Any) -> None:
    """Also where several instances are answered together."""
    comparator = Comparator.of(how)
    assert comparator.suits(one)
    assert comparator.suits({"predictions": [one, other]})


@pytest.mark.parametrize("kind", ["boxes", "cosine", "mask", "text", "tracks"])
@pytest.mark.parametrize("answer", [{"p": 0.5}, b"\x00\xff", 3, [{"p": [1, 2]}]])
def test_a_comparator_that_does_not_suit(kind: str, answer: Any) -> None:
    """To it any two such answers would differ, however near they are."""
    assert not Comparator.of({"kind": kind}).suits(answer)


def test_a_comparator_travels_as_json() -> None:
    """And comes back the same."""
    fields = {"v": {"kind": "cosine", "min": 0.9}}
    how = Comparator.of({"kind": "fields", "fields": fields, "other": {"kind": "text"}})
    assert Comparator.of(json.loads(json.dumps(how.as_json()))) == how
    assert Comparator.of(None) == Comparator("close")


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_masks_overlap_as_their_pixels_do(pixels: list[bool], data: st.DataObject) -> None:
    """Against the plain definition."""
    others = data.draw(st.lists(st.booleans(), min_size=len(pixels), max_size=len(pixels)))
    both = sum(a and b for a, b in zip(pixels, others, strict=True))
    either = sum(a or b for a, b in zip(pixels, others, strict=True))
    assert mask_iou(_runs(pixels), _runs(others)) == (both / either if either else 1.0)


def _runs(pixels: list[bool]) -> list[int]:
    counts, value = [0], False
    for pixel in pixels:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def test_boxes_overlap() -> None:
    """By the definition, and empty ones."""
    assert box_iou([0, 0, 2, 2], [1, 0, 3, 2]) == pytest.approx(1 / 3)
    assert box_iou([0, 0, 1, 1], [2, 2, 3, 3]) == 0
    assert box_iou([1, 1, 1, 1], [1, 1, 1, 1]) == 1


@given(st.text("ab", max_size=8), st.text("ab", max_size=8))
def test_edits_are_counted_as_levenshtein_has_it(one: str, other: str) -> None:
    """Against the definition by recursion."""

    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))

    if len(one) + len(other) <= 10:
        assert edit_share(one, other) * max(len(one), len(other), 1) == pytest.approx(distance(one, other))


def test_long_texts_are_compared_by_words() -> None:
    """In a time that a gate has; beyond that they differ."""
    words = [f"word{i}" for i in range(1_000)]
    assert edit_share(" ".join(words), " ".join([*words[:-1], "other"])) == pytest.approx(1 / 1_000)
    assert edit_share("a " * 3_000, "b " * 3_000) == 1.0


def test_answers_are_parsed_as_far_as_they_can_be() -> None:
    """JSON, text, bytes."""
    assert parsed(b"[1]") == [1]
    assert parsed(b"hello") == "hello"
    assert parsed(b"\xff\xd8") == b"\xff\xd8"


@pytest.mark.parametrize(
    ("how", "minds"),
    [
        ({"kind": "close"}, False),
        ({"kind": "close", "tolerance": 1e-9}, True),
        ({"kind": "exact"}, True),
        ({"kind": "first", "by": "label"}, False),
        ({"kind": "fields", "fields": {"a": {"kind": "cosine"}}}, False),
        ({"kind": "fields", "fields": {"a": {"kind": "exact"}}}, True),
        ({"kind": "fields", "fields": {}, "other": {"kind": "close", "tolerance": 1e-7}}, True),
    ],
)
def test_who_minds_all_digits(how: dict[str, Any], *, minds: bool) -> None:
    """Golden answers are rounded for all others."""
    assert Comparator.of(how).minds_all_digits is minds


def test_a_box_whose_score_is_no_number_is_one_too_many() -> None:
    """NaN is not below any threshold."""
    more = {**TIE, "score": math.nan}
    assert not Comparator.of({"kind": "boxes", "min_score": 0.3}).same([BOX], [BOX, more])


@pytest.mark.parametrize(("one", "other"), [(True, 1.0), (0.0, False), ([True], [1.0]), (None, 0.0)])
def test_what_is_no_number_is_close_to_none(one: object, other: object) -> None:
    """In JSON true is not 1.0, although in Python it is."""
    assert not is_close(one, other)
    assert is_close(one, one)
