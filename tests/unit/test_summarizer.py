"""The sentences of a text that are nearest to all the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.summarizer import ROWS_AT_ONCE, Handler
from tests.asking import ask, opened
from torchmar.compare import Comparator

PARAMS = {
    "tokenizer": {"file": "v.txt", "unknown": "?"},
    "sentences": 1,
    "limits": {"max_characters": 4000, "max_sentences": 50, "max_instances": 2},
}
WORDS = ["?", "Cats.", "Dogs.", "Pets.", "Tax."]
TABLE = np.array([[0, 0, 1], [1, 0, 0.1], [0.6, 0.8, 0], [0.9, 0.5, 0.1], [0, 0, 1]], dtype=np.float32)


def model(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A vector for each token."""
    return {"last_hidden_state": TABLE[batch["input_ids"]]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "v.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path


def test_the_central_sentence_of_each_text(folder: Path) -> None:
    """Bad ones among good ones; each answer as it is alone."""
    handler = opened(Handler, PARAMS, folder, model)
    bodies = [
        "Cats. Dogs. Pets. Tax.",
        "",
        {"text": "Cats. Dogs. Pets. Tax.", "sentences": 2},
        {"text": "Cats.", "sentences": 0},
        {"text": "Cats.", "sentences": True},
        "Tax.",
        "Cats. " * 51,
        {"instances": ["Cats. Dogs. Pets.", "Dogs. Dogs."]},
    ]
    found = ask(handler, *bodies)
    assert [answer.status for answer in found] == [200, 400, 200, 400, 400, 200, 413, 200]
    assert found[0].content["summary"] == "Pets."
    assert [row["index"] for row in found[2].content["sentences"]] == [0, 2]  # as they follow in the text
    assert found[3].reason == "sentences: expected a number from 1 to 50"
    assert found[5].content["summary"] == "Tax."
    assert [one["summary"] for one in found[7].content["predictions"]] == ["Pets.", "Dogs."]
    for body, answer in zip(bodies, found, strict=True):
        assert ask(handler, body) == [answer]


def test_what_says_the_same_is_left_out(folder: Path) -> None:
    """Of two sentences that are alike only one is kept, though both are central."""
    body = {"text": "Pets. Pets. Cats. Dogs. Tax.", "sentences": 2}
    [answer] = ask(opened(Handler, PARAMS, folder, model), body)
    assert [row["index"] for row in answer.content["sentences"]] == [0, 2]


def test_many_sentences_are_inferred_a_few_at_a_time(folder: Path) -> None:
    """Those of like length together, and each gets its own vector back."""
    shapes = []

    def counted(batch: Mapping[str, Any]) -> dict[str, Any]:
        shapes.append(batch["input_ids"].shape)
        return model(batch)

    handler = opened(Handler, PARAMS, folder, counted)
    text = "Long long long long long Cats. " + "Dogs. " * 2 * ROWS_AT_ONCE
    decoded = handler.collate([{**handler.decode(_request(text)).instances[0]}])
    found = handler.infer(decoded)["embedding"]
    assert shapes == [(ROWS_AT_ONCE, 1), (ROWS_AT_ONCE, 1), (1, 6)]
    assert found[1] == pytest.approx(TABLE[2] / np.linalg.norm(TABLE[2]))
    assert found[0] != pytest.approx(found[1])


def _request(text: str) -> Any:
    from handlers.base import Request

    return Request({"body": text}, {})


def test_the_example_and_seeded_texts_can_be_inferred(folder: Path) -> None:
    """More than one sentence, more than one token."""
    handler = opened(Handler, PARAMS, folder, model)
    generator = np.random.default_rng(0)
    for one in (handler.example(), handler.seeded(generator), handler.seeded(generator)):
        assert min(one["input_ids"].shape) > 1
        assert handler.infer(handler.collate([one]))["embedding"].shape == (len(one["input_ids"]), 3)


def test_examine_refuses_what_is_no_vector(folder: Path) -> None:
    """NaN, and scalars."""
    handler = opened(Handler, PARAMS, folder, model)
    assert handler.examine({"embedding": np.ones((2, 3))}, squashed=False) == ()
    with pytest.raises(ValueError, match="NaN"):
        handler.examine({"embedding": np.full((2, 3), np.nan)}, squashed=False)
    with pytest.raises(ValueError, match="shape"):
        handler.examine({"embedding": np.ones(2)}, squashed=False)


def test_summaries_are_compared_by_their_text(folder: Path) -> None:
    """A right pair, whose centrality is rounded otherwise, and a wrong one."""
    same = Comparator.of(opened(Handler, PARAMS, folder, model).compare()).same

    def summary(text: str, centrality: float) -> dict[str, Any]:
        return {"summary": text, "sentences": [{"text": text, "index": 0, "centrality": centrality}]}

    assert same(summary("a", 0.5), summary("a", 0.50001))
    assert not same(summary("a", 0.5), summary("b", 0.5))
