"""Texts of any lengths in one batch, each answered by its own classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.params import build_params
from handlers.text_classifier import Handler, Params
from tests.asking import Answer, ask, form, opened
from torchmar.compare import Comparator

PARAMS = {
    "tokenizer": {"file": "v.txt", "max_tokens": 4},
    "labels": "labels.txt",
    "limits": {"max_characters": 30, "max_instances": 3},
}


def counts(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A model that scores a text by how often it has good (id 1) and bad (id 2)."""
    real = batch["attention_mask"] > 0
    scores = [((batch["input_ids"] == token) & real).sum(1) for token in (1, 2)]
    return {"scores": np.stack(scores, axis=1).astype(np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "v.txt").write_text("the\ngood\nbad\n")
    (tmp_path / "labels.txt").write_text("praise\nblame\n")
    return tmp_path


def labels(answer: Answer) -> Any:
    return [row["label"] for row in answer.content]


def test_each_of_a_ragged_batch_gets_its_own_answer(folder: Path) -> None:
    """Bad ones among good ones, long ones beside short ones: one forward pass, answers as each has alone."""
    calls = []

    def model(batch: Mapping[str, Any]) -> dict[str, Any]:
        calls.append(batch["input_ids"].shape)
        return counts(batch)

    handler = opened(Handler, PARAMS, folder, model)
    bodies = [
        "good",
        "the the bad",
        "",
        "good good good bad the",
        {"text": "bad bad"},
        form(text="good"),
        "x y",
    ]
    found = ask(handler, *bodies)
    assert [answer.status for answer in found] == [200, 200, 400, 413, 200, 200, 400]
    assert [labels(answer)[0] for answer in found if answer.status == 200] == [
        "praise",
        "blame",
        "blame",
        "praise",
    ]
    assert calls == [(4, 3)]
    for body, answer in zip(bodies, found, strict=True):
        assert ask(handler, body) == [answer]


def test_an_answer_has_every_class_with_its_probability(folder: Path) -> None:
    """The softmax of the scores 2 and 1, the likeliest first."""
    [answer] = ask(opened(Handler, PARAMS, folder, counts), "good bad good")
    assert answer.content == [
        {"label": "praise", "index": 0, "probability": pytest.approx(0.7311, abs=1e-4)},
        {"label": "blame", "index": 1, "probability": pytest.approx(0.2689, abs=1e-4)},
    ]


def test_an_answer_has_no_more_classes_than_topk(folder: Path) -> None:
    """The likeliest ones."""
    [answer] = ask(opened(Handler, {**PARAMS, "topk": 1}, folder, counts), "bad")
    assert labels(answer) == ["blame"]


def test_several_texts_of_one_request(folder: Path) -> None:
    """A list is answered with a list; too many are refused."""
    handler = opened(Handler, PARAMS, folder, counts)
    several, many = ask(handler, {"instances": ["bad", "good"]}, {"instances": ["bad"] * 4})
    assert [rows[0]["label"] for rows in several.content["predictions"]] == ["blame", "praise"]
    assert (many.status, "at most 3 are allowed" in many.reason) == (413, True)


def test_a_model_takes_what_it_says(folder: Path) -> None:
    """Before an ONNX file from elsewhere, and before a module, the batch becomes what `takes` lists."""
    torch = pytest.importorskip("torch")
    handler = opened(Handler, {**PARAMS, "takes": ["input_ids", "offsets"]}, folder, counts)
    batch = handler.collate([{"input_ids": np.array(ids)} for ids in ([1], [2, 0])])
    prepared = handler.prepare(batch)
    tensors = handler.graph_prefix({name: torch.from_numpy(array) for name, array in batch.items()})
    for name, wanted in (("input_ids", [1, 2, 0]), ("offsets", [0, 1])):
        assert prepared[name].tolist() == tensors[name].tolist() == wanted


@pytest.mark.parametrize(
    "takes", [["offsets"], ["input_ids", "input_ids"], ["input_ids", "attention_mask", "offsets"]]
)
def test_what_cannot_be_taken_is_told(takes: list[str]) -> None:
    """While model.yaml is read."""
    with pytest.raises(ValueError, match="takes: "):
        build_params(Params, {**PARAMS, "takes": takes})


def test_examine_holds_the_scores_against_the_params(folder: Path) -> None:
    """The number of labels, probabilities said to be logits, NaN."""
    handler = opened(Handler, PARAMS, folder, counts)
    assert handler.examine({"scores": np.array([[3.0, -1.0]])}, squashed=False) == ()
    with pytest.raises(ValueError, match=r"the module has 3 classes, `labels: labels.txt` names 2"):
        handler.examine({"scores": np.array([[3.0, -1.0, 0.0]])}, squashed=False)
    with pytest.raises(ValueError, match="scores: probabilities"):
        handler.examine({"scores": np.array([[0.25, 0.75], [0.5, 0.5]])}, squashed=False)
    with pytest.raises(ValueError, match="for 1 of 2 texts the module gives NaN"):
        handler.examine({"scores": np.array([[np.nan, 0.75], [0.5, 0.5]])}, squashed=False)


def test_scores_that_are_no_numbers_fail_their_own_text(folder: Path) -> None:
    """500 for it alone."""

    def model(batch: Mapping[str, Any]) -> dict[str, Any]:
        found = counts(batch)["scores"]
        return {"scores": np.where(found[:, 1:] > 1, np.nan, found)}

    found = ask(opened(Handler, PARAMS, folder, model), "good", "bad bad")
    assert [answer.status for answer in found] == [200, 500]


def test_answers_are_compared_by_the_likeliest_class(folder: Path) -> None:
    """A right and a wrong pair."""
    same = Comparator.of(opened(Handler, PARAMS, folder, counts).compare()).same
    one, near, other = (
        [{"label": "a", "index": i, "probability": p}] for i, p in ((1, 0.9), (1, 0.8), (0, 0.9))
    )
    assert same(one, near)
    assert not same(one, other)


def test_an_answer_with_other_labels_is_another(folder: Path) -> None:
    """A version whose labels were put in another order, or taken from another file, does not say the same."""
    same = Comparator.of(opened(Handler, PARAMS, folder, counts).compare()).same
    one, renamed = ([{"label": label, "index": 1, "probability": 0.9}] for label in ("good", "bad"))
    assert not same(one, renamed)


def test_the_example_and_seeded_texts_can_be_inferred(folder: Path) -> None:
    """Of lengths that differ, so that the exported graph is tried with more than one."""
    handler = opened(Handler, PARAMS, folder, counts)
    generator = np.random.default_rng(0)
    rows = [handler.example(), *(handler.seeded(generator) for _ in range(8))]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    assert handler.infer(handler.collate(rows))["probabilities"].shape == (9, 2)
