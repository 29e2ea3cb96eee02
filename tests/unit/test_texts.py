"""Texts of a request, their ids, and batches of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.base import Refused, Request
from handlers.params import File
from handlers.requests import content_of, rows_of
from handlers.texts import TextLimits, Tokenizer, Tokens, as_taken, asked, padded, vocabulary

LIMITS = TextLimits(max_characters=10, max_instances=2)


def texts(body: Any, content_type: str = "", limits: TextLimits = LIMITS) -> tuple[list[Any], bool]:
    return asked(Request({"body": body}, {"content-type": content_type}), limits, ["seed"])


@pytest.mark.parametrize(
    "body",
    [
        bytearray(b"hi"),
        "hi",
        {"text": "hi"},
        {"data": "hi"},
        bytearray(b'"hi"'),
        bytearray(b'{"text": "hi"}'),
    ],
)
def test_one_text_in_every_form(body: Any) -> None:
    """Text, JSON with and without its content type: the same."""
    assert texts(body) == ([{"text": "hi"}], False)


def test_a_form_has_a_text_and_options() -> None:
    """A text may look like a number; an option is one."""
    found = asked(Request({"text": bytearray(b"2026"), "seed": bytearray(b"7")}, {}), LIMITS, ["seed"])
    assert found == ([{"text": "2026", "seed": 7}], False)
    with pytest.raises(Refused, match="expected a text, found bytes that are no UTF-8"):
        asked(Request({"text": bytearray(b"\xff\xfe\xff")}, {}), LIMITS)


def test_a_form_has_files_beside_what_can_be_read() -> None:
    """A picture, or raw numbers that would be UTF-16, come to the handler as they were sent."""
    png, raw = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x80\x3f"
    form = {"image": bytearray(png), "raw": bytearray(raw), "features": bytearray(b"[1, 2]"), "name": "é"}
    [row], listed = rows_of(content_of(Request(form, {}), "picture", "send one"), 4)
    assert row == {"image": png, "raw": raw, "features": [1, 2], "name": "é"}
    assert not listed
    with pytest.raises(Refused, match="no picture: found bytes that are no text in UTF-8; send one"):
        content_of(Request({"body": bytearray(png)}, {}), "picture", "send one")


def test_several_texts_with_options_of_their_own() -> None:
    """What stands beside `instances` holds for each that does not say otherwise."""
    found = texts({"instances": ["a", {"text": "b", "seed": 2}], "seed": 1})
    assert found == ([{"seed": 1, "text": "a"}, {"seed": 2, "text": "b"}], True)


def test_what_is_sent_as_text_is_the_text() -> None:
    """A text may begin with a quotation mark; then its content type says that it is no JSON."""
    assert texts("[1] “x”", "text/plain; charset=utf-8") == ([{"text": "[1] “x”"}], False)
    with pytest.raises(Refused, match=r"neither text nor JSON.*text/plain"):
        texts(bytearray(b'"hi" he'))


@pytest.mark.parametrize(
    ("body", "reason", "status"),
    [
        ("", "the text is empty", 400),
        (" \n", "the text is empty", 400),
        ({"text": 3}, "expected a text, found a int", 400),
        ({"instances": [["a"]]}, r"instances\[0\]: expected a text, found a list", 400),
        ({"instances": []}, "at least one item", 400),
        ({"instances": ["a"] * 3}, "3 instances in one request, at most 2", 413),
        ({"words": "hi"}, "no text: found", 400),
        ({"text": "a", "data": "b"}, "which of them is the text", 400),
        ({"text": "a", "sed": 1}, r"found \['sed'\], which are not known here; known are text, seed", 400),
        ({"instances": ["a"], "sed": 1}, "not known here", 400),
        ("a" * 11, "11 characters, at most 10", 413),
        ({"instances": ["a", "a" * 11]}, r"instances\[1\]: 11 characters", 413),
        (bytearray(b"\xff\xfe\xff"), "no text", 400),
        ({"text": "\ud800"}, "surrogate", 400),
    ],
)
def test_what_is_refused(body: Any, reason: str, status: int) -> None:
    """Each with its reason, and where it stands."""
    with pytest.raises(Refused, match=reason) as refused:
        texts(body)
    assert refused.value.status == status


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.binary() | st.text() | json_values | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_request_is_answered_or_refused(body: Any) -> None:
    """Whatever is sent: texts of at least one character each, or Refused; nothing else is raised."""
    try:
        found, _ = texts(body)
    except Refused:
        return
    assert found
    assert all(isinstance(row["text"], str) and row["text"].strip() for row in found)


@given(st.dictionaries(st.sampled_from(["text", "seed", "instances", "x"]), st.binary() | json_values))
def test_any_form_is_answered_or_refused(fields: dict[str, Any]) -> None:
    """Likewise."""
    try:
        found, _ = asked(Request(fields, {}), LIMITS, ["seed"])
    except Refused:
        return
    assert all(isinstance(row["text"], str) and row["text"].strip() for row in found)


# -- tokens -------------------------------------------------------------------------------------


def tokens(tmp_path: Path, lines: str, **options: Any) -> Tokens:
    (tmp_path / "v.txt").write_text(lines, encoding="utf-8")
    return Tokens(Tokenizer(File("v.txt"), **options), tmp_path)


def test_words_and_neighbours(tmp_path: Path) -> None:
    """Ids are lines; what is not listed is left out, or has a token of its own."""
    lines = "[PAD]\nnew\nyork\nnew york\n[UNK]\n"
    assert tokens(tmp_path, lines)("new  york city") == [1, 2]
    found = tokens(tmp_path, lines, ngrams=2, lowercase=True, unknown="[UNK]")("New York city")
    assert found == [1, 2, 4, 3, 4]


def test_characters_and_neighbours(tmp_path: Path) -> None:
    """A line may be a space."""
    assert tokens(tmp_path, "_\na\n \na b\nb\n", split="characters", ngrams=3)("a b") == [1, 2, 4, 3]


def test_a_longer_text_is_refused_or_cut(tmp_path: Path) -> None:
    """As `longer` says."""
    with pytest.raises(Refused, match="3 tokens, at most 2") as refused:
        tokens(tmp_path, "a\nb\n", max_tokens=2)("a b a")
    assert refused.value.status == 413
    assert tokens(tmp_path, "a\nb\n", max_tokens=2, longer="cut")("a b a") == [0, 1]


def test_tokens_that_begin_and_end_every_text(tmp_path: Path) -> None:
    """They count, and stay where a text is cut; a text of nothing else is refused."""
    lines = "<s>\n</s>\na\n"
    assert tokens(tmp_path, lines, begin="<s>", end="</s>")("a a") == [0, 2, 2, 1]
    assert tokens(tmp_path, lines, begin="<s>", end="</s>", max_tokens=3, longer="cut")("a a") == [0, 2, 1]
    with pytest.raises(Refused, match="4 tokens, at most 3"):
        tokens(tmp_path, lines, begin="<s>", end="</s>", max_tokens=3)("a a")
    with pytest.raises(Refused, match="no token"):
        tokens(tmp_path, lines, begin="<s>", end="</s>")("x")


def test_a_text_without_known_tokens_is_refused(tmp_path: Path) -> None:
    """The model has nothing to go by."""
    with pytest.raises(Refused, match="no token of the text is known"):
        tokens(tmp_path, "a\n")("x")


def test_what_is_wrong_with_the_files_is_told(tmp_path: Path) -> None:
    """The file, the line, the parameter."""
    with pytest.raises(ValueError, match=r"v.txt line 3: 'a' stands in line 1"):
        tokens(tmp_path, "a\nb\na\n")
    with pytest.raises(ValueError, match=r"'<unk>' is not a line of v.txt"):
        tokens(tmp_path, "a\n", unknown="<unk>")
    with pytest.raises(ValueError, match=r"tokenizer.file: none.txt: no such file"):
        Tokens(Tokenizer(File("none.txt")), tmp_path)
    (tmp_path / "v.json").write_text("{}")
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match=r"v.json is no tokenizer.json"):
        Tokens(Tokenizer(File("v.json")), tmp_path)


def test_a_tokenizer_json(tmp_path: Path) -> None:
    """The library's own file: its special tokens stay where the text is cut; padding in it is not used."""
    library = pytest.importorskip("tokenizers")
    one = library.Tokenizer(library.models.WordLevel({"[S]": 0, "[E]": 1, "a": 2, "[UNK]": 3}, "[UNK]"))
    one.pre_tokenizer = library.pre_tokenizers.Whitespace()
    one.post_processor = library.processors.TemplateProcessing(
        single="[S] $A [E]", special_tokens=[("[S]", 0), ("[E]", 1)]
    )
    one.enable_padding(length=9)
    one.save(str(tmp_path / "t.json"))
    assert Tokens(Tokenizer(File("t.json")), tmp_path)("a b") == [0, 2, 3, 1]
    assert Tokens(Tokenizer(File("t.json"), max_tokens=3, longer="cut"), tmp_path)("a a a") == [0, 2, 1]
    with pytest.raises(Refused, match="5 tokens, at most 4"):
        Tokens(Tokenizer(File("t.json"), max_tokens=4), tmp_path)("a a a")


def test_only_line_ends_end_a_token(tmp_path: Path) -> None:
    """A form feed or a line separator may be a token."""
    (tmp_path / "v.txt").write_bytes("a\r\n\x0c\n\u2028\n \n".encode())
    assert vocabulary(tmp_path / "v.txt") == ["a", "\x0c", "\u2028", " "]


# -- batches ------------------------------------------------------------------------------------

ROWS = [{"input_ids": np.array(ids)} for ids in ([5, 6], [7], [8, 9, 10])]


def test_padding_is_masked() -> None:
    """To the longest of the batch, with the id that pads."""
    found = padded(ROWS, pad=1)
    assert found["input_ids"].tolist() == [[5, 6, 1], [7, 1, 1], [8, 9, 10]]
    assert found["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


def test_offsets_are_where_texts_begin() -> None:
    """As torch.nn.EmbeddingBag takes them."""
    found = as_taken(padded(ROWS, pad=0), ["input_ids", "offsets"], np)
    assert {name: array.tolist() for name, array in found.items()} == {
        "input_ids": [5, 6, 7, 8, 9, 10],
        "offsets": [0, 2, 3],
    }
