"""Summarise by extraction: a text in, its most central sentences out.

A sentence's centrality is its mean cosine to the others: LexRank's weighted degree centrality (Erkan and
Radev, 2004) of sentence embeddings. It works for any language that the model knows.
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
    """The limits of one request: its time grows with the sentences."""

    max_instances: Positive = 4
    """The most texts in one JSON request."""
    max_sentences: Positive = 100
    """The most sentences of one text."""


@dataclass(frozen=True)
class Params:
    """How sentences become vectors, and how many a summary keeps."""

    tokenizer: Tokenizer
    """How a sentence becomes the model's ids."""
    takes: tuple[Takes, ...] = TAKES
    """The module's inputs, in its order."""
    pooling: Pooling = "mean"
    """How to combine token vectors: their mean, the first one (of [CLS]), or the largest value of each
    dimension. A module that gives one vector per text needs none."""
    sentences: Positive = 3
    """How many sentences a summary has, unless the request says otherwise."""
    redundancy: Share = 0.9
    """A sentence whose cosine to a chosen one is higher repeats it, and is left out."""
    limits: Limits = Limits()
    """The limits of one request."""

    def __post_init__(self) -> None:
        require_takes(self.takes)


@dataclass(frozen=True)
class Wanted:
    """The sentences of one text, and how many of them to keep."""

    sentences: Sequence[str]
    count: int


class Handler(EncoderHandler[Params]):
    """Answers `{"summary": "…", "sentences": [{"text", "index", "centrality"}, …]}`, in the text's order.

    An instance is a text, and its sentences are the rows of a batch. The model is an embedder's.
    """

    batched = False
    dynamic = {name: {0: "sentences", 1: "tokens"} for name in ("input_ids", "attention_mask")}  # noqa: RUF012

    def example(self) -> Inputs:
        """Return two sentences of three tokens; an exported graph needs more than one to vary them."""
        return self._padded([np.arange(3) % self._tokens.size] * 2)

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return 2 to 5 random sentences of 2 to 16 tokens."""
        most = min(16, self.params.tokenizer.max_tokens)
        counts = generator.integers(min(2, most), most + 1, generator.integers(2, 6))
        return self._padded([generator.integers(0, self._tokens.size, count) for count in counts])

    def _padded(self, rows: Sequence[Any]) -> Inputs:
        return padded([{"input_ids": ids} for ids in rows], self.params.tokenizer.pad)

    def decode(self, request: Request) -> Decoded:
        """Decode one or several texts, each to its sentences' ids and mask, int64 (sentences, tokens)."""
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
        """Return the sentences of the only text."""
        [one] = instances
        return one

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return the vectors alone."""
        return graph_output(output)

    def infer(self, batch: Inputs) -> Outputs:
        """Return vectors of length 1 for ids, float32 (sentences, dimensions).

        Runs a few sentences of similar length at a time.
        """
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
        """Return all rows as the only text's."""
        return [outputs]

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Refuse outputs that are no vectors, or contain NaN or infinity."""
        require_finite(vectors(outputs), "sentences")
        return ()

    def encode(self, output: Outputs, about: Wanted | None) -> dict[str, Any]:
        """Return the most central sentences, in the text's order."""
        found = output["embedding"].astype(np.float64)
        if not np.isfinite(found).all():
            raise not_finite("text")
        about = about or Wanted([""] * len(found), self.params.sentences)  # a random instance
        cosines = found @ found.T
        centrality = (cosines.sum(axis=1) - 1) / max(len(cosines) - 1, 1)
        rows = [
            {"text": about.sentences[i], "index": i, "centrality": round(float(centrality[i]), 6)}
            for i in sorted(central(cosines, centrality, about.count, self.params.redundancy))
        ]
        return {"summary": " ".join(str(row["text"]) for row in rows), "sentences": rows}

    def compare(self) -> Mapping[str, Any]:
        """Compare by equal summaries."""
        return {"kind": "fields", "fields": {"summary": {"kind": "exact"}}}

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and how much a summary keeps."""
        return {**self.params.limits.about(), "sentences": self.params.sentences}


def central(cosines: Any, centrality: Any, count: int, redundancy: float) -> list[int]:
    """Return the indexes of the `count` most central sentences, without repetitions of earlier ones."""
    chosen: list[int] = []
    for i in np.argsort(-centrality, kind="stable").tolist():
        if len(chosen) == count:
            break
        if not chosen or cosines[i, chosen].max() <= redundancy:
            chosen.append(i)
    return chosen
