"""How closely an artifact answers as the module does."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Collection
from contextlib import redirect_stderr
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ExportError, ParityError
from ..guests import handlers
from ..spec import ModelSource
from ._formats import OfThisThread, not_exported
from ._guest import FAILURES, PACKAGE, Guest, explained, imported_from, own_line

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Parity:
    """How closely the artifact answers as the module does.

    max_abs_error is the largest difference of any output, divided by the module's largest output where
    that exceeds 1; top1_agreement the share of inputs whose likeliest class is the same. Two significant
    digits: more would differ from machine to machine and say nothing.
    """

    inputs: int
    golden: int
    max_abs_error: float
    top1_agreement: float
    seed: int


# As TorchServe starts a worker: what reads a command line must fail here, and not there.
_WORKERS_ARGUMENTS = ("--sock-type", "unix", "--sock-name", "/tmp/.ts.sock.9000")  # noqa: S108 (not opened)


def run_artifact(source: ModelSource, file: Path, scratch: Path, inputs: torch.Tensor) -> Any:
    """The artifact's outputs for pixels, (n, outputs), by the runtime that a worker opens it with.

    In batches of 1 and of 3: neither the size it was exported with, nor all at once. An eager module is built
    from a copy of what will be packed, in `scratch`. Raises ExportError.
    """
    import numpy as np
    import torch

    image = source.spec.input.image
    config = {
        "artifact": file.name,
        "source": source.spec.source,
        "image": {"mean": image.mean, "std": image.std},
        # A runtime of torch sets them for the process. With one, the parity is the same on every machine.
        "threads": 1 if source.spec.runtime == "onnx" else torch.get_num_threads(),
    }
    folder = scratch / PACKAGE
    if source.spec.runtime == "eager":
        copy_code(source, folder)
    batches = [inputs[:1], *inputs[1:].split(3)]
    batch, before = None, {*sys.modules}
    try:
        with Guest(folder, _WORKERS_ARGUMENTS).running(), redirect_stderr(OfThisThread(sys.stderr)):
            runtime = handlers("runtimes").open_runtime(config, file.parent, None)
            _require_own_imports(source, before)
            found = []
            for batch in batches:
                found.append(runtime(batch.numpy()))
            return np.concatenate(found)
    except ExportError:
        raise
    except FAILURES as error:  # the module's own code, and what the libraries raise
        if source.spec.runtime != "eager":
            raise not_exported(source, error, scratch) from error
        why = explained(source, error, folder)
        if batch is None and own_line(error, folder.absolute())[0] is None:  # the state dict does not fit
            lines = [line.strip() for line in str(error).splitlines()[:2]]
            why = f"build the same module as before, without its weights: {' '.join(lines)[:500]}"
        if batch is None:
            raise ExportError(f"{source.spec.source}(pretrained=False): {why}") from error
        if len(batch) == 1:
            why = f"keep the batch dimension, as flatten(1) does and squeeze() does not: {why}"
        raise ExportError(f"the artifact fails on inputs of shape {list(batch.shape)}: {why}") from error


def copy_code(source: ModelSource, folder: Path) -> None:
    """Write the package that builds an eager module: what an archive carries of the model's folder.

    Raises SpecError, OSError.
    """
    folder.mkdir()
    (folder / "__init__.py").touch()
    for path in source.code_files():
        target = folder / path.relative_to(source.directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _require_own_imports(source: ModelSource, before: Collection[str]) -> None:
    """Raise ExportError where the code found here what an archive will not have where it looks for it.

    `before` are the modules that were here already.
    """
    names = [name for name in imported_from(source.directory.absolute()) if name not in before]
    if names:
        raise ExportError(
            f"{source.directory}: write `from .{names[0]} import …`, with a dot, for what lies in the "
            f"model's folder: {names[0]} was found only by the path of this process"
        )


def compare(source: ModelSource, expected: Any, found: Any, *, golden: int, seed: int) -> Parity:
    """Hold an artifact's outputs against the module's, both (n, outputs). Raises ParityError."""
    import numpy as np

    if expected.shape != found.shape:
        raise ParityError(f"the artifact gives {list(found.shape)}, the module {list(expected.shape)}")
    scale = max(1.0, float(np.abs(expected).max()))
    error = float(np.abs(expected - found).max()) / scale
    agreement = float((classes(source, expected) == classes(source, found)).mean())
    return Parity(len(expected), golden, _round(error), agreement, seed)


def classes(source: ModelSource, outputs: Any) -> Any:
    """The index of the likeliest class for each row of outputs, as the handler finds it: int (n,)."""
    probabilities = handlers("scores").to_probabilities(outputs, source.spec.output.scores)
    return probabilities.argmax(axis=-1)


def _round(value: float) -> float:
    """Upwards to two significant digits."""
    if not math.isfinite(value):
        return value
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(value)))


def accept(source: ModelSource, parity: Parity) -> None:
    """Raise ParityError where it falls short of `accept` in model.yaml."""
    least = source.spec.accept
    wrong = []
    if not parity.max_abs_error <= least.max_abs_error:  # also refuses nan
        wrong.append(f"max_abs_error {parity.max_abs_error:g} exceeds {least.max_abs_error:g}")
    if parity.top1_agreement < least.top1_agreement:
        wrong.append(f"top1_agreement {parity.top1_agreement:g} is below {least.top1_agreement:g}")
    if wrong:
        raise ParityError(
            f"{source.spec.name}: the {source.spec.runtime} artifact does not answer as the module does: "
            f"{'; '.join(wrong)} (measured on {parity.inputs} inputs; see `accept` in model.yaml)"
        )
