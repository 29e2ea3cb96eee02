"""Turn a model's outputs for a batch of texts into one vector for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Array = Any
Pooling = Literal["mean", "first", "max"]

_NAMES = ("sentence_embedding", "embedding", "embeddings", "last_hidden_state", "token_embeddings")


def require_takes(takes: Sequence[str]) -> None:
    """Raise ValueError unless a module takes padded ids, whose mask pooling needs."""
    if "input_ids" not in takes or "offsets" in takes:
        raise ValueError("takes: write input_ids, and attention_mask or token_type_ids if it takes them")


def graph_output(output: Any) -> dict[str, Any]:
    """Return the vectors alone of a module's output, for an exported graph."""
    from .runtimes import named_tensors

    return {"sentence_embedding": vectors(named_tensors(output))}


def vectors(outputs: Mapping[str, Any]) -> Any:
    """Return the array with the vectors, of texts (n, dimensions) or of tokens (n, tokens, dimensions).

    Works for tensors too. Raises ValueError if the right output is unclear.
    """
    names = [name for name in _NAMES if name in outputs] or list(outputs)
    if len(names) > 1 and names[0] not in _NAMES:
        known = ", ".join(_NAMES)
        raise ValueError(
            f"have the module give a dict with one of the names {known}: it gives {', '.join(names)}"
        )
    found = outputs[names[0]]
    if found.ndim not in {2, 3}:
        raise ValueError(
            f"the module gives {names[0]} of shape {tuple(found.shape)}, expected (texts, dimensions) or "
            "(texts, tokens, dimensions)"
        )
    return found


def pooled(found: Array, mask: Array, pooling: Pooling, *, normalize: bool) -> Array:
    """Return one vector for each text, float32 (n, dimensions), of length 1 with `normalize`.

    Pools vectors of tokens over the real tokens in `mask` (n, tokens).
    """
    found = found.astype(np.float32, copy=False)
    if found.ndim == 3:
        real = mask[:, :, None] > 0
        if pooling == "first":
            found = found[:, 0]
        elif pooling == "max":
            found = np.where(real, found, -np.inf).max(axis=1)
        else:
            found = np.where(real, found, 0).sum(axis=1) / real.sum(axis=1)
    if normalize:
        with np.errstate(all="ignore"):  # the request with NaN is refused later
            found = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    return found.astype(np.float32, copy=False)
