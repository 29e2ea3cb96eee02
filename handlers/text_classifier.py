"""Classify texts: a text in, the likeliest labels with their probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .base import Inputs, Outputs
from .classes import SAME_CLASS, one_hot, ranked, require_finite, require_labels
from .labels import read_labels
from .params import File, Positive
from .scores import only_scores, only_tensor, require_scores, rows_of_scores, to_probabilities
from .text_handlers import EncoderHandler
from .texts import TAKES, Takes, TextLimits, Tokenizer


@dataclass(frozen=True)
class Params:
    """How a text becomes ids, and what the answer holds."""

    tokenizer: Tokenizer
    """How a text becomes the model's ids."""
    takes: tuple[Takes, ...] = TAKES
    """The module's inputs, in its order; with `offsets`, `input_ids` are flat, for EmbeddingBag."""
    labels: File | None = None
    """A file beside model.yaml: .txt with one label per line, or .json with a list, {"0": "cat", …} or
    {"cat": 0, …}."""
    topk: Positive = 5
    """How many classes an answer lists, the likeliest first."""
    scores: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the module's outputs are. logits: their softmax gives the probabilities. probabilities: they stay
    unchanged. sigmoid: logits of independent classes."""
    limits: TextLimits = TextLimits()
    """The limits of one request."""

    def __post_init__(self) -> None:
        if "input_ids" not in self.takes or len({*self.takes}) != len(self.takes):
            raise ValueError("takes: write each input once, and input_ids among them")
        if "offsets" in self.takes and {*self.takes} != {"input_ids", "offsets"}:
            raise ValueError("takes: beside offsets only input_ids can be given: [input_ids, offsets]")


class Handler(EncoderHandler[Params]):
    """Answers `[{"label", "index", "probability"}, …]`, the likeliest first.

    The model takes the inputs of `takes`, int64 (n, tokens), and gives scores (n, classes).
    """

    def setup(self) -> None:
        """Read the tokenizer and the labels."""
        super().setup()
        labels = self.params.labels
        self._labels = read_labels(labels, self.files) if labels else None

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return the scores alone, float32 (n, classes)."""
        return {"scores": rows_of_scores(only_tensor(output), count)}

    def infer(self, batch: Inputs) -> Outputs:
        """Return probabilities for ids, float64 (n, classes)."""
        scores = only_scores(self.model(batch), len(batch["input_ids"]))
        require_labels(self._labels, scores.shape[1], self.params.labels)
        return {"probabilities": to_probabilities(scores, self.params.scores)}

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check the scores against `scores` and `labels`."""
        [scores] = outputs.values()
        require_finite(scores, "texts")
        require_scores(self.params.scores, scores, lambda: scores, squashed=squashed)
        require_labels(self._labels, scores.shape[1], self.params.labels)
        return ()

    def encode(self, output: Outputs, about: Any) -> list[dict[str, Any]]:
        """Return the k likeliest classes."""
        return ranked(output["probabilities"], self._labels, self.params.topk)

    def target(self, label: Any, output: Outputs) -> Outputs:
        """Return 1 for the label's class and 0 for the others: (classes,)."""
        return {"probabilities": one_hot(label, self._labels, len(output["probabilities"]))}

    def compare(self) -> Mapping[str, Any]:
        """Compare by the likeliest class and its label."""
        return SAME_CLASS

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and what the answer contains."""
        return {**super().about(), "labels": self._labels, "topk": self.params.topk}
