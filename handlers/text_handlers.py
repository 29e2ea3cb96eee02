"""What the handlers of texts share: a text becomes ids, and a batch of them what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from .base import BatchHandler, Decoded, Inputs, Outputs, Request
from .texts import RAGGED, TOKENIZERS, Takes, TextLimits, Tokenizer, Tokens, as_taken, padded


class TextParams(Protocol):
    """The params of a task with texts have these."""

    @property
    def tokenizer(self) -> Tokenizer:
        """How a text becomes ids."""
        ...

    @property
    def limits(self) -> TextLimits:
        """What one request may cost."""
        ...


class EncoderParams(TextParams, Protocol):
    """Those of a task whose module is a text encoder have this besides."""

    @property
    def takes(self) -> tuple[Takes, ...]:
        """What the module takes, in its order."""
        ...


P = TypeVar("P", bound=TextParams)
E = TypeVar("E", bound=EncoderParams)


class TextHandler(BatchHandler[P]):
    """An instance is a text, `input_ids` int64 (tokens,); a batch has `input_ids` and `attention_mask`."""

    dynamic = RAGGED

    @property
    def requirements(self) -> Sequence[str]:  # type: ignore[override]
        """The library `tokenizers`, where the tokenizer is a file of its."""
        return (TOKENIZERS,) if self.params.tokenizer.file.endswith(".json") else ()

    def setup(self) -> None:
        """Read the tokenizer."""
        self._tokens = Tokens(self.params.tokenizer, self.files)

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

    def counted(self, batch: Inputs, outputs: Outputs) -> Outputs:
        """Vectors of tokens without those of what is padded, which nothing is made of."""
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
        """What may be sent."""
        about = self.params.limits.about()
        return {**about, "limits": {**about["limits"], "max_tokens": self.params.tokenizer.max_tokens}}


class EncoderHandler(TextHandler[E]):
    """The module takes of such a batch what `takes` lists."""

    def prepare(self, batch: Inputs) -> Inputs:
        """What `takes` lists."""
        return as_taken(batch, self.params.takes, np)

    def graph_prefix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What `takes` lists, of tensors."""
        import torch

        return as_taken(batch, self.params.takes, torch)
