"""Where sentences end, in several scripts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.sentences import sentences


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        (
            "He said: “Stop!” Then they left… And came back.",
            ["He said: “Stop!”", "Then they left…", "And came back."],
        ),
        ("Dr. Who met J. S. Bach at 3.5 km. Both ran.", ["Dr. Who met J. S. Bach at 3.5 km.", "Both ran."]),
        ("It is short, e.g. this. But it ends", ["It is short, e.g. this.", "But it ends"]),
        ("吾輩は猫である。名前はまだ無い。", ["吾輩は猫である。", "名前はまだ無い。"]),
        ("Это первое. А это?", ["Это первое.", "А это?"]),
        ("مرحبا. كيف حالك؟ بخير.", ["مرحبا.", "كيف حالك؟", "بخير."]),
        ("यह पहला है। यह दूसरा है।", ["यह पहला है।", "यह दूसरा है।"]),
        ("A title\n\nIts  text\nin lines.", ["A title", "Its text in lines."]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, wanted: list[str]) -> None:
    """As a reader would part them."""
    assert sentences(text) == wanted


@given(st.text(st.sampled_from('ab A.。!? \n"”é1')))
def test_nothing_is_lost(text: str) -> None:
    """All but white space is there, in its order; no sentence is empty."""
    found = sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(found)
