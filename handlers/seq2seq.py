"""Translate sequences: a text in, the likeliest text out, by an encoder and a decoder with beam search.

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
"""Marks a position without a token."""


@dataclass(frozen=True)
class Params:
    """How a text becomes ids, and ids become a text."""

    tokenizer: Tokenizer
    """How the source text becomes ids."""
    target: File
    """A .txt with one target token per line; the first has the id 0."""
    start: str = "<s>"
    """The decoder's first target token."""
    end: str = "</s>"
    """The target token that ends an answer."""
    separator: str = ""
    """The text between the target tokens of an answer."""
    beams: Annotated[int, AtLeast(1), AtMost(32)] = 4
    """How many beginnings of an answer the search follows; 1 takes the likeliest token each time."""
    length_penalty: Annotated[float, AtLeast(0)] = 1.0
    """Answers compare by their log probability, divided by their length to this power."""
    max_length: Positive = 64
    """The most tokens of an answer; one that has not ended by then says so."""
    answers: Positive = 1
    """How many answers to return, the best first; at most `beams`."""
    limits: TextLimits = TextLimits()
    """The limits of one request."""

    def __post_init__(self) -> None:
        if self.answers > self.beams:
            raise ValueError(f"answers: at most {self.beams}, as `beams` says; raise that or lower this")


class Handler(TextHandler[Params]):
    """Answers `{"text", "log_probability", "ended"}`, with further ones as `alternatives` if wanted."""

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
        """Return the best answers and their probabilities.

        They are `ids`, int64 (n, answers, tokens), padded with NONE, and `log_probability`, float64 (n,
        answers), NaN for a missing answer.
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
        """Return the best answer, and others if wanted. Raises Refused (500) if there is none."""
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
        """Compare by equal texts with similar probabilities."""
        return {"kind": "fields", "fields": {"text": {"kind": "exact"}}}

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and how the search works."""
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
    """Target ids, with the end token if there is one, and the logarithm of their probability."""

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
    """Return the best answers for each row of an encoder's arrays, the best first; [] without finite numbers.

    Each step follows the `beams` likeliest beginnings and puts ended ones aside. A row is done when it has
    `beams` of those, or after `most` steps.
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
    """One row's search: the beginnings that it follows, and the answers that it found."""

    def __init__(self, beams: int, penalty: float) -> None:
        self._beams, self._penalty = beams, penalty
        self._open = [Answer((), 0.0)] + [Answer((), -np.inf)] * (beams - 1)
        self._found: list[Answer] = []

    def step(self, log_p: Any, end: int) -> list[tuple[int, int]]:
        """Advance by one token; returns each followed beginning's parent and new token.

        `log_p` is float64 (beams, tokens). Returns none if the row is done.
        """
        totals = np.array([one.log_probability for one in self._open])[:, None] + log_p
        if np.isnan(totals).any():
            self._open, self._found = [], []
            return []
        # At least half of twice as many do not end.
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
        """Return the found answers and the unfinished ones, best first; drops impossible ones."""
        unfinished = [one for one in self._open if one.ids and np.isfinite(one.log_probability)]
        return sorted([*self._found, *unfinished], key=self._badness)

    def _badness(self, answer: Answer) -> float:
        return -answer.log_probability / float(len(answer.ids) ** self._penalty)


def log_softmax(logits: Any) -> Any:
    """Return the log softmax over the last axis, float64."""
    found = np.asarray(logits, dtype=np.float64)
    with np.errstate(all="ignore"):  # the request with NaN or infinity is refused later
        found = found - found.max(axis=-1, keepdims=True)
        return found - np.log(np.exp(found).sum(axis=-1, keepdims=True))
