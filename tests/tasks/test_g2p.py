"""g2p-en's weights in torch: the phonemes that its own code gives."""

from __future__ import annotations

from typing import Any

import pytest

from tests.asking import ask

from .models import opened_model

pytestmark = pytest.mark.tasks

# What g2p_en.G2p.predict of version 2.1.0 gives; names and new words are the ones that no dictionary has.
REFERENCE = {
    "hello": "HH EH1 L OW0",
    "translation": "T R AE0 N S L EY1 SH AH0 N",
    "kubernetes": "K AH0 B ER1 N AH0 T S",
    "anguilla": "AA0 NG G W IY0 AA1 L AH0",
    "egypt": "IY1 JH P AH0 T",
    "otter": "AA1 T ER0",
}


def test_greedy_search_answers_as_the_reference(tmp_path: Any) -> None:
    """All words in one batch, upper case and white space aside."""
    handler, _ = opened_model("g2p", tmp_path, beams=1, answers=1)
    found = ask(handler, *REFERENCE)
    assert {word: answer.content["text"] for word, answer in zip(REFERENCE, found, strict=True)} == REFERENCE
    assert ask(handler, "HELLO")[0] == found[0]


def test_beam_search_finds_likelier_phonemes(tmp_path: Any) -> None:
    """Greedy search stumbles over a name that three beams get right."""
    handler, _ = opened_model("g2p", tmp_path)
    [hello, barbados] = ask(handler, "hello", "barbados")
    assert hello.content["text"] == "HH EH1 L OW0"
    assert barbados.content["text"] == "B AA0 R B AA1 D OW0 Z"
    assert len(barbados.content["alternatives"]) == 2


def test_a_word_that_is_too_long_is_refused(tmp_path: Any) -> None:
    """The network was trained on words, not on pages."""
    handler, _ = opened_model("g2p", tmp_path)
    long, good = ask(handler, "a" * 41, "otter")
    assert (long.status, good.content["text"]) == (413, "AA1 T ER0")
