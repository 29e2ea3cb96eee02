"""Measure how closely an artifact answers as the module does."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

from ..errors import ExportError, ParityError
from ..failures import explained, own_line
from ..handler_code import FAILURES, PACKAGE, ModelCode, handlers, imported_from
from ..spec import ModelSource
from ._formats import OfThisThread, not_exported
from ._reference import Call, shapes_of


@dataclass(frozen=True)
class Parity:
    """How closely the artifact answers as the module does.

    max_abs_error is the largest difference of any output, divided by the module's largest output if that
    exceeds 1. agreement is the share of inputs with the same answer, by the handler's comparison. Both have
    two significant digits: more would vary between machines.
    """

    inputs: int
    golden: int
    max_abs_error: float
    agreement: float
    seed: int


# The command line of a TorchServe worker, so that code that reads it fails here and not there.
_WORKERS_ARGUMENTS = ("--sock-type", "unix", "--sock-name", "/tmp/.ts.sock.9000")  # noqa: S108 (not opened)


def open_artifact(
    source: ModelSource,
    kind: type[Any],
    params: Any,
    models: Mapping[str, Mapping[str, Any]],
    folder: Path,
    model_code: ModelCode,
    *,
    threads: int | None = None,
) -> Any:
    """Return the handler with the artifacts in `folder`, opened as a worker opens them. Raises ExportError.

    `models` are their entries in model-config.yaml; code and data come from `folder`/model_source, a copy of
    what will be packed. `threads` is by default 1 for ONNX, and torch's own number otherwise.
    """
    import torch

    before = {*sys.modules}
    config = {
        "models": models,
        # torch's thread count belongs to the process. With one thread, the parity is the same on every
        # machine.
        "threads": threads
        if threads is not None
        else 1
        if all(each["format"] == "onnx" for each in models.values())
        else torch.get_num_threads(),
    }
    runs_in = folder / PACKAGE
    try:
        with model_code.running(), redirect_stderr(OfThisThread(sys.stderr)):
            handler = kind()
            handler.params = params
            opened = handlers("runtimes").open_models(config, folder, None, handler)
            handler.open(params, runs_in, opened)
            _require_own_imports(source, before)
    except ExportError:
        raise
    except FAILURES as error:  # the module's own code, and the libraries' errors
        if source.spec.sources and source.spec.export_to != "eager":
            raise not_exported(source, error, folder) from error
        why = explained(source.directory, error, source.spec.requirements, runs_in)
        if not source.spec.sources:
            named = ", ".join(source.spec.artifacts.values())
            raise ExportError(f"{source.spec.name}: its artifact {named} does not load: {why}") from error
        if own_line(error, runs_in.absolute())[0] is None:  # the state dict does not fit
            lines = [line.strip() for line in str(error).splitlines()[:2]]
            why = f"build the same module as before, without its weights: {' '.join(lines)[:500]}"
        named = ", ".join(f"{each}(pretrained=False)" for each in source.spec.sources.values())
        raise ExportError(f"{named}: {why}") from error
    return handler


def workers_code(folder: Path) -> ModelCode:
    """Return the runner of the packed code, with a worker's command line, so that reading it fails here."""
    return ModelCode(folder / PACKAGE, _WORKERS_ARGUMENTS)


@dataclass(frozen=True, order=True)
class Apart:
    """The largest difference between an output and the module's, its place for people, and the mean."""

    error: float = 0.0
    where: str = ""
    mean: float = 0.0


