"""Turn labelled requests into what a module takes and what it should give."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..dataset import Example
from ..errors import DatasetError
from ..golden import passed_on
from ..handler_code import FAILURES, ModelCode, handlers
from ._augment import Augment, unchanged
from ._config import TrainingConfig


@dataclass(frozen=True)
class Instance:
    """One example as the handler decodes it: named arrays, and the array that its label stands for."""

    inputs: Any
    target: Any


@dataclass(frozen=True)
class TrainingData:
    """What to train on: examples to learn from, and others that are held out.

    `handler` decodes and batches them, and `code` runs what is the model's own. `classes` says that each
    label is a class, and `scores` what a classifier's outputs are (handlers/scores.py). `augment` changes a
    batch that is learned from.
    """

    handler: Any
    code: ModelCode
    learned: Sequence[Instance]
    held_out: Sequence[Instance]
    classes: bool
    scores: str
    augment: Augment = unchanged


def training_data(
    handler: Any,
    code: ModelCode,
    examples: Sequence[Example],
    training: TrainingConfig,
    augment: Augment = unchanged,
) -> TrainingData:
    """Return labelled examples, decoded by a handler that can answer. Raises DatasetError."""
    with code.running():
        found = instances(handler, examples)
    learned, held_out = split(found, training.held_out, training.seed)
    scores = str(getattr(handler.params, "scores", ""))
    return TrainingData(handler, code, learned, held_out, are_classes(found), scores, augment)


def are_classes(found: Sequence[Instance]) -> bool:
    """Return whether each target is 1 for one class, and 0 for the others."""
    import numpy as np

    return all(
        one.target.ndim == 1
        and len(one.target) > 1
        and np.count_nonzero(one.target) == 1
        and one.target.max() == 1
        for one in found
    )


def instances(handler: Any, examples: Sequence[Example]) -> list[Instance]:
    """Return the examples, decoded, with their targets. Raises DatasetError with the name of a faulty one."""
    base, found = handlers("base"), []
    output: Any = None
    for example in examples:
        try:
            decoded = handler.decode(base.Request(passed_on(example.read(), example.content_type), {}))
        except base.Refused as error:
            raise DatasetError(f"{example.name}: {error.reason}") from None
        if len(decoded.instances) != 1:
            raise DatasetError(f"{example.name}: expected one instance, found {len(decoded.instances)}")
        inputs = decoded.instances[0]
        if output is None:
            [output] = handler.split(handler.infer(handler.collate([inputs])), 1)
        found.append(Instance(inputs, _target(handler, example, output)))
    return found


def _target(handler: Any, example: Example, output: Any) -> Any:
    try:
        target = handler.target(example.label, output)
    except FAILURES as error:
        raise DatasetError(f"{example.name}: {error}") from None
    if target is None or len(target) != 1:
        raise DatasetError(
            f"give its handler a method `target`, which says what a label means: {type(handler).__name__} "
            "has none with one output, so nothing can be trained"
        )
    return next(iter(target.values()))


def split(found: Sequence[Instance], share: float, seed: int) -> tuple[list[Instance], list[Instance]]:
    """Return what to train on, and what is held out: at least one of each. Raises DatasetError."""
    if len(found) < 2:
        raise DatasetError("give at least two examples: one to train on, and one that is held out")
    order = list(range(len(found)))
    random.Random(seed).shuffle(order)  # noqa: S311 (no secret)
    count = min(len(found) - 1, max(1, round(share * len(found))))
    return [found[n] for n in sorted(order[count:])], [found[n] for n in sorted(order[:count])]


def batches(
    handler: Any, found: Sequence[Instance], size: int, order: Sequence[int]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield batches in that order, as tensors: what the module takes, and what it should give."""
    import numpy as np
    import torch

    for start in range(0, len(order), size):
        chosen = [found[n] for n in order[start : start + size]]
        for alike in handler.alike([one.inputs for one in chosen]):
            members = [chosen[n] for n in alike]
            inputs = handler.collate([one.inputs for one in members])
            target = torch.from_numpy(np.stack([np.asarray(one.target, dtype=np.float32) for one in members]))
            yield {name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}, target
