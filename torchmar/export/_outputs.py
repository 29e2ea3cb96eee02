"""What a module answers: one row of scores for each picture, and what kind of scores they are."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import ExportError
from ..guests import handlers
from ..spec import ModelSource
from ._guest import FAILURES, Guest, explained

if TYPE_CHECKING:
    import torch

_SUM = 1e-3  # how far rounding may bring probabilities, and their sum, from what they are
_SQUASHING = {"aten::sigmoid", "aten::sigmoid_", "aten::hardsigmoid", "aten::softmax", "aten::_softmax"}
# What still gives probabilities where it is given nothing else.
_KEEPING = {
    *("aten::cat", "aten::concat", "aten::stack", "aten::clone", "aten::contiguous", "aten::index"),
    *("aten::index_select", "aten::to", "aten::_to_copy", "aten::mean", "aten::clamp", "aten::clamp_"),
    *("aten::clamp_min", "aten::clamp_max", "aten::clip"),
}


def run_module(source: ModelSource, module: torch.nn.Module, inputs: torch.Tensor, guest: Guest) -> Any:
    """The module's outputs, float32 (n, outputs). Raises ExportError."""
    import torch

    runtimes = handlers("runtimes")
    try:
        with guest.running(), torch.inference_mode():
            output = module(inputs)
    except FAILURES as error:
        why = explained(source, error)
        kinds = {str(one.dtype).removeprefix("torch.") for one in module.parameters()} - {"float32"}
        if kinds:
            why = f"pictures are float32, the weights {', '.join(sorted(kinds))}: end with `.float()`: {why}"
        raise ExportError(f"the module fails on inputs of shape {list(inputs.shape)}: {why}") from error
    expected = f"scores of shape [{len(inputs)}, classes]"
    try:
        tensor = runtimes.only_tensor(output)
        shape = list(tensor.shape)
        # What a batch of one may lack, and what has no more numbers than that, can be put right.
        if len(inputs) != (shape or [0])[0] or any(size != 1 for size in shape[2:]) or 0 in shape:
            raise ValueError(f"{shape}")
        return runtimes.rows_of(tensor, len(inputs)).cpu().numpy()
    except Exception as error:
        what = f"let `forward` return {expected}: the module gives {str(error) or type(error).__name__}"
        raise ExportError(f"{source.spec.name}: {what}") from error


def require_scores(source: ModelSource, outputs: Any, *, squashed: bool) -> None:
    """Raise ExportError where outputs (n, outputs) are not what `output.scores` says that they are.

    `squashed` tells that the last thing the module does is a sigmoid or a softmax.
    """
    import numpy as np

    name, scores = source.spec.name, source.spec.output.scores
    if not np.isfinite(outputs).all():
        found = sorted({str(value) for value in outputs[~np.isfinite(outputs)].ravel()[:100]})
        bad = int((~np.isfinite(outputs).all(axis=-1)).sum())
        raise ExportError(
            f"{name}: check the weights, and `mean` and `std`: for {bad} of {len(outputs)} pictures the "
            f"module gives {', '.join(found)}"
        )
    within = bool((outputs >= 0).all() and (outputs <= 1).all())
    shares = within and outputs.shape[1] > 1 and bool((np.abs(outputs.sum(axis=-1) - 1) <= _SUM).all())
    if scores == "probabilities" and not (outputs.min() >= -_SUM and outputs.max() <= 1 + _SUM):
        raise ExportError(
            f"{name}: write `output: {{scores: logits}}`, or `sigmoid` if each output is a class of its own: "
            f"outputs lie from {outputs.min():.4g} to {outputs.max():.4g}, and probabilities from 0 to 1"
        )
    if scores != "probabilities" and (shares or (within and squashed)):
        taken = "softmax" if scores == "logits" else "sigmoid"
        raise ExportError(
            f"{name}: write `output: {{scores: probabilities}}`, or leave the module's last layer out: its "
            f"outputs are probabilities already, and their {taken} would be taken once more"
        )
    if scores == "logits" and outputs.shape[1] == 1:
        raise ExportError(
            f"{name}: write `output: {{scores: sigmoid}}` if the module's one output is a logit, "
            "`probabilities` if it is a probability, or let it give an output for each class: the softmax of "
            "one output is always 1"
        )


def ends_squashed(module: torch.nn.Module, inputs: torch.Tensor, guest: Guest) -> bool:
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
    with suppress(*FAILURES), guest.running(), torch.inference_mode(), watch:
        # A copy: a module may change what it is given in place.
        return watch.has(handlers("runtimes").only_tensor(module(inputs.clone())))
    return False


def require_labels(source: ModelSource, outputs: Any) -> None:
    """Raise ExportError where the labels are not as many as the classes of outputs (n, outputs)."""
    labels = source.labels()
    number = 2 if outputs.shape[1] == 1 else outputs.shape[1]
    if labels is not None and len(labels) != number:
        told = "one output, which is two classes" if outputs.shape[1] == 1 else f"{number} classes"
        raise ExportError(
            f"{source.spec.name}: the module has {told}, `labels: {source.spec.labels}` names {len(labels)}"
        )
