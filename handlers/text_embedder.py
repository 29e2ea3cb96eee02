"""Text embedding: a text in, a vector out that is near to those of texts which mean the same."""

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
    """How a text becomes ids, and the model's outputs one vector."""

    tokenizer: Tokenizer
    """How a text becomes the ids that the model takes."""
    takes: tuple[Takes, ...] = TAKES
    """What the module takes, in its order."""
    pooling: Pooling = "mean"
    """What becomes of vectors of tokens: their mean, the first one (of [CLS]), or the largest of each
    dimension. A module that gives a vector for each text has done it already."""
    normalize: bool = True
    """Whether a vector is scaled to the length 1: then the product of two is their cosine."""
    limits: TextLimits = TextLimits()
    """What one request may cost."""

    def __post_init__(self) -> None:
        require_takes(self.takes)


class Handler(EncoderHandler[Params]):
    """Answers a list of numbers.

    The model takes what `takes` says, int64 (n, tokens), and gives vectors (n, dimensions), or of each token
    (n, tokens, dimensions).
    """

    def setup(self) -> None:
        """Read the tokenizer."""
        super().setup()
        self._dimensions: int | None = None

    def graph_suffix(self, output: Any, count: int) -> Any:
        """The vectors alone."""
        return graph_output(output)

    def infer(self, batch: Inputs) -> Outputs:
        """Ids to vectors, float32 (n, dimensions)."""
        params = self.params
        found = vectors(self.model(batch))
        return {
            "embedding": pooled(found, batch["attention_mask"], params.pooling, normalize=params.normalize)
        }

    def warm_up(self) -> None:
        """Infer the example, and see how many dimensions a vector has."""
        self._dimensions = self.infer(self.collate([self.example()]))["embedding"].shape[1]

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Refuse outputs that are no vectors, or no numbers."""
        require_finite(vectors(outputs), "texts")
        return ()

    def encode(self, output: Outputs, about: Any) -> list[float]:
        """The vector. Raises Refused (500) where it holds no numbers."""
        return numbers(output["embedding"])

    def compare(self) -> Mapping[str, Any]:
        """Two vectors say the same where they point the same way."""
        return {"kind": "cosine", "min": 0.999}

    def about(self) -> dict[str, Any]:
        """What may be sent, and how long an answer is."""
        return {
            **super().about(),
            "dimensions": self._dimensions,
            "normalized": self.params.normalize,
        }


def numbers(vector: Any) -> list[float]:
    """A float32 vector as JSON holds it, in no more digits than float32 has. Raises Refused (500)."""
    if not np.isfinite(vector).all():
        raise not_finite("text")
    return [float(str(number)) for number in vector.astype(np.float32)]