def answers_again(source: ModelSource, handler: Any, calls: Sequence[Call], part: str, folder: Path) -> Apart:
    """Return the largest deviation of an artifact's counted outputs from the module's, for the same inputs.

    Each is divided by the module's largest output if that exceeds 1. Raises ExportError, ParityError.
    """
    import numpy as np

    model, worst, total, count = handler.models[part], Apart(), 0.0, 0
    for call in calls:
        try:
            found = model(call.inputs)
        except FAILURES as error:
            raise _fails(source, error, call, folder) from error
        shapes = [{n: tuple(array.shape) for n, array in each.items()} for each in (call.outputs, found)]
        if shapes[0] != shapes[1]:
            raise ParityError(
                f"the artifact gives {_shapes_text(shapes[1])}, the module {_shapes_text(shapes[0])}"
            )
        counted = handler.counted(call.inputs, found)
        for name, expected in handler.counted(call.inputs, call.outputs).items():
            if not expected.size:
                continue
            wanted, given = (np.asarray(each).astype(np.float64) for each in (expected, counted[name]))
            same = (wanted == given) | (np.isnan(wanted) & np.isnan(given))  # infinities would give nan
            scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0)))
            with np.errstate(invalid="ignore"):
                difference = np.where(same, 0.0, np.abs(wanted - given))
            difference = np.where(np.isfinite(difference), difference, np.inf)
            place = np.unravel_index(int(difference.argmax()), difference.shape)
            where = (
                f"{name}{[int(each) for each in place]} is {wanted[place]:.4g} by the module and "
                f"{given[place]:.4g} by the artifact"
            )
            worst = max(worst, Apart(float(difference[place]) / scale, where))
            total, count = total + float(difference.sum()) / scale, count + difference.size
    return replace(worst, mean=total / max(1, count))


def _fails(source: ModelSource, error: BaseException, call: Call, folder: Path) -> ExportError:
    shapes = shapes_of(call.inputs)
    if source.spec.export_to != "eager":
        return not_exported(source, error, folder)
    why = explained(source.directory, error, source.spec.requirements, folder / PACKAGE)
    return ExportError(f"the artifact fails on inputs of {shapes}: {why}")


def _shapes_text(shapes: Mapping[str, Sequence[int]]) -> str:
    """Return shapes for people: [1, 10], or several by name."""
    if len(shapes) == 1:
        return str(list(next(iter(shapes.values()))))
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def copy_files(source: ModelSource, kind: type[Any], folder: Path) -> list[str]:
    """Write the package `model_source` into `folder`: what an archive carries of the model's folder.

    Returns the names of data files. Raises SpecError, OSError.
    """
    files = source.packed_files(kind)
    if not files and not source.has_code:
        return []
    package = folder / PACKAGE
    package.mkdir()
    if source.has_code:
        (package / "__init__.py").touch()
    for path in files:
        target = package / path.relative_to(source.directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return [path.relative_to(source.directory).as_posix() for path in files if path.suffix != ".py"]


def _require_own_imports(source: ModelSource, before: Collection[str]) -> None:
    """Raise ExportError if the code imported a module that an archive will not have on its path.

    `before` holds the modules that existed earlier.
    """
    names = [name for name in imported_from(source.directory.absolute()) if name not in before]
    if names:
        raise ExportError(
            f"{source.directory}: write `from .{names[0]} import …`, with a dot, for what lies in the "
            f"model's folder: {names[0]} was found only by the path of this process"
        )


def rounded(value: float) -> float:
    """Round up to two significant digits."""
    if not math.isfinite(value):
        return value
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(value)))


def accept(source: ModelSource, parity: Parity, where: str) -> None:
    """Raise ParityError if it falls short of `accept` in model.yaml; `where` is the largest difference."""
    least = source.spec.accept
    wrong = []
    if not parity.max_abs_error <= least.max_abs_error:  # also refuses nan
        wrong.append(f"max_abs_error {parity.max_abs_error:g} exceeds {least.max_abs_error:g}: {where}")
        if parity.agreement == 1 and not source.handler.ours:
            wrong.append(
                "all answers agree: if none is made of what stands there, as where a batch is filled up, "
                "leave it out by `counted` of the handler"
            )
    if parity.agreement < least.agreement:
        wrong.append(f"agreement {parity.agreement:g} is below {least.agreement:g}")
    if wrong:
        raise ParityError(
            f"{source.spec.name}: the {source.spec.export_to} artifact does not answer as the module does: "
            f"{'; '.join(wrong)} (measured on {parity.inputs} inputs; see `accept` in model.yaml)"
        )
