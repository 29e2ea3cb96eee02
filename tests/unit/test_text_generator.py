"""Texts that are written token by token, several at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.base import Request
from handlers.text_generator import BROKEN, Handler, drawn
from tests.any_model import write_model
from tests.asking import Answer, ask, opened
from torchmar.archive import build
from torchmar.compare import Comparator
from torchmar.errors import ExportError
from torchmar.spec import load_model

TOKENS = ["<s>", "a", "b", "c"]
PARAMS = {
    "vocabulary": "v.txt",
    "state": [{"name": "steps", "shape": [1], "dtype": "int64"}],
    "begin": "<s>",
    "end": "<s>",
    "length": 5,
    "max_length": 10,
    "limits": {"max_characters": 8, "max_instances": 3},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "v.txt").write_text("\n".join(TOKENS) + "\n")
    return tmp_path


class Alphabet:
    """After a comes b, then c, then a; mostly. It ends after as many steps as it has been given."""

    def __init__(self, ends_after: int = 100) -> None:
        self.ends_after = ends_after
        self.shapes: list[int] = []

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        token, steps = batch["token"], batch["steps"]
        self.shapes.append(len(token))
        assert steps.dtype == token.dtype == np.int64
        logits = np.zeros((len(token), 4), dtype=np.float32)
        logits[np.arange(len(token)), token % 3 + 1] = 3
        logits[:, 0] = np.where(steps[:, 0] >= self.ends_after, 50, -50)
        return {"logits": logits, "next_steps": steps + 1}


def text(answer: Answer) -> str:
    return str(answer.content["text"])


def test_each_of_a_batch_is_written_as_it_is_alone(folder: Path) -> None:
    """Bad ones among good ones, beginnings and lengths of any size; what has ended is left out."""
    model = Alphabet()
    handler = opened(Handler, PARAMS, folder, model)
    bodies = [
        {"text": "a", "temperature": 0, "seed": 0},
        {"text": "", "temperature": 0, "seed": 0, "length": 2},
        "abcabcabc",
        {"text": "abc", "temperature": 1, "seed": 5},
        {"text": "x"},
        {"instances": ["c", {"text": "b", "seed": 3}], "seed": 4},
    ]
    found = ask(handler, *bodies)
    assert [answer.status for answer in found] == [200, 200, 413, 200, 400, 200]
    assert (text(found[0]), text(found[1])) == ("bcabc", "ab")
    assert model.shapes[0] == 5
    assert model.shapes == sorted(model.shapes, reverse=True)
    assert model.shapes[-1] < 5
    for body, answer in zip(bodies, found, strict=True):
        assert ask(handler, body) == [answer]


def test_the_same_seed_writes_the_same_text(folder: Path) -> None:
    """Another one another; without one it is chosen by chance, and told."""
    handler = opened(Handler, PARAMS, folder, Alphabet())
    body = {"text": "a", "temperature": 2, "length": 10}
    one, two, three = ask(handler, *({**body, "seed": seed} for seed in (1, 1, 2)))
    assert text(one) == text(two) != text(three)
    [chance] = ask(handler, body)
    assert text(ask(handler, {**body, "seed": chance.content["seed"]})[0]) == text(chance)


def test_a_text_ends_where_the_model_ends_it(folder: Path) -> None:
    """And says so; one that is cut short says that."""
    [ended, cut] = ask(opened(Handler, PARAMS, folder, Alphabet(ends_after=3)), "", {"text": "", "length": 2})
    assert (len(text(ended)), ended.content["ended"]) == (3, True)
    assert (len(text(cut)), cut.content["ended"]) == (2, False)


def test_a_state_belongs_to_its_own_text(folder: Path) -> None:
    """Also after one before it has ended: each goes on writing what it began with."""

    def echo(batch: Mapping[str, Any]) -> dict[str, Any]:
        first = np.where(batch["steps"] == 0, batch["token"][:, None], batch["steps"])
        return {"logits": np.eye(4, dtype=np.float32)[first[:, 0]], "next_steps": first}

    handler = opened(Handler, {**PARAMS, "begin": None, "temperature": 0.0}, folder, echo)
    found = ask(handler, *({"text": one, "length": length} for one, length in (("a", 1), ("b", 4), ("c", 2))))
    assert [text(answer) for answer in found] == ["a", "bbbb", "cc"]


@pytest.mark.parametrize("split", ["characters", "words"])
def test_the_pieces_of_a_stream_are_its_text(folder: Path, split: str) -> None:
    """The same seed, the same text, whether it comes at once or in pieces."""
    handler = opened(Handler, {**PARAMS, "split": split}, folder, Alphabet(ends_after=4))
    body = {"text": "a", "seed": 9, "temperature": 1.5}
    decoded = handler.decode(Request({"body": {**body, "stream": True}}, {}))
    pieces = [*handler.stream(decoded.instances[0], decoded.about[0])]
    assert decoded.about[0].stream
    assert len(pieces) == 3
    assert "".join(pieces) == text(ask(handler, body)[0])


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"temperature": -1}, "temperature: expected a number from 0 to 10"),
        ({"temperature": "hot"}, "temperature: expected a number"),
        ({"temperature": float("nan")}, "temperature: expected a number"),
        ({"seed": 1.5}, "seed: expected a whole number from 0 to 9007199254740991"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"length": 11}, "length: expected a whole number from 1 to 10"),
        ({"stream": "yes"}, "stream: expected true or false"),
        ({"tempreature": 1}, "not known here; known are text, temperature, seed, length, stream"),
    ],
)
def test_options_that_cannot_be_are_refused(folder: Path, option: dict[str, Any], reason: str) -> None:
    """By their name, beside a good one."""
    found = ask(opened(Handler, PARAMS, folder, Alphabet()), {"text": "a", **option}, "a")
    assert [answer.status for answer in found] == [400, 200]
    assert reason in found[0].reason


def test_an_empty_beginning_needs_a_token_to_begin_with(folder: Path) -> None:
    """Without one there is nothing to give the model."""
    params = {**PARAMS, "begin": None}
    [answer] = ask(opened(Handler, params, folder, Alphabet()), {"text": ""})
    assert (answer.status, "the text is empty" in answer.reason) == (400, True)


def test_unknown_tokens_have_one_of_their_own_where_there_is_one(folder: Path) -> None:
    """Else they are refused by name."""
    [answer] = ask(opened(Handler, PARAMS, folder, Alphabet()), "é")
    assert answer.reason == "'é' is none of the 4 tokens of this model"
    assert ask(opened(Handler, {**PARAMS, "unknown": "c"}, folder, Alphabet()), "é")[0].status == 200


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"length": 11}, "length: at most 10"),
        ({"state": []}, "state: list what the model carries"),
        ({"end": "</s>"}, "end: '</s>' is not in v.txt"),
        ({"never": ["x"]}, "never: 'x' is not in v.txt"),
        ({"vocabulary": "none.txt"}, "none.txt: no such file"),
    ],
)
def test_params_that_cannot_be_are_told(folder: Path, params: dict[str, Any], reason: str) -> None:
    """By their name."""
    with pytest.raises(ValueError, match=reason):
        opened(Handler, {**PARAMS, **params}, folder, Alphabet())


def test_a_model_that_does_not_fit_keeps_the_worker_from_starting(folder: Path) -> None:
    """It says what was expected."""
    (folder / "v.txt").write_text("<s>\na\n")
    with pytest.raises(
        ValueError, match=r"logits \[1, 4\], next_steps \[1, 1\]; expected logits \[1, 2\], .*v.txt has 2 tok"
    ):
        opened(Handler, PARAMS, folder, Alphabet()).warm_up()


def test_a_state_of_another_name_is_told_as_that(folder: Path) -> None:
    """The vocabulary is not to blame."""
    params = {**PARAMS, "state": [{"name": "stepps", "shape": [1], "dtype": "int64"}]}
    told = r"^state: the model gives logits \[1, 4\], next_steps \[1, 1\]; expected .*, next_stepps \[1, 1\]$"
    alphabet = Alphabet()

    def model(batch: Mapping[str, Any]) -> dict[str, Any]:
        return alphabet({"token": batch["token"], "steps": batch["stepps"]})

    with pytest.raises(ValueError, match=told):
        opened(Handler, params, folder, model).warm_up()


def test_no_numbers_fail_their_own_text(folder: Path) -> None:
    """500 for it alone, and the same in a stream."""

    def model(batch: Mapping[str, Any]) -> dict[str, Any]:
        found = Alphabet()(batch)
        return {**found, "logits": np.where(batch["token"][:, None] == 2, np.nan, found["logits"])}

    handler = opened(Handler, PARAMS, folder, model)
    bodies = [{"text": "a", "temperature": 0}, {"text": "a", "temperature": 0, "length": 1}]
    assert [answer.status for answer in ask(handler, *bodies)] == [500, 200]
    decoded = handler.decode(Request({"body": bodies[0]}, {}))
    pieces = handler.stream(decoded.instances[0], decoded.about[0])
    assert next(pieces) == "b"
    with pytest.raises(Exception, match="NaN or infinity"):
        next(pieces)


def test_a_vocabulary_may_be_a_list_in_json(folder: Path) -> None:
    """A token may then be a line end."""
    (folder / "v.json").write_text('["<s>", "\\n", "b", "c"]')
    handler = opened(Handler, {**PARAMS, "vocabulary": "v.json"}, folder, Alphabet())
    assert text(ask(handler, {"text": "", "temperature": 0})[0]) == "\nbc\nb"
    (folder / "v.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"v.json: expected a list of tokens"):
        opened(Handler, {**PARAMS, "vocabulary": "v.json"}, folder, Alphabet())


def test_texts_are_compared_but_for_their_last_characters(folder: Path) -> None:
    """A right and a wrong pair."""
    same = Comparator.of(Handler().compare()).same
    one = {"text": "the cat sat on the mat", "seed": 1, "ended": True}
    assert same(one, {**one, "text": "the cat sat on the map"})
    assert not same(one, {**one, "text": "the cat sang"})
    assert same(one["text"], "the cat sat on the map"), "an answer in parts is a text"
    assert not same(one["text"], "the cat sang")


WRITER = """
import torch

