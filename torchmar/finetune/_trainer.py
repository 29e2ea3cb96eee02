"""Fit a module to examples: epochs with a checkpoint each, of which the best one is kept."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..export import Progress
from ..files import replace_file
from ..handler_code import handlers
from ._config import TrainingConfig
from ._data import Instance, TrainingData, batches
from ._loss import distance_to, loss_of


@dataclass
class Fitted:
    """How a fit went: mean losses by epoch, the first before any, and the weights of the best epoch.

    `best` 0 means that no epoch was better than the module before. `resumed` is the epoch at which an
    interrupted fit went on.
    """

    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best: int = 0
    kept: dict[str, Any] | None = None
    resumed: int = 0


class Trainer:
    """Fits a module; `teacher` is one whose outputs it should stay near, if training distils.

    With a `checkpoint`, each epoch is written there, and a fit with the same `key` goes on from it.
    """

    def __init__(
        self,
        module: Any,
        data: TrainingData,
        training: TrainingConfig,
        *,
        teacher: Any = None,
        checkpoint: Path | None = None,
        key: str = "",
    ) -> None:
        import torch

        self.data, self.training, self.checkpoint, self.key = data, training, checkpoint, key
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.to(self.device)
        self.loss, self.compute = loss_of(training.loss, data.scores, classes=data.classes)
        self.distance = distance_to(data.scores, classes=data.classes)
        self.teacher = teacher.to(self.device) if training.distill and teacher is not None else None
        self.module.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=training.learning_rate,
            weight_decay=training.weight_decay if training.penalty == "l2" else 0.0,
        )

    def run(self, progress: Progress) -> Fitted:
        """Train to the end; the module has the weights of its best epoch then.

        Raises DatasetError, ExportError.
        """
        with self.data.code.running():
            return self._run(progress)

    def _run(self, progress: Progress) -> Fitted:
        data, training = self.data, self.training
        state = self._resumed()
        if state is None:
            before = self._loss(data.learned), self._loss(data.held_out)
            state = Fitted([before[0]], [before[1]], kept=_copied(self.module))
        while len(state.losses) <= training.epochs:
            epoch = len(state.losses)
            if epoch - state.best > training.patience:
                break
            state.losses.append(self._epoch(epoch))
            state.held_out.append(self._loss(data.held_out))
            if state.held_out[epoch] < state.held_out[state.best]:
                state.best, state.kept = epoch, _copied(self.module)
            self._save_checkpoint(state)
            progress(f"epoch {epoch} of {training.epochs}: held-out loss {state.held_out[epoch]:.4g}")
        assert state.kept is not None
        self.module.load_state_dict(state.kept)
        self.module.cpu().eval().requires_grad_(False)
        return state

    def _epoch(self, epoch: int) -> float:
        """Train once on all examples; return the mean loss meanwhile.

        What dropout and augmentation draw depends on the seed and the epoch alone, on each device, so that an
        interrupted fit goes on to the same weights.
        """
        import numpy as np
        import torch

        generator = np.random.default_rng([self.training.seed, epoch])
        order = generator.permutation(len(self.data.learned))
        torch.manual_seed(int(generator.integers(2**63)))
        steps = math.ceil(len(order) / self.training.batch_size)
        self.module.train()
        whole = 0.0
        with torch.enable_grad():
            for step, (decoded, target) in enumerate(self._batches(self.data.learned, order.tolist())):
                for group in self.optimizer.param_groups:
                    group["lr"] = self._learning_rate(epoch - 1 + step / steps)
                with torch.no_grad():
                    inputs = self.data.augment(decoded)
                self.optimizer.zero_grad()
                loss = self._training_loss(inputs, target)
                loss.backward()
                self.optimizer.step()
                whole += float(loss.detach()) * len(target)
        return whole / len(order)

    def _learning_rate(self, epochs: float) -> float:
        """Return the learning rate after so many epochs: a cosine from the first one to 0."""
        done = min(1.0, epochs / self.training.epochs)
        return self.training.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def _training_loss(self, inputs: dict[str, Any], target: Any) -> Any:
        """Return the loss of a batch with its penalty."""
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            output = self._output(self.module, inputs)
        loss, training = self.compute(output, target), self.training
        if self.teacher is not None:
            with torch.no_grad():
                taught = self._output(self.teacher, inputs)
            loss = (1 - training.distill) * loss + training.distill * self.distance(output, taught)
        if training.penalty == "l1":
            weights = [one for one in self.module.parameters() if one.ndim > 1]
            loss = loss + training.weight_decay * sum(one.abs().sum() for one in weights)
        return loss

    def _output(self, module: Any, inputs: dict[str, Any]) -> Any:
        found = handlers("runtimes").differentiable(module, self.data.handler, inputs)
        if len(found) != 1:
            raise DatasetError(f"the module gives several outputs, expected one: {', '.join(found)}")
        return next(iter(found.values())).float()

    def _loss(self, found: Sequence[Instance]) -> float:
        """Return the mean loss of examples, without the penalty."""
        import torch

        self.module.eval()
        whole = 0.0
        with torch.no_grad():
            for inputs, target in self._batches(found, range(len(found))):
                whole += float(self.compute(self._output(self.module, inputs), target)) * len(target)
        return whole / len(found)

    def _batches(self, found: Sequence[Instance], order: Sequence[int]) -> Any:
        for inputs, target in batches(self.data.handler, found, self.training.batch_size, order):
            yield {name: tensor.to(self.device) for name, tensor in inputs.items()}, target.to(self.device)

    # -- checkpoints ----------------------------------------------------------------------------

    def _save_checkpoint(self, state: Fitted) -> None:
        if self.checkpoint is None:
            return
        content = {
            **vars(state),
            "key": self.key,
            "module": _copied(self.module),
            "optimizer": self.optimizer.state_dict(),
        }
        replace_file(self.checkpoint, as_bytes(content))

    def _resumed(self) -> Fitted | None:
        """Return where an interrupted fit with this key was; None for a new one."""
        import torch

        if self.checkpoint is None:
            return None
        try:
            found = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception:  # none, or not ours: begin anew, and replace it
            return None
        if not isinstance(found, dict) or found.get("key") != self.key:
            return None
        self.module.load_state_dict(found["module"])
        self.optimizer.load_state_dict(found["optimizer"])
        state = Fitted(*(found[name] for name in ("losses", "held_out", "best", "kept")))
        state.resumed = len(state.losses) - 1
        return state


def _copied(module: Any) -> dict[str, Any]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def as_bytes(content: Any) -> bytes:
    """Return what torch.save would write."""
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
