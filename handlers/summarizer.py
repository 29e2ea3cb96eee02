"""Extractive summaries: a text in, those of its sentences out that are nearest to all the others.

A sentence is as central as its mean cosine to the others is high: LexRank's degree centrality with weights
(Erkan and Radev, 2004), of sentence embeddings. It needs no language but the one that the model knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

from .base import Decoded, Inputs, Outputs, Refused, Request
from .classes import require_finite
from .embeddings import Pooling, graph_output, pooled, require_takes, vectors
from .params import Positive, Share
from .sentences import sentences
from .text_handlers import EncoderHandler
from .texts import TAKES, Takes, TextLimits, Tokenizer, asked, padded
from .worker.answers import not_finite

ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Limits(TextLimits):
    """What one request may cost: the time that it takes grows with the sentences."""

    max_instances: Positive = 4
    """Texts in one JSON request."""
    max_sentences: Positive = 100
    """Sentences of one text."""


@dataclass(frozen=True)
class Params:
    """How sentences become vectors, and how many are kept."""

    tokenizer: Tokenizer
    """How a sentence becomes the ids that the model takes."""
    takes: tuple[Takes, ...] = TAKES
    """What the module takes, in its order."""
    pooling: Pooling = "mean"
    """What becomes of vectors of tokens: their mean, the first one (of [CLS]), or the largest of each
    dimension. A module that gives a vector for each text has done it already."""
    sentences: Positive = 3
    """How many sentences a summary has where the request does not say."""
    redundancy: Share = 0.9
    """A sentence whose cosine to one that was chosen is higher says the same, and is left out."""
    limits: Limits = Limits()
    """What one request may cost."""

    def __post_init__(self) -> None:
        require_takes(self.takes)


@dataclass(frozen=True)
class Wanted:
    """The sentences of one text, and how many of them are to be kept."""

    sentences: Sequence[str]
    count: int


class Handler(EncoderHandler[Params]):
    """Answers `{"summary": "…", "sentences": [{"text", "index", "centrality"}, …]}`, in the text's order.

    An instance is a text, and its sentences are the rows of a batch. The model is an embedder's.
    """

    batched = False
    dynamic = {name: {0: "sentences", 1: "tokens"} for name in ("input_ids", "attention_mask")}  # noqa: RUF012

    def example(self) -> Inputs:
        """Two sentences of three tokens: more than one of each, as an exported graph needs to vary them."""
        return self._padded([np.arange(3) % self._tokens.size] * 2)

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """2 to 5 sentences of 2 to 16 tokens by chance."""
        most = min(16, self.params.tokenizer.max_tokens)
        counts = generator.integers(min(2, most), most + 1, generator.integers(2, 6))
        return self._padded([generator.integers(0, self._tokens.size, count) for count in counts])

    def _padded(self, rows: Sequence[Any]) -> Inputs:
        return padded([{"input_ids": ids} for ids in rows], self.params.tokenizer.pad)

    def decode(self, request: Request) -> Decoded:
        """A text, or several: the ids of its sentences and their mask, int64 (sentences, tokens)."""
        limits = self.params.limits
        rows, listed = asked(request, limits, ["sentences"])
        instances, about = [], []
        for i, row in enumerate(rows):
            where = f"instances[{i}]: " if listed else ""
            count = row.get("sentences", self.params.sentences)
            if (
                isinstance(count, bool)
                or not isinstance(count, int)
                or not 1 <= count <= limits.max_sentences
            ):
                raise Refused(f"{where}sentences: expected a number from 1 to {limits.max_sentences}")
            found = sentences(row["text"])
            if len(found) > limits.max_sentences:
                raise Refused(
                    f"{where}{len(found):,} sentences, at most {limits.max_sentences:,} are allowed",
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                )
            instances.append(self._padded([self._tokens(each, where) for each in found]))
            about.append(Wanted(found, count))
        return Decoded(instances, about, listed=listed)

    def collate(self, instances: Sequence[Inputs]) -> Inputs:
        """The sentences of the only text."""
        [one] = instances
        return one

    def graph_suffix(self, output: Any, count: int) -> Any:
        """The vectors alone."""
        return graph_output(output)

    def infer(self, batch: Inputs) -> Outputs:
        """Ids to vectors of length 1, float32 (sentences, dimensions); a few of like length at a time."""
        lengths = batch["attention_mask"].sum(1)
        order = np.argsort(lengths, kind="stable")
        parts = [order[start : start + ROWS_AT_ONCE] for start in range(0, len(order), ROWS_AT_ONCE)]
        found = [self._vectors(batch, rows, int(lengths[rows].max())) for rows in parts]
        return {"embedding": np.concatenate(found)[np.argsort(order, kind="stable")]}

    def _vectors(self, batch: Inputs, rows: Any, tokens: int) -> Any:
        part = {name: array[rows, :tokens] for name, array in batch.items()}
        found = vectors(self.model(part))
        return pooled(found, part["attention_mask"], self.params.pooling, normalize=True)

    def split(self, outputs: Outputs, count: int) -> Sequence[Outputs]:
        """All rows are the only text's."""
        return [outputs]

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Refuse outputs that are no vectors, or no numbers."""
        require_finite(vectors(outputs), "sentences")
        return ()

    def encode(self, output: Outputs, about: Wanted | None) -> dict[str, Any]:
        """The most central sentences, in the text's order."""
        found = output["embedding"].astype(np.float64)
        if not np.isfinite(found).all():
            raise not_finite("text")
        about = about or Wanted([""] * len(found), self.params.sentences)  # of an instance drawn by chance
        cosines = found @ found.T
        centrality = (cosines.sum(axis=1) - 1) / max(len(cosines) - 1, 1)
        rows = [
            {"text": about.sentences[i], "index": i, "centrality": round(float(centrality[i]), 6)}
            for i in sorted(central(cosines, centrality, about.count, self.params.redundancy))
        ]
        return {"summary": " ".join(str(row["text"]) for row in rows), "sentences": rows}

    def compare(self) -> Mapping[str, Any]:
        """Two summaries say the same where their text is the same."""
        return {"kind": "fields", "fields": {"summary": {"kind": "exact"}}}

    def about(self) -> dict[str, Any]:
        """What may be sent, and how much of it is kept."""
        return {**self.params.limits.about(), "sentences": self.params.sentences}


def central(cosines: Any, centrality: Any, count: int, redundancy: float) -> list[int]:
    """The indexes of the `count` most central sentences, without those that say what one before says."""
    chosen: list[int] = []
    for i in np.argsort(-centrality, kind="stable").tolist():
        if len(chosen) == count:
            break
        if not chosen or cosines[i, chosen].max() <= redundancy:
            chosen.append(i)
    return chosen
