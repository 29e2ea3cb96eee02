"""Fine-tune the module of a model folder."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..dataset import Example, digest, labels_of
from ..errors import ExportError
from ..export import Progress, Weights, load_module, opened, prepared, torch_model
from ..files import replace_file
from ..handler_code import ModelCode
from ..spec import ModelSource
from ._augment import augmentation
from ._config import TrainingConfig
from ._data import training_data
from ._trainer import Trainer, as_bytes


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
    training: TrainingConfig = TrainingConfig(),  # noqa: B008 (frozen)
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    progress: Progress = lambda _: None,
) -> Trained:
    """Train the module of `source` on labelled examples, and write the best epoch's state dict to `file`.

    Each epoch leaves a checkpoint beside `file`; the next call with the same data and settings goes on from
    it. Raises DatasetError for labels that do not suit, ExportError, WeightsUnavailable.
    """
    began = time.monotonic()
    labels_of(examples)
    source = prepared(source)
    if len(source.spec.sources) != 1:
        raise ExportError(f"{source.file}: fine-tuning needs `source` with one part")
    code = ModelCode(source.directory)
    augment = augmentation(training.augment, source, code)
    progress("loading the module")
    [part] = source.spec.sources
    module = load_module(source, weights, model_code=code, part=part)
    kind = source.handler_class(code)
    params = source.params(kind)
    models = {part: torch_model(kind, params, module)}
    handler = opened(source, kind, params, source.directory, models, code)
    data = training_data(handler, code, examples, training, augment)
    trainer = Trainer(
        module,
        data,
        training,
        teacher=copy.deepcopy(module) if training.distill else None,
        checkpoint=file.with_name(f"{file.name}.checkpoint"),
        key=_key(module, code, examples, training),
    )
    found = trainer.run(progress)
    if found.best:
        replace_file(file, as_bytes(found.kept))
    assert trainer.checkpoint is not None
    trainer.checkpoint.unlink(missing_ok=True)
    return Trained(
        file,
        trainer.loss,
        len(data.learned),
        len(data.held_out),
        found.best,
        tuple(found.losses),
        tuple(found.held_out),
        round(time.monotonic() - began, 3),
        found.resumed,
    )


def _key(module: Any, code: ModelCode, examples: Sequence[Example], training: TrainingConfig) -> str:
    """Return what a checkpoint must have begun from: the same weights, code, data and settings."""
    begun = hashlib.sha256(json.dumps([asdict(training), digest(examples)]).encode())
    for file in sorted(code.files):
        begun.update(file.read_bytes())
    for name, tensor in module.state_dict().items():
        begun.update(name.encode())
        begun.update(tensor.detach().cpu().contiguous().flatten().numpy().tobytes())
    return begun.hexdigest()
