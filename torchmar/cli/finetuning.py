"""Defines `torchmar finetune`, which trains a model's module on labelled requests."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from ..errors import DatasetError
from ..files import why_no_file
from ._command import Shown
from ._options import Option
from ._output import after_ctrl_c, escape, out
from ._under_way import progress

if TYPE_CHECKING:
    from ..finetune import Trained


def finetune(
    model: Annotated[Path, "A model folder with a model.yaml."],
    *,
    data: Annotated[Path, "Labelled requests: a folder for each class, or a .csv, .jsonl or .parquet."],
    weights_out: Annotated[Path, Option("File to write the best weights to.", typed="--out")],
    label: Annotated[str, "The column of a table that holds the labels."] = "label",
    weights: Annotated[
        str, "`pretrained`, `random`, or a file with a state dict, to begin with."
    ] = "pretrained",
    epochs: Annotated[int, Option("The most epochs.", min=1)] = 20,
    batch_size: Annotated[int, Option("Examples in a step.", min=1)] = 32,
    learning_rate: Annotated[float, Option("The first one; it falls to 0 by a cosine.", min=0)] = 1e-3,
    weight_decay: Annotated[float, Option("Weight of the penalty on large weights.", min=0)] = 1e-2,
    penalty: Annotated[str, "l2 (decoupled weight decay) or l1 (sum of absolute weights)."] = "l2",
    loss: Annotated[str, "cross_entropy or squared; auto: cross_entropy where labels are classes."] = "auto",
    held_out: Annotated[
        float, Option("Share of the requests that decide which epoch is best.", min=0.01, max=0.9)
    ] = 0.2,
    patience: Annotated[int, Option("End after so many epochs without a better one.", min=1)] = 5,
    distill: Annotated[
        float, Option("Share of the loss that keeps the outputs near those before.", min=0, max=0.99)
    ] = 0.0,
    augment: Annotated[
        str,
        Option(
            "Change examples at random: for pictures some of flip, rotate=DEGREES, shift=SHARE, crop=SHARE, "
            "color=SHARE and noise=SIGMA, separated by commas; or a function of the folder, as load:augment."
        ),
    ] = "",
    seed: Annotated[int, Option("Seed of the split, the order, dropout and augmentation.", min=0)] = 0,
) -> Shown:
    """Train a model's module further on labelled requests, and write the weights of its best epoch.

    The requests go through the handler's own decode. A run that was interrupted goes on where it was, to the
    same weights: type the same command again. Exit code 1 if no epoch was better than the module before; then
    nothing is written. docs/finetuning.md describes what is minimised.

    Example: torchmar finetune models/digits --data data/new --out digits.pt
    """
    from .. import finetune as lib
    from ..dataset import read_dataset
    from ..export import Weights
    from ..finetune._config import Loss, Penalty
    from ..spec import load_model

    for name, found, known in (("penalty", penalty, get_args(Penalty)), ("loss", loss, get_args(Loss))):
        if found not in known:
            raise DatasetError(f"--{name} {found}: expected one of {', '.join(known)}")
    if why := why_no_file(weights_out):
        raise DatasetError(f"--out {weights_out}: cannot be written: {why}")
    source = load_model(model)
    settings = lib.TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        penalty=penalty,  # type: ignore[arg-type]  # checked above
        loss=loss,  # type: ignore[arg-type]
        held_out=held_out,
        patience=patience,
        distill=distill,
        augment=augment,
        seed=seed,
    )
    examples = read_dataset(data, label=label)
    with after_ctrl_c("type the same again to go on from its last epoch"), progress(source.spec.name) as step:
        trained = lib.finetune(
            source, examples, weights_out, settings, weights=Weights(weights, seed), progress=step
        )
    return Shown(asdict(trained), partial(_print, trained, model), code=0 if trained.best else 1)


def _print(trained: Trained, model: Path) -> None:
    before, after = trained.held_out_losses[0], trained.held_out_losses[trained.best]
    epochs = len(trained.losses) - 1
    of = f"{trained.loss} on {trained.held_out} held-out requests"
    if not trained.best:
        best = min(trained.held_out_losses[1:])
        out.print(f"[yellow]nothing was gained[/yellow]: {of} was {before:.4g}, and at best {best:.4g} since")
        out.print(f"nothing was written, after {epochs} epochs; try a smaller --learning-rate")
        return
    out.print(f"[bold]{escape(str(trained.file))}[/bold]  the weights after epoch {trained.best} of {epochs}")
    out.print(f"  {of}: {before:.4g} → {after:.4g}")
    gone_on = f", gone on from epoch {trained.resumed}" if trained.resumed else ""
    out.print(f"  trained on {trained.examples} requests in {trained.seconds:.1f} s{gone_on}")
    words = shlex.join(["torchmar", "archive", str(model), "--weights", str(trained.file)])
    out.print(f"  next: raise `version`, then {escape(words)}")
