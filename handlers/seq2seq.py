"""Sequence to sequence: a text in, the likeliest text out, by an encoder and a decoder with beam search.

The encoder takes `input_ids` and `attention_mask`, int64 (n, tokens), and gives arrays of any names. The
decoder takes `token`, int64 (n,), and those arrays; it gives `logits` (n, target tokens), and new values of
those that change from step to step: `next_state` is the `state` of the next one. Arrays with an axis of
source tokens, for attention, are called `memory` and `memory_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from .base import Inputs, Model, Outputs
from .params import AtLeast, AtMost, File, Positive
from .text_handlers import TextHandler
from .texts import RAGGED, TextLimits, Tokenizer, vocabulary
from .worker.answers import not_finite

NONE = -1
"""Stands where an answer has no token any more."""


@dataclass(frozen=True)
class Params:
    """How a text becomes ids, and ids a text."""

    tokenizer: Tokenizer
    """How the source text becomes ids."""
    target: File
    """A .txt with the target tokens, one a line; the first of them has the id 0."""
    start: str = "<s>"
    """The target token that the decoder begins with."""
    end: str = "</s>"
    """The target token that ends an answer."""
    separator: str = ""
    """What is put between the target tokens of an answer."""
    beams: Annotated[int, AtLeast(1), AtMost(32)] = 4
    """How many beginnings of an answer are followed at once; 1 takes the likeliest token each time."""
    length_penalty: Annotated[float, AtLeast(0)] = 1.0
    """Answers are compared by the logarithm of their probability, divided by their length to this power."""
    max_length: Positive = 64
    """How many tokens an answer may have; one that has not ended by then says so."""
    answers: Positive = 1
    """How many answers are given, the best first: at most as many as `beams`."""
    limits: TextLimits = TextLimits()
    """What one request may cost."""

    def __post_init__(self) -> None:
        if self.answers > self.beams:
            raise ValueError(f"answers: at most {self.beams}, as `beams` says; raise that or lower this")


class Handler(TextHandler[Params]):
    """Answers `{"text", "log_probability", "ended"}`, with others as `alternatives` where they are wanted."""

    dynamic = {**RAGGED, "memory": {1: "tokens"}, "memory_mask": {1: "tokens"}}  # noqa: RUF012

    def setup(self) -> None:
        """Read the tokenizer and the target tokens."""
        super().setup()
        params = self.params
        self._targets = vocabulary(self.files / params.target)
        for name, token in (("start", params.start), ("end", params.end)):
            if token not in self._targets:
                raise ValueError(f"{name}: {token!r} is not a line of {params.target}")
        self._start, self._end = self._targets.index(params.start), self._targets.index(params.end)

    def infer(self, batch: Inputs) -> Outputs:
        """The best answers: `ids`, int64 (n, answers, tokens), and `log_probability`, float64 (n, answers).

        NONE fills up the shorter ids; the probability of an answer that there is not is NaN.
        """
        params = self.params
        found = beam_search(
            self._decoder,
            self.models["encoder"](batch),
            start=self._start,
            end=self._end,
            beams=params.beams,
            most=params.max_length,
            penalty=params.length_penalty,
        )
        ids = np.full((len(found), params.answers, params.max_length), NONE, dtype=np.int64)
        scores = np.full((len(found), params.answers), np.nan)
        for row, answers in enumerate(found):
            for place, answer in enumerate(answers[: params.answers]):
                ids[row, place, : len(answer.ids)] = answer.ids
                scores[row, place] = answer.log_probability
        return {"ids": ids, "log_probability": scores}

    def _decoder(self, inputs: Inputs) -> Outputs:
        found = self.models["decoder"](inputs)
        expected = (len(inputs["token"]), len(self._targets))
        known = {"logits", *(f"next_{name}" for name in inputs if name != "token")}
        if "logits" not in found or found["logits"].shape != expected or not known.issuperset(found):
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
            raise ValueError(
                f"the decoder gives {shapes}, expected logits {list(expected)}, as {self.params.target} has "
                f"{len(self._targets)} tokens, and of {', '.join(sorted(known - {'logits'}))} what changes"
            )
        return found

    def encode(self, output: Outputs, about: Any) -> dict[str, Any]:
        """The best answer, and others where they are wanted. Raises Refused (500) where there is none."""
        found = [
            self._answer(ids[ids != NONE].tolist(), float(score))
            for ids, score in zip(output["ids"], output["log_probability"], strict=True)
            if np.isfinite(score)
        ]
        if not found:
            raise not_finite("text")
        return {**found[0], **({"alternatives": found[1:]} if self.params.answers > 1 else {})}

    def _answer(self, ids: list[int], log_probability: float) -> dict[str, Any]:
        ended = ids[-1:] == [self._end]
        tokens = [self._targets[index] for index in (ids[:-1] if ended else ids)]
        return {
            "text": self.params.separator.join(tokens),
            "log_probability": round(log_probability, 5),
            "ended": ended,
        }

    def compare(self) -> Mapping[str, Any]:
        """Two answers say the same where their texts are the same, and about as likely."""
        return {"kind": "fields", "fields": {"text": {"kind": "exact"}}}

    def about(self) -> dict[str, Any]:
        """What may be sent, and how an answer is searched for."""
        about, params = super().about(), self.params
        return {
            **about,
            "limits": {**about["limits"], "max_length": params.max_length},
            "beams": params.beams,
            "answers": params.answers,
        }


# -- beam search --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Target ids, with the one that ends them where there is one, and the logarithm of their probability."""

    ids: Sequence[int]
    log_probability: float


