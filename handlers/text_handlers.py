"""Provide the common base of text handlers: texts to ids, and ids to a model's batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from .base import BatchHandler, Decoded, Inputs, Outputs, Request
from .texts import RAGGED, TOKENIZERS, Takes, TextLimits, Tokenizer, Tokens, as_taken, padded


class TextParams(Protocol):
    """The params that every task with texts has."""

    @property
    def tokenizer(self) -> Tokenizer:
        """How a text becomes ids."""
        ...

    @property
    def limits(self) -> TextLimits:
        """The limits of one request."""
        ...


class EncoderParams(TextParams, Protocol):
    """The params of a task whose module is a text encoder."""

    @property
    def takes(self) -> tuple[Takes, ...]:
        """The module's inputs, in its order."""
        ...


P = TypeVar("P", bound=TextParams)
E = TypeVar("E", bound=EncoderParams)


class TextHandler(BatchHandler[P]):
    """Handles texts: an instance is `input_ids`, int64 (tokens,); a batch also has `attention_mask`."""

    dynamic = RAGGED

    @property
    def requirements(self) -> Sequence[str]:  # type: ignore[override]
        """Return the library `tokenizers`, if the tokenizer is one of its files."""
        return (TOKENIZERS,) if self.params.tokenizer.file.endswith(".json") else ()

    def setup(self) -> None:
        """Read the tokenizer."""
        self._tokens = Tokens(self.params.tokenizer, self.files)

    def example(self) -> Inputs:
        """Return three tokens."""
        return self._tokens.example()

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return some random tokens."""
        return self._tokens.seeded(generator)

    def decode(self, request: Request) -> Decoded:
        """Decode one or several texts to ids, int64 (tokens,)."""
        instances, listed = self._tokens.instances(request, self.params.limits)
        return Decoded(instances, listed=listed)

    def collate(self, instances: Sequence[Inputs]) -> Inputs:
        """Pad the shorter texts, and mask the padding."""
        return padded(instances, self.params.tokenizer.pad)

    def counted(self, batch: Inputs, outputs: Outputs) -> Outputs:
        """Set token vectors of padding to zero, because no answer uses them."""
        mask = batch.get("attention_mask")
        if mask is None:
            return outputs
        return {
            name: np.where(mask[:, :, None] > 0, array, 0)
            if array.shape[:2] == mask.shape and array.ndim == 3
            else array
            for name, array in outputs.items()
        }

    def about(self) -> dict[str, Any]:
        """Return what callers may send."""
        about = self.params.limits.about()
        return {**about, "limits": {**about["limits"], "max_tokens": self.params.tokenizer.max_tokens}}


class EncoderHandler(TextHandler[E]):
    """Gives the module only the inputs of `takes`."""

    def prepare(self, batch: Inputs) -> Inputs:
        """Return the inputs of `takes`."""
        return as_taken(batch, self.params.takes, np)

    def graph_prefix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the inputs of `takes` as tensors."""
        import torch

        return as_taken(batch, self.params.takes, torch)