class Writer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.scores = torch.nn.Embedding(4, 4)

    def forward(self, token, steps):
        return {"logits": self.scores(token), "next_steps": steps + 1}

def writer():
    return Writer()
"""


def writer(folder: Path, **golden: Mapping[str, Any]) -> Path:
    """A model folder."""
    return write_model(
        folder / "writer",
        {"load.py": WRITER, "v.json": json.dumps(["<", "a", "b", "c"])},
        {f"{name}.json": {"text": "a", "length": 5, **body} for name, body in golden.items()},
        name="writer",
        handler="text_generator",
        source="load:writer",
        params={"vocabulary": "v.json", "state": [{"name": "steps", "shape": [1]}]},
    )


def test_a_golden_request_in_parts(tmp_path: Path) -> None:
    """What is expected is the text of all parts, and the worker that is asked again answers it in parts."""
    bodies = {"whole": {"seed": 1}, "stream": {"seed": 1, "stream": True}, "likeliest": {"temperature": 0}}
    source = load_model(writer(tmp_path, **bodies))
    found = build(source, tmp_path / "store")
    assert found.check is not None
    expected = {each.name: each.expected["answer"] for each in found.check.golden}
    assert expected["stream.json"] == expected["whole.json"]["text"]
    assert expected["likeliest.json"]["seed"] == 0
    assert found.check.ok
    assert [each.found for each in found.check.golden] == [each.expected for each in found.check.golden]


def test_a_golden_request_without_a_seed_is_told(tmp_path: Path) -> None:
    """Its answer would be another one each time: that is said before anything is exported."""
    source = load_model(writer(tmp_path, seeded={"seed": 1}, unseeded={}))
    with pytest.raises(ExportError, match=r"golden request .*unseeded\.json: give it a seed"):
        build(source, tmp_path / "store")


# -- drawing ------------------------------------------------------------------------------------

logits = st.lists(st.floats(-30, 30), min_size=2, max_size=6)


@given(logits, st.floats(0, 10), st.integers(0, 100))
def test_any_draw_is_one_of_the_tokens(scores: list[float], temperature: float, seed: int) -> None:
    """And never one that is never written."""
    found = drawn(np.array(scores), temperature, np.random.default_rng(seed), never=[0])
    assert 0 < found < len(scores)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    """The softmax of logits / temperature, within what chance explains."""
    generator = np.random.default_rng(0)
    found = [drawn(np.log([0.1, 0.2, 0.7]) * 2, 2.0, generator) for _ in range(4000)]
    assert np.bincount(found) / 4000 == pytest.approx([0.1, 0.2, 0.7], abs=0.03)
    assert drawn(np.array([1.0, np.nan]), 1.0, generator) == BROKEN
    assert drawn(np.array([1.0, 2.0]), 0.0, generator) == 1