def beam_search(
    decoder: Model,
    state: Mapping[str, Any],
    *,
    start: int,
    end: int,
    beams: int,
    most: int,
    penalty: float,
) -> list[list[Answer]]:
    """The best answers for each row of an encoder's arrays, the best first; [] where there are no numbers.

    Each step follows the `beams` likeliest beginnings. Those that end are put aside, and a row is done as
    soon as it has `beams` of them, or after `most` steps.
    """
    searches = [_Search(beams, penalty) for _ in next(iter(state.values()))]
    live = [*range(len(searches))]
    arrays = {name: np.repeat(array, beams, axis=0) for name, array in state.items()}
    tokens = np.full(len(live) * beams, start, dtype=np.int64)
    for _ in range(most):
        outputs = decoder({"token": tokens, **arrays})
        log_p = log_softmax(outputs["logits"]).reshape(len(live), beams, -1)
        rows, last, still = [], [], []
        for place, row in enumerate(live):
            kept = searches[row].step(log_p[place], end)
            if kept:
                still.append(row)
                rows += [place * beams + parent for parent, _ in kept]
                last += [token for _, token in kept]
        if not still:
            break
        live, tokens = still, np.array(last, dtype=np.int64)
        arrays = {name: outputs.get(f"next_{name}", array)[rows] for name, array in arrays.items()}
    return [search.answers() for search in searches]


class _Search:
    """The beginnings that are followed for one row, and the answers that were found."""

    def __init__(self, beams: int, penalty: float) -> None:
        self._beams, self._penalty = beams, penalty
        self._open = [Answer((), 0.0)] + [Answer((), -np.inf)] * (beams - 1)
        self._found: list[Answer] = []

    def step(self, log_p: Any, end: int) -> list[tuple[int, int]]:
        """Go one token further: for each beginning that is followed, which it was and its new token.

        `log_p` is float64 (beams, tokens). None are left where the row is done.
        """
        totals = np.array([one.log_probability for one in self._open])[:, None] + log_p
        if np.isnan(totals).any():
            self._open, self._found = [], []
            return []
        # Of twice as many the half at least does not end.
        order = np.argsort(-totals, axis=None, kind="stable")[: 2 * self._beams]
        going, kept = [], []
        for rank, (parent, token) in enumerate(zip(*np.unravel_index(order, totals.shape), strict=True)):
            answer = Answer((*self._open[parent].ids, int(token)), float(totals[parent, token]))
            if token != end:
                going.append(answer)
                kept.append((int(parent), int(token)))
            elif rank < self._beams and np.isfinite(answer.log_probability):
                self._found.append(answer)
            if len(going) == self._beams:
                break
        done = len(self._found) >= self._beams
        self._open = [] if done else going
        return [] if done else kept

    def answers(self) -> list[Answer]:
        """What was found, and what had not ended; those that cannot be come last, or not at all."""
        unfinished = [one for one in self._open if one.ids and np.isfinite(one.log_probability)]
        return sorted([*self._found, *unfinished], key=self._badness)

    def _badness(self, answer: Answer) -> float:
        return -answer.log_probability / float(len(answer.ids) ** self._penalty)


def log_softmax(logits: Any) -> Any:
    """Of the last axis, float64."""
    found = np.asarray(logits, dtype=np.float64)
    with np.errstate(all="ignore"):  # what is no number is told to its own request
        found = found - found.max(axis=-1, keepdims=True)
        return found - np.log(np.exp(found).sum(axis=-1, keepdims=True))
