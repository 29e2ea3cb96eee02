"""Text embedding: a text in, a vector out that is near to those of texts which mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np

from .base import BatchHandler, Decoded, Inputs, Outputs, Refused, Request
from .classes import require_finite
from .embeddings import Pooling, pooled, vectors
from .texts import RAGGED, TAKES, Takes, TextLimits, Tokenizer, Tokens, as_taken, padded


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
        if "input_ids" not in self.takes or "offsets" in self.takes:
            raise ValueError(
                "takes: write input_ids, and attention_mask or token_type_ids where it takes them"
            )


class Handler(BatchHandler[Params]):
    """Answers a list of numbers.

    The model takes what `takes` says, int64 (n, tokens), and gives vectors (n, dimensions), or of each token
    (n, tokens, dimensions).
    """

    dynamic = RAGGED

    def setup(self) -> None:
        """Read the tokenizer."""
        self._tokens = Tokens(self.params.tokenizer, self.files)
        self._dimensions: int | None = None

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
        """The vectors alone."""
        from .runtimes import named_tensors

        return {"sentence_embedding": vectors(named_tensors(output))}

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
        limits, tokenizer = self.params.limits, self.params.tokenizer
        return {
            "accepts": ["text/plain", "application/json"],
            "limits": {
                "max_characters": limits.max_characters,
                "max_instances": limits.max_instances,
                "max_tokens": tokenizer.max_tokens,
            },
            "dimensions": self._dimensions,
            "normalized": self.params.normalize,
        }


def numbers(vector: Any) -> list[float]:
    """A float32 vector as JSON holds it, in no more digits than float32 has. Raises Refused (500)."""
    if not np.isfinite(vector).all():
        raise Refused(
            "the output could not be encoded: for this text the model gives NaN or infinity",
            HTTPStatus.INTERNAL_SERVER_ERROR,
        )
    return [float(str(number)) for number in vector.astype(np.float32)]
