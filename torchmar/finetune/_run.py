"""Train a module: each epoch leaves a checkpoint, from which a run that was killed goes on."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..dataset import Example, digest, labels_of
from ..errors import DatasetError, ExportError
from ..export import Progress, Weights, load_module, opened, prepared
from ..files import replace_file
from ..handler_code import ModelCode, handlers
from ..spec import ModelSource
from ._data import Instance, batches, instances, split
from ._loss import are_classes, distance_to, loss_of
from ._training import Training


@dataclass(frozen=True)
class Trained:
    """What a training came to. Losses are means over the examples, by epoch; the first is before any.

    `best` is the epoch whose weights were kept; 0 means that no epoch was better than the module before, and
    no file was written. `resumed` is the epoch at which a run that was interrupted went on.
    """

    file: Path
    loss: str
    examples: int
    held_out: int
    best: int
    losses: tuple[float, ...]
    held_out_losses: tuple[float, ...]
    seconds: float
    resumed: int = 0


def finetune(
    source: ModelSource,
    examples: Sequence[Example],
    file: Path,
    training: Training = Training(),  # noqa: B008 (frozen)
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    progress: Progress = lambda _: None,
) -> Trained:
    """Train the module of `source` on labelled examples, and write the best epoch's state dict to `file`.

    Each epoch leaves a checkpoint beside `file`; the next call with the same data and settings goes on from
    it. Raises DatasetError for labels that do not suit, ExportError, WeightsUnavailable.
    """
    labels_of(examples)
    source = prepared(source)
    if len(source.spec.sources) != 1:
        raise ExportError(f"{source.file}: fine-tuning needs `source` with one part")
    progress("loading the module")
    run = _Run(source, examples, file, training, weights)
    return run.to_the_end(progress)


class _Run:
    """A training under way."""

    def __init__(
        self,
        source: ModelSource,
        examples: Sequence[Example],
        file: Path,
        training: Training,
        weights: Weights,
    ) -> None:
        import torch

        self.file, self.training = file, training
        self.code = ModelCode(source.directory)
        [part] = source.spec.sources
        self.module = load_module(source, weights, model_code=self.code, part=part)
        kind = source.handler_class(self.code)
        params = source.params(kind)
        blank = kind()
        blank.params = params
        model = handlers("runtimes").TorchModel(self.module, blank, torch.get_num_threads(), None)
        self.handler = opened(source, kind, params, source.directory, {part: model}, self.code)
        with self.code.running():
            found = instances(self.handler, examples)
        self.learned, self.held_out = split(found, training.held_out, training.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        classes, scores = are_classes(found), str(getattr(params, "scores", ""))
        self.loss, self.compute = loss_of(training.loss, scores, classes=classes)
        self.distance = distance_to(scores, classes=classes)
        self.teacher = copy.deepcopy(self.module).to(self.device) if training.distill else None
        for parameter in self.module.parameters():
            parameter.requires_grad_(True)
        self.module.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=training.rate,
            weight_decay=training.decay if training.penalty == "l2" else 0.0,
        )
        self.checkpoint = file.with_name(f"{file.name}.checkpoint")
        self.key = self._key(examples)

    def _key(self, examples: Sequence[Example]) -> str:
        """Return what a checkpoint must have begun from: the same weights, data and settings."""
        begun = hashlib.sha256(json.dumps([asdict(self.training), digest(examples)]).encode())
        for name, tensor in self.module.state_dict().items():
            begun.update(name.encode())
            begun.update(tensor.detach().cpu().contiguous().flatten().numpy().tobytes())
        return begun.hexdigest()

    def to_the_end(self, progress: Progress) -> Trained:
        import torch

        began, training = time.monotonic(), self.training
        torch.manual_seed(training.seed)
        state = self._resumed()
        resumed = 0 if state is None else len(state["losses"]) - 1
        if state is None:
            before = self._loss(self.learned), self._loss(self.held_out)
            state = {"losses": [before[0]], "held_out": [before[1]], "best": 0, "kept": None}
        while len(state["losses"]) <= training.epochs:
            epoch = len(state["losses"])
            if epoch - state["best"] > training.patience:
                break
            learned = self._epoch(epoch)
            found = self._loss(self.held_out)
            state["losses"].append(learned)
            state["held_out"].append(found)
            if found < state["held_out"][state["best"]]:
                state["best"], state["kept"] = epoch, _copied(self.module)
            self._save(state)
            progress(f"epoch {epoch} of {training.epochs}: held-out loss {found:.4g}")
        if state["best"]:
            replace_file(self.file, _as_bytes(state["kept"]))
        self.checkpoint.unlink(missing_ok=True)
        return Trained(
            self.file,
            self.loss,
            len(self.learned),
            len(self.held_out),
            state["best"],
            tuple(state["losses"]),
            tuple(state["held_out"]),
            round(time.monotonic() - began, 3),
            resumed,
        )

    def _epoch(self, epoch: int) -> float:
        """Train once on all examples; return the mean loss meanwhile."""
        import numpy as np
        import torch

        order = np.random.default_rng([self.training.seed, epoch]).permutation(len(self.learned))
        steps = math.ceil(len(order) / self.training.batch)
        self.module.train()
        whole = 0.0
        with self.code.running(), torch.enable_grad():
            for step, (inputs, target) in enumerate(self._batches(self.learned, order.tolist())):
                at = min(1.0, (epoch - 1 + step / steps) / self.training.epochs)
                for group in self.optimizer.param_groups:
                    group["lr"] = self.training.rate * (1 + math.cos(math.pi * at)) / 2
                self.optimizer.zero_grad()
                loss = self._of(inputs, target)
                loss.backward()
                self.optimizer.step()
                whole += float(loss.detach()) * len(target)
        return whole / len(order)

    def _of(self, inputs: dict[str, Any], target: Any) -> Any:
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
            loss = loss + training.decay * sum(one.abs().sum() for one in weights)
        return loss

    def _output(self, module: Any, inputs: dict[str, Any]) -> Any:
        found = handlers("runtimes").differentiable(module, self.handler, inputs)
        if len(found) != 1:
            raise DatasetError(f"the module gives several outputs, expected one: {', '.join(found)}")
        return next(iter(found.values())).float()

    def _loss(self, found: Sequence[Instance]) -> float:
        """Return the mean loss of examples, without the penalty."""
        import torch

        self.module.eval()
        whole = 0.0
        with torch.no_grad(), self.code.running():
            for inputs, target in self._batches(found, range(len(found))):
                whole += float(self.compute(self._output(self.module, inputs), target)) * len(target)
        return whole / len(found)

    def _batches(self, found: Sequence[Instance], order: Sequence[int]) -> Any:
        for inputs, target in batches(self.handler, found, self.training.batch, order):
            yield {name: tensor.to(self.device) for name, tensor in inputs.items()}, target.to(self.device)

    # -- checkpoints ----------------------------------------------------------------------------

    def _save(self, state: dict[str, Any]) -> None:
        import torch

        content = {
            **state,
            "key": self.key,
            "module": _copied(self.module),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
        }
        replace_file(self.checkpoint, _as_bytes(content))

    def _resumed(self) -> dict[str, Any] | None:
        """Return where an interrupted run of the same data and settings was; None for a new one."""
        import torch

        try:
            found = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception:  # not ours: begin anew, and replace it
            return None
        if not isinstance(found, dict) or found.get("key") != self.key:
            return None
        self.module.load_state_dict(found["module"])
        self.optimizer.load_state_dict(found["optimizer"])
        torch.set_rng_state(found["random"])
        return {name: found[name] for name in ("losses", "held_out", "best", "kept")}


def _copied(module: Any) -> dict[str, Any]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _as_bytes(content: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
