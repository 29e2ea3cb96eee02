"""Detect what a module computes last, so that a handler does not repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..handler_code import FAILURES, ModelCode, handlers

if TYPE_CHECKING:
    import torch

_SQUASHING = {"aten::sigmoid", "aten::sigmoid_", "aten::hardsigmoid", "aten::softmax", "aten::_softmax"}
# These keep probabilities if all their inputs are probabilities.
_KEEPING = {
    *("aten::cat", "aten::concat", "aten::stack", "aten::clone", "aten::contiguous", "aten::index"),
    *("aten::index_select", "aten::to", "aten::_to_copy", "aten::mean", "aten::clamp", "aten::clamp_"),
    *("aten::clamp_min", "aten::clamp_max", "aten::clip"),
}


def ends_squashed(
    module: torch.nn.Module, handler: Any, inputs: Mapping[str, torch.Tensor], model_code: ModelCode
) -> bool:
    """Return whether a module ends with a sigmoid or a softmax; False if that cannot be observed.

    Copying, joining, averaging or clipping the results afterwards does not count.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.results: list[torch.Tensor] = []  # kept alive, so that no other tensor gets their memory

        def has(self, tensor: torch.Tensor) -> bool:
            memory = tensor.untyped_storage().data_ptr()
            return any(result.untyped_storage().data_ptr() == memory for result in self.results)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = func._schema.name
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            scores = [tensor for tensor in given if tensor.is_floating_point()]  # leaves out indexes
            if name in _SQUASHING or (name in _KEEPING and scores and all(map(self.has, scores))):
                self.results.append(result)
            return result

    watch = Watch()
    with suppress(*FAILURES), model_code.running(), torch.inference_mode():
        prepared = handler.graph_prefix(dict(inputs))
        with watch:
            outputs = handlers("runtimes").finished(module, handler, prepared, inputs)
        return all(map(watch.has, outputs.values()))
    return False
