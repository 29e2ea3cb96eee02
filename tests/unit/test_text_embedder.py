"""Texts to vectors, by models that give one for each text or one for each token."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.embeddings import pooled, vectors
from handlers.params import build_params
from handlers.text_embedder import Handler, Params
from tests.asking import ask, opened
from torchmar.compare import Comparator

PARAMS = {"tokenizer": {"file": "v.txt", "max_tokens": 3}}
TABLE = np.array([[0, 3], [4, 0], [-4, 0]], dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "v.txt").write_text("up\nright\nleft\n")
    return tmp_path


def of_tokens(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A vector for each token, those of the padding included, as BERT gives them."""
    return {"last_hidden_state": TABLE[batch["input_ids"]], "pooler_output": TABLE[batch["input_ids"][:, 0]]}


def test_each_of_a_ragged_batch_gets_its_own_vector(folder: Path) -> None:
    """The mean of its own tokens, of length 1; bad ones among good ones, answers as each has alone."""
    handler = opened(Handler, PARAMS, folder, of_tokens)
    bodies = ["right", "up right", "", "left left left", "up up up up", {"instances": ["up", "left"]}]
    found = ask(handler, *bodies)
    assert [answer.status for answer in found] == [200, 200, 400, 200, 413, 200]
    contents = [answer.content for answer in found if answer.status == 200]
    assert contents == [[1, 0], pytest.approx([0.8, 0.6]), [-1, 0], {"predictions": [[0, 1], [-1, 0]]}]
    for body, answer in zip(bodies, found, strict=True):
        assert ask(handler, body) == [answer]


@pytest.mark.parametrize(
    ("pooling", "wanted"), [("mean", [2.0, 1.5]), ("first", [4.0, 0.0]), ("max", [4.0, 3.0])]
)
def test_tokens_are_pooled_as_params_say(folder: Path, pooling: str, wanted: list[float]) -> None:
    """Over the tokens of the text alone: a longer neighbour's padding does not count."""
    handler = opened(Handler, {**PARAMS, "pooling": pooling, "normalize": False}, folder, of_tokens)
    found = ask(handler, "right up", "left left left")
    assert found[0].content == wanted


def test_a_vector_has_no_more_digits_than_float32(folder: Path) -> None:
    """0.1, and not 0.10000000149011612."""

    def model(batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"embedding": np.full((len(batch["input_ids"]), 1), 0.1, dtype=np.float32)}

    [answer] = ask(opened(Handler, {**PARAMS, "normalize": False}, folder, model), "up")
    assert answer.content == [0.1]


def test_which_output_holds_the_vectors() -> None:
    """By its name, or because there is no other."""
    one = np.zeros((2, 3))
    assert vectors({"output": one}) is one
    assert vectors({"token_embeddings": np.zeros((2, 4, 3)), "sentence_embedding": one}) is one
    with pytest.raises(ValueError, match=r"one of the names sentence_embedding, .*: it gives a, b"):
        vectors({"a": one, "b": one})
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        vectors({"output": np.zeros(2)})


def test_a_vector_of_nothing_stays_one() -> None:
    """0 has no direction; nothing is divided by 0."""
    assert pooled(np.zeros((1, 2)), np.ones((1, 1)), "mean", normalize=True).tolist() == [[0, 0]]


def test_no_numbers_fail_their_own_text(folder: Path) -> None:
    """500 for it alone, and no archive is built of such a model."""

    def model(batch: Mapping[str, Any]) -> dict[str, Any]:
        rows = TABLE[batch["input_ids"][:, 0]]
        return {"embedding": np.where(rows[:, :1] < 0, np.nan, rows)}

    handler = opened(Handler, PARAMS, folder, model)
    assert [answer.status for answer in ask(handler, "up", "left")] == [200, 500]
    with pytest.raises(ValueError, match="for 1 of 2 texts"):
        handler.examine({"embedding": np.array([[np.nan, 1], [1, 1]])}, squashed=False)
    assert handler.examine({"embedding": np.ones((2, 2))}, squashed=False) == ()


def test_about_tells_the_dimensions(folder: Path) -> None:
    """Of the model that is open."""
    handler = opened(Handler, PARAMS, folder, of_tokens)
    handler.warm_up()
    assert handler.about()["dimensions"] == 2


def test_vectors_are_compared_by_their_angle(folder: Path) -> None:
    """A right and a wrong pair."""
    same = Comparator.of(opened(Handler, PARAMS, folder, of_tokens).compare()).same
    assert same([1.0, 0.0], [0.9999, 0.001])
    assert not same([1.0, 0.0], [0.9, 0.1])


def test_offsets_are_refused_by_name() -> None:
    """They leave no mask to pool with."""
    with pytest.raises(ValueError, match="takes: "):
        build_params(Params, {**PARAMS, "takes": ["input_ids", "offsets"]})
