"""Text classification: a text in, the likeliest labels with their probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .base import BatchHandler, Decoded, Inputs, Outputs, Request
from .classes import ranked, require_finite, require_labels
from .labels import read_labels
from .params import File, Positive
from .scores import only_scores, only_tensor, require_scores, rows_of_scores, to_probabilities
from .texts import RAGGED, TAKES, Takes, TextLimits, Tokenizer, Tokens, as_taken, padded


@dataclass(frozen=True)
class Params:
    """How a text becomes ids, and what the answer holds."""

    tokenizer: Tokenizer
    """How a text becomes the ids that the model takes."""
    takes: tuple[Takes, ...] = TAKES
    """What the module takes, in its order; beside `offsets`, `input_ids` are flat, for EmbeddingBag."""
    labels: File | None = None
    """A file beside model.yaml: .txt with one label a line, or .json with a list."""
    topk: Positive = 5
    """How many classes an answer lists, the likeliest first."""
    scores: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the module's outputs are. logits: their softmax are the probabilities. probabilities: they are
    taken as they are. sigmoid: logits of which each is a class of its own."""
    limits: TextLimits = TextLimits()
    """What one request may cost."""

    def __post_init__(self) -> None:
        if "input_ids" not in self.takes or len({*self.takes}) != len(self.takes):
            raise ValueError("takes: write each input once, and input_ids among them")
        if "offsets" in self.takes and {*self.takes} != {"input_ids", "offsets"}:
            raise ValueError("takes: beside offsets only input_ids can be given: [input_ids, offsets]")


class Handler(BatchHandler[Params]):
    """Answers `[{"label", "index", "probability"}, …]`, the likeliest first.

    The model takes what `takes` says, int64 (n, tokens), and gives scores (n, classes).
    """

    dynamic = RAGGED

    def setup(self) -> None:
        """Read the tokenizer and the labels."""
        params = self.params
        self._tokens = Tokens(params.tokenizer, self.files)
        self._labels = read_labels(params.labels, self.files) if params.labels else None

    def example(self) -> Inputs:
        """Three tokens."""
        return self._tokens.example()

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Some tokens by chance."""
        return self._tokens.seeded(generator)

    def decode(self, request: Request) -> Decoded:
        """A text, or several: the ids of each, int64 (tokens,)."""
        instances, listed = self._tokens.instances(request, self.params.limits)
        return Decoded(instances, listed=listed)

    def collate(self, instances: Sequence[Inputs]) -> Inputs:
        """Pad the shorter ones, and mask what is padded."""
        return padded(instances, self.params.tokenizer.pad)

    def prepare(self, batch: Inputs) -> Inputs:
        """What `takes` lists."""
        return as_taken(batch, self.params.takes, np)

    def graph_prefix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What `takes` lists, of tensors."""
        import torch

        return as_taken(batch, self.params.takes, torch)

    def graph_suffix(self, output: Any, count: int) -> Any:
        """The scores alone, float32 (n, classes)."""
        return {"scores": rows_of_scores(only_tensor(output), count)}

    def infer(self, batch: Inputs) -> Outputs:
        """Ids to probabilities, float64 (n, classes)."""
        scores = only_scores(self.model(batch), len(batch["input_ids"]))
        require_labels(self._labels, scores.shape[1], self.params.labels)
        return {"probabilities": to_probabilities(scores, self.params.scores)}

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Hold scores against `scores` and `labels`."""
        [scores] = outputs.values()
        require_finite(scores, "texts")
        require_scores(self.params.scores, scores, lambda: scores, squashed=squashed)
        require_labels(self._labels, scores.shape[1], self.params.labels)
        return ()

    def encode(self, output: Outputs, about: Any) -> list[dict[str, Any]]:
        """The k likeliest."""
        return ranked(output["probabilities"], self._labels, self.params.topk)

    def compare(self) -> Mapping[str, Any]:
        """Two answers say the same where the likeliest class is the same."""
        return {"kind": "first", "by": "index"}

    def about(self) -> dict[str, Any]:
        """What may be sent, and what the answer is made of."""
        limits, tokenizer = self.params.limits, self.params.tokenizer
        return {
            "accepts": ["text/plain", "application/json"],
            "limits": {
                "max_characters": limits.max_characters,
                "max_instances": limits.max_instances,
                "max_tokens": tokenizer.max_tokens,
            },
            "labels": self._labels,
            "topk": self.params.topk,
        }
