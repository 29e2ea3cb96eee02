"""Embed texts: a text in, a vector out that is near to those of texts with the same meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .base import Inputs, Outputs
from .classes import require_finite
from .embeddings import Pooling, graph_output, pooled, require_takes, vectors
from .text_handlers import EncoderHandler
from .texts import TAKES, Takes, TextLimits, Tokenizer
from .worker.answers import not_finite


@dataclass(frozen=True)
class Params:
    """How a text becomes ids, and the model's outputs become one vector."""

    tokenizer: Tokenizer
    """How a text becomes the model's ids."""
    takes: tuple[Takes, ...] = TAKES
    """The module's inputs, in its order."""
    pooling: Pooling = "mean"
    """How to combine token vectors: their mean, the first one (of [CLS]), or the largest value of each
    dimension. A module that gives one vector per text needs none."""
    normalize: bool = True
    """Whether to scale vectors to length 1: the product of two is then their cosine."""
    limits: TextLimits = TextLimits()
    """The limits of one request."""

    def __post_init__(self) -> None:
        require_takes(self.takes)


class Handler(EncoderHandler[Params]):
    """Answers a list of numbers.

    The model takes the inputs of `takes`, int64 (n, tokens), and gives vectors (n, dimensions), or one per
    token (n, tokens, dimensions).
    """

    def setup(self) -> None:
        """Read the tokenizer."""
        super().setup()
        self._dimensions: int | None = None

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return the vectors alone."""
        return graph_output(output)

    def infer(self, batch: Inputs) -> Outputs:
        """Return vectors for ids, float32 (n, dimensions)."""
        params = self.params
        found = vectors(self.model(batch))
        return {
            "embedding": pooled(found, batch["attention_mask"], params.pooling, normalize=params.normalize)
        }

    def warm_up(self) -> None:
        """Infer the example, and record a vector's dimensions."""
        self._dimensions = self.infer(self.collate([self.example()]))["embedding"].shape[1]

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Refuse outputs that are no vectors, or contain NaN or infinity."""
        require_finite(vectors(outputs), "texts")
        return ()

    def encode(self, output: Outputs, about: Any) -> list[float]:
        """Return the vector. Raises Refused (500) for NaN or infinity."""
        return numbers(output["embedding"])

    def compare(self) -> Mapping[str, Any]:
        """Compare by the vectors' direction."""
        return {"kind": "cosine", "min": 0.999}

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and an answer's length."""
        return {
            **super().about(),
            "dimensions": self._dimensions,
            "normalized": self.params.normalize,
        }


def numbers(vector: Any) -> list[float]:
    """Return a float32 vector for JSON, with no more digits than float32 has. Raises Refused (500)."""
    if not np.isfinite(vector).all():
        raise not_finite("text")
    return [float(str(number)) for number in vector.astype(np.float32)]
