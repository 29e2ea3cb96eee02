"""Remove whole channels of a module by torch-pruning, in steps with training between them.

Structured pruning (Fang et al., DepGraph, CVPR 2023): channels that depend on each other go together, those
with the smallest weights first, so that what is left is a smaller module and no masked one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..dataset import Example, labels_of
from ..errors import ExportError
from ..export import Progress
from ..finetune import Trainer, TrainingConfig, TrainingData, augmentation, training_data
from ..handler_code import ModelCode, handlers
from ..spec import ModelSource

_STEPS = 4  # of removing and training
_EPOCHS = 5
# Removals, each of so small a share of the channels that the wanted share is met closely; and all together.
_SMALL, _LARGEST = 200, 0.98


@dataclass(frozen=True)
class Pruned:
    """A pruned module, and what it had and has: multiply-adds of one instance, and parameters."""

    module: Any
    multiply_adds: tuple[int, int]
    parameters: tuple[int, int]


def prune(
    source: ModelSource,
    module: Any,
    handler: Any,
    code: ModelCode,
    examples: Sequence[Example],
    progress: Progress,
) -> Pruned:
    """Return a copy of a module without a share of its multiply-adds, trained on labelled examples.

    `compress` of `source` says how. `handler` answers with the module, and decodes the examples. Its outputs
    stay near those of the module while it is trained. One thread computes, so that the same inputs give the
    same weights. Raises ExportError, DatasetError.
    """
    import torch

    try:
        import torch_pruning
    except ModuleNotFoundError:
        raise ExportError("pruning needs torch-pruning: pip install 'torchmar[compress]'") from None
    labels_of(examples)
    how = source.spec.compress
    assert how is not None
    assert how.prune is not None
    epochs = how.epochs or _EPOCHS
    training = TrainingConfig(epochs=epochs, patience=epochs, distill=0.5, augment=how.augment or "")
    augment = augmentation(training.augment, source, code)
    data = training_data(handler, code, examples, training, augment)
    smaller = copy.deepcopy(module).requires_grad_(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with code.running(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            return _in_steps(torch_pruning, module, smaller, handler, data, how.prune, training, progress)
    finally:
        torch.set_num_threads(threads)


def _in_steps(
    torch_pruning: Any,
    module: Any,
    smaller: Any,
    handler: Any,
    data: TrainingData,
    share: float,
    training: TrainingConfig,
    progress: Progress,
) -> Pruned:
    batch = _batch(handler)
    around = _around(smaller, handler)
    before, parameters = torch_pruning.utils.count_ops_and_params(around, batch)
    shape = around(*batch).shape
    pruner = torch_pruning.pruner.MetaPruner(
        around,
        batch,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=_LARGEST,
        iterative_steps=_SMALL,
        ignored_layers=_last_layers(around, batch),
    )
    teacher = copy.deepcopy(module)
    taken, now = 0, before
    for step in range(1, _STEPS + 1):
        smaller.requires_grad_(True)  # the training before has frozen it
        most = before * (1 - share * step / _STEPS)
        while now > most:
            if taken == _SMALL:
                left = 1 - now / before
                raise ExportError(f"write `prune: {left:.2f}`: no more than that share can be removed")
            pruner.step()
            taken += 1
            now, left_parameters = torch_pruning.utils.count_ops_and_params(around, batch)
        if around(*batch).shape != shape:
            raise ExportError("leave `prune` out: pruning would change the shape of the outputs")

        def tell(text: str, step: int = step) -> None:
            progress(f"pruning, step {step} of {_STEPS}: {text}")

        tell(f"{1 - now / before:.0%} of the multiply-adds are gone")
        Trainer(smaller, data, training, teacher=teacher).run(tell)
    return Pruned(smaller, (int(before), int(now)), (int(parameters), int(left_parameters)))


def _batch(handler: Any) -> tuple[Any, ...]:
    import torch

    collated = handler.collate([handler.example()])
    return tuple(torch.from_numpy(array.copy()) for array in collated.values())


def _around(module: Any, handler: Any) -> Any:
    """Return a module that takes a batch as the handler makes it, and gives the only output."""
    import torch

    names = list(handler.collate([handler.example()]))
    differentiable: Callable[..., dict[str, Any]] = handlers("runtimes").differentiable

    class Around(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> Any:
            found = differentiable(self.module, handler, dict(zip(names, tensors, strict=True)))
            if len(found) != 1:
                raise ExportError(f"leave `prune` out: the module gives several outputs: {', '.join(found)}")
            return next(iter(found.values()))

    return Around().eval()


def _last_layers(around: Any, batch: tuple[Any, ...]) -> list[Any]:
    """Return the layer with weights that runs last: its channels are the outputs."""
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    ran: list[Any] = []
    hooks = [
        layer.register_forward_hook(lambda layer, _inputs, _output: ran.append(layer))
        for layer in around.modules()
        if isinstance(layer, kinds)
    ]
    try:
        around(*batch)
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1:]
