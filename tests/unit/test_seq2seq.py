"""Beam search over a decoder, and the answers that come of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.base import Inputs, Outputs
from handlers.params import build_params
from handlers.seq2seq import Handler, Params, beam_search, log_softmax
from tests.asking import ask, opened
from torchmar.compare import Comparator

PARAMS = {
    "tokenizer": {"file": "v.txt", "split": "characters", "end": "</s>", "max_tokens": 6},
    "target": "t.txt",
    "beams": 2,
    "max_length": 8,
    "limits": {"max_characters": 20, "max_instances": 3},
}
START, END, A, B = range(4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "v.txt").write_text("</s>\na\nb\n")
    (tmp_path / "t.txt").write_text("<s>\n</s>\nA\nB\n")
    return tmp_path


def encoder(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Remembers the text, and that nothing of it was written yet."""
    return {
        "memory": batch["input_ids"],
        "memory_mask": batch["attention_mask"],
        "state": np.zeros(len(batch["input_ids"]), dtype=np.int64),
    }


def decoder(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the text in capitals, character by character."""
    row = np.arange(len(batch["token"]))
    written = batch["state"]
    wanted = np.array([END, A, B])[batch["memory"][row, written]]
    logits = np.zeros((len(row), 4), dtype=np.float32)
    logits[row, wanted] = 5
    return {"logits": logits, "next_state": np.minimum(written + 1, batch["memory_mask"].sum(1) - 1)}


PARTS = {"encoder": encoder, "decoder": decoder}


def test_each_of_a_ragged_batch_gets_its_own_answer(folder: Path) -> None:
    """Bad ones among good ones, long ones beside short ones: each as it would be alone."""
    handler = opened(Handler, PARAMS, folder, PARTS)
    bodies = ["ab", "b", "", "aabbab", {"instances": ["ba", "b"]}, "xyz", {"text": "babba"}]
    found = ask(handler, *bodies)
    assert [answer.status for answer in found] == [200, 200, 400, 413, 200, 400, 200]
    texts = [answer.content["text"] for answer in found if answer.status == 200 and "text" in answer.content]
    assert texts == ["AB", "B", "BABBA"]
    assert [one["text"] for one in found[4].content["predictions"]] == ["BA", "B"]
    for body, answer in zip(bodies, found, strict=True):
        assert ask(handler, body) == [answer]


def test_an_answer_tells_how_likely_it_is_and_whether_it_ended(folder: Path) -> None:
    """One that is cut short at `max_length` has not ended."""
    [answer] = ask(opened(Handler, {**PARAMS, "separator": " "}, folder, PARTS), "ab")
    step = 5 - np.log(np.exp(5) + 3)
    assert answer.content == {
        "text": "A B",
        "log_probability": pytest.approx(3 * step, abs=1e-5),
        "ended": True,
    }
    [answer] = ask(opened(Handler, {**PARAMS, "max_length": 2}, folder, PARTS), "aba")
    assert (answer.content["text"], answer.content["ended"]) == ("AB", False)


def test_alternatives_are_given_where_they_are_wanted(folder: Path) -> None:
    """As many as `answers` says, the best first, none twice."""
    [answer] = ask(opened(Handler, {**PARAMS, "beams": 3, "answers": 3}, folder, PARTS), "ab")
    texts = [answer.content["text"], *(one["text"] for one in answer.content["alternatives"])]
    assert texts[0] == "AB"
    assert len({*texts}) == 3
    scores = [
        answer.content["log_probability"],
        *(x["log_probability"] for x in answer.content["alternatives"]),
    ]
    assert scores[0] == max(scores)


def test_no_numbers_fail_their_own_text(folder: Path) -> None:
    """500 for it alone."""

    def broken(batch: Mapping[str, Any]) -> dict[str, Any]:
        found = decoder(batch)
        return {**found, "logits": np.where(batch["memory"][:, :1] == 2, np.nan, found["logits"])}

    found = ask(opened(Handler, PARAMS, folder, {**PARTS, "decoder": broken}), "ab", "ba")
    assert [answer.status for answer in found] == [200, 500]


def test_a_decoder_that_does_not_fit_keeps_the_worker_from_starting(folder: Path) -> None:
    """It says what was expected."""
    (folder / "t.txt").write_text("<s>\n</s>\nA\n")
    with pytest.raises(ValueError, match=r"logits \[2, 4\].*expected logits \[2, 3\], as t.txt has 3 tokens"):
        opened(Handler, PARAMS, folder, PARTS).warm_up()
    (folder / "t.txt").write_text("<s>\n</s>\nA\nB\n")

    def misnamed(batch: Mapping[str, Any]) -> dict[str, Any]:
        return {"logits": decoder(batch)["logits"], "state": batch["state"]}

    with pytest.raises(
        ValueError, match=r"gives logits \[2, 4\], state \[2\], .*and of .*next_state what changes"
    ):
        opened(Handler, PARAMS, folder, {**PARTS, "decoder": misnamed}).warm_up()


@pytest.mark.parametrize(
    ("params", "reason"),
    [({"answers": 3}, "answers: at most 2"), ({"start": "<go>"}, "start: '<go>' is not a line of t.txt")],
)
def test_params_that_cannot_be_are_told(folder: Path, params: dict[str, Any], reason: str) -> None:
    """By their name."""
    with pytest.raises(ValueError, match=reason):
        opened(Handler, {**PARAMS, **params}, folder, PARTS)


def test_answers_are_compared_by_their_text(folder: Path) -> None:
    """A right and a wrong pair."""
    same = Comparator.of(Handler().compare()).same
    one = {"text": "A", "log_probability": -1.0, "ended": True}
    assert same(one, {**one, "log_probability": -1.0001})
    assert not same(one, {**one, "text": "B"})
    assert build_params(Params, PARAMS).answers == 1


# -- beam search --------------------------------------------------------------------------------


class Chain:
    """A decoder whose next token depends on the last one, and on the row, by chance."""

    def __init__(self, seed: int, rows: int, tokens: int) -> None:
        self.logits = np.random.default_rng(seed).normal(0, 2, (rows, tokens, tokens))

    def __call__(self, inputs: Inputs) -> Outputs:
        return {"logits": self.logits[inputs["row"], inputs["token"]]}

    def score(self, row: int, ids: Sequence[int]) -> float:
        """The log-probability of an answer."""
        log_p = log_softmax(self.logits[row])
        return float(sum(log_p[one, other] for one, other in zip((START, *ids), ids, strict=False)))

    def best(self, row: int, most: int) -> tuple[float, list[int]]:
        """Of every answer that there can be: those that end, and those that are cut short."""
        tokens = self.logits.shape[1]
        going = [token for token in range(tokens) if token != END]
        ended = [(*ids, END) for length in range(most) for ids in itertools.product(going, repeat=length)]
        every = [*ended, *itertools.product(going, repeat=most)]
        return max((self.score(row, ids), [*ids]) for ids in every)


def search(chain: Chain, rows: list[int], beams: int, most: int = 4, penalty: float = 0.0) -> list[Any]:
    return beam_search(
        chain, {"row": np.array(rows)}, start=START, end=END, beams=beams, most=most, penalty=penalty
    )


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_enough_beams_find_the_best_of_all_answers(seed: int, tokens: int) -> None:
    """Whatever the decoder is: what trying every answer finds."""
    chain = Chain(seed, 2, tokens)
    for row, answers in enumerate(search(chain, [0, 1], beams=tokens**4)):
        score, _ = chain.best(row, 4)
        assert answers[0].log_probability == pytest.approx(score)
        # Answers of the same steps in another order are as good.
        assert chain.score(row, answers[0].ids) == pytest.approx(score)


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 5), st.floats(0, 2))
def test_an_answer_does_not_depend_on_its_company(seed: int, beams: int, penalty: float) -> None:
    """Rows of a batch are searched as each alone; what is done early does not hold up the others."""
    chain = Chain(seed, 3, 5)
    together = search(chain, [0, 1, 2], beams, most=6, penalty=penalty)
    assert together == [search(chain, [row], beams, most=6, penalty=penalty)[0] for row in range(3)]


def test_one_beam_takes_the_likeliest_token_each_time() -> None:
    """Greedy search, as most reference code has it."""
    chain = Chain(3, 1, 6)
    ids: list[int] = []
    token = START
    while token != END and len(ids) < 4:
        token = int(chain.logits[0, token].argmax())
        ids.append(token)
    assert [*search(chain, [0], beams=1)[0][0].ids] == ids
