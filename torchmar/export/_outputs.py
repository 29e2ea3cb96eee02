"""What a module does last, for a handler that must not do it once more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..guests import FAILURES, Guest, handlers

if TYPE_CHECKING:
    import torch

_SQUASHING = {"aten::sigmoid", "aten::sigmoid_", "aten::hardsigmoid", "aten::softmax", "aten::_softmax"}
# What still gives probabilities where it is given nothing else.
_KEEPING = {
    *("aten::cat", "aten::concat", "aten::stack", "aten::clone", "aten::contiguous", "aten::index"),
    *("aten::index_select", "aten::to", "aten::_to_copy", "aten::mean", "aten::clamp", "aten::clamp_"),
    *("aten::clamp_min", "aten::clamp_max", "aten::clip"),
}


def ends_squashed(
    module: torch.nn.Module, handler: Any, inputs: Mapping[str, torch.Tensor], guest: Guest
) -> bool:
    """Whether the last thing that a module does is a sigmoid or a softmax; False where it cannot be seen.

    What only copies, joins, averages or clips their results is not counted.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.results: list[torch.Tensor] = []  # kept, or their memory would be given to others

        def has(self, tensor: torch.Tensor) -> bool:
            memory = tensor.untyped_storage().data_ptr()
            return any(result.untyped_storage().data_ptr() == memory for result in self.results)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = func._schema.name
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            scores = [tensor for tensor in given if tensor.is_floating_point()]  # and no indexes
            if name in _SQUASHING or (name in _KEEPING and scores and all(map(self.has, scores))):
                self.results.append(result)
            return result

    watch = Watch()
    with suppress(*FAILURES), guest.running(), torch.inference_mode():
        prepared = handler.graph_prefix(dict(inputs))
        with watch:
            outputs = handlers("runtimes").finished(module, handler, prepared, inputs)
        return all(map(watch.has, outputs.values()))
    return False
