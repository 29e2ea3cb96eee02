"""Define the settings of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Loss = Literal["auto", "cross_entropy", "squared"]
Penalty = Literal["l2", "l1"]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: AdamW with a cosine schedule, stopped early by held-out examples.

    `learning_rate` is the first one; the schedule ends at 0. `weight_decay` is λ: of R = L2 as decoupled
    weight decay (Loshchilov & Hutter, ICLR 2019), or of R = L1, the sum of the weights' absolute values.
    `held_out` is the share of the examples that decide which epoch is best; training ends after `patience`
    epochs without a better one. `distill` is the share of the loss that the distance to the outputs of the
    module before the training makes up (Hinton et al., 2015). `augment` says what changes the examples at
    random each time they are trained on: `rotate=15,shift=0.1` for pictures (torchmar/spec/_augment.py), or
    as file:function one of the model's folder, which takes a batch, tensors by name, and returns one. `seed`
    makes it repeatable on one machine.
    """

    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    penalty: Penalty = "l2"
    loss: Loss = "auto"
    held_out: float = 0.2
    patience: int = 5
    distill: float = 0.0
    augment: str = ""
    seed: int = 0
