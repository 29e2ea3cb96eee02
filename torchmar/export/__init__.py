"""Export a model to artifacts, compare them with the module, and record a handler's answers.

Functions import torch only when they compute with it; importing this package does not.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..compare import Comparator
from ..errors import ExportError
from ..failures import explained
from ..golden import expected_of
from ..handler_code import FAILURES, ModelCode
from ..spec import ModelSource, located
from ._determinism import require_same_weights
from ._existing import bring
from ._formats import SUFFIX, Graph, export, is_artifact, require_exportable
from ._handlers import names_of_archive, needed_by_file, needed_by_task, needed_handlers
from ._inputs import inputs_digest, toolchain
from ._outputs import ends_squashed
from ._parity import (
    Apart,
    Parity,
    accept,
    answers_again,
    copy_files,
    open_artifact,
    rounded,
    workers_code,
)
from ._prepare import prepared
from ._reference import (
    Call,
    Example,
    Failed,
    Recorded,
    answers,
    examples,
    handler_failed,
    mixed_rows,
    opened,
    outputs_and_answer,
    torch_model,
)
from ._requirements import requirements_of, unlisted
from ._source import function_of, load_module, takes_pretrained
from ._weights import Weights

__all__ = [
    "Apart",
    "Artifacts",
    "Call",
    "Example",
    "Parity",
    "Progress",
    "Recorded",
    "Weights",
    "answers_again",
    "build_artifacts",
    "examples",
    "function_of",
    "handler_failed",
    "inputs_digest",
    "load_module",
    "mixed_rows",
    "names_of_archive",
    "needed_by_file",
    "needed_by_task",
    "needed_handlers",
    "open_artifact",
    "opened",
    "outputs_and_answer",
    "prepared",
    "require",
    "rounded",
    "toolchain",
    "torch_model",
    "workers_code",
]

Progress = Callable[[str], None]
"""Receives what happens next, in a few words."""


@dataclass(frozen=True)
class Artifacts:
    """What an archive serves, by part of the model, and what its handler answers.

    `handler` is the class of its handler. `files` lie in the build folder, or are the weights' own files,
    which must stay in place. `models` is each part's entry in model-config.yaml. `parity` is None for files
    that were taken as they are. `golden` holds the expected answer of each golden request. `requirements` are
    packages that workers import beyond those for serving. `notes` are sentences on what was done unasked.
    `modules` are what was exported, and `export` writes another one of the same inputs and outputs into a
    folder.
    """

    handler: type[Any]
    files: Mapping[str, Path]
    models: Mapping[str, Mapping[str, Any]]
    comparator: Comparator
    golden: Mapping[str, Any]
    parity: Parity | None = None
    requirements: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=list)
    modules: Mapping[str, Any] = field(default_factory=dict)
    export: Callable[[str, Any, Path], Path] | None = None


def build_artifacts(
    source: ModelSource, weights: Weights, folder: Path, progress: Progress = lambda _: None
) -> Artifacts:
    """Load the module, export it into `folder`, and compare the artifact with the module.

    An existing artifact is copied there and asked; there is nothing to compare it with. Raises
    WeightsUnavailable, ExportError, or ParityError if an artifact falls short of `accept`.
    """
    require(source)
    building = _Building(source, weights, folder, progress)
    return building.from_modules() if source.spec.sources else building.as_is()


def require(source: ModelSource) -> None:
    """Raise ExportError if a package is missing that building needs."""
    needed = ["numpy", "PIL"]
    if source.spec.sources:
        needed += ["torch", "torchvision"]
        needed += ["onnx", "onnxscript", "onnxruntime"] if source.spec.export_to == "onnx" else []
    elif any(name.endswith(".onnx") for name in source.spec.artifacts.values()):
        needed += ["onnx", "onnxruntime"]
    else:
        needed += ["torch"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"exporting needs {', '.join(missing)}, not installed here: pip install 'torchmar[export]'"
        )


class _Building:
    """Builds the artifacts of one model."""

    def __init__(self, source: ModelSource, weights: Weights, folder: Path, progress: Progress) -> None:
        self.source, self.weights, self.folder, self.progress = source, weights, folder, progress
        self.model_code = ModelCode(source.directory)
        self.notes: list[str] = []
        self.kind = source.handler_class(self.model_code)
        self.params = source.params(self.kind)

    def from_modules(self) -> Artifacts:
        """Export each part of `source`."""
        self.progress("importing torch")
        import torch

        source, weights = self.source, self.weights
        parts = source.spec.sources
        if weights.file is not None and len(parts) > 1:
            remedy = "give each part its own, under `artifact` in model.yaml"
            raise ExportError(f"--weights {weights.file}: {remedy}: `source` has {', '.join(parts)}")
        self.progress("loading the module")
        modules, seconds = {}, {}
        for part in parts:
            began = time.monotonic()
            modules[part] = load_module(source, weights, self.notes.append, self.model_code, part)
            require_exportable(source, modules[part])
            seconds[part] = time.monotonic() - began
        behind = partial(torch_model, self.kind, self.params)
        recorded = {part: Recorded(part, behind(module)) for part, module in modules.items()}
        # The source may seed the generator itself; a module that draws from it must not draw the same twice.
        torch.manual_seed(weights.seed)
        self.progress("asking the module")
        handler, asked, expected = self._asked(recorded, modules)
        self._examine(handler, recorded, modules)
        for part, each in recorded.items():
            require_same_weights(
                source, weights, each, seconds[part], behind, self.notes.append, self.progress
            )
        data = copy_files(source, self.kind, self.folder)
        if source.has_code:
            self.notes += _of_data(data, self._named())
        self.progress(f"exporting to {source.spec.export_to}")
        files = {part: self._export(part, module, recorded[part]) for part, module in modules.items()}
        models = {part: self._model(part, each) for part, each in recorded.items()}
        self.progress("checking parity")
        parity = self._parity(models, recorded, asked, expected)
        built = self._built(handler, files, models, asked, expected, parity)

        def again(part: str, module: Any, folder: Path) -> Path:
            return self._export(part, module, recorded[part], folder)

        return replace(built, modules=modules, export=again)

    def as_is(self) -> Artifacts:
        """Take each file of `artifact` as it is."""
        source = self.source
        self.progress("reading the artifact")
        copy_files(source, self.kind, self.folder)
        brought = {
            part: bring(source, part, source.directory / name, self.folder)
            for part, name in source.spec.artifacts.items()
        }
        files = {part: file for part, (file, _) in brought.items()}
        models = {part: {"file": file.name, "format": kind} for part, (file, kind) in brought.items()}
        model_code = self._workers_code()
        artifact = open_artifact(source, self.kind, self.params, models, self.folder, model_code)
        for part, model in artifact.models.items():
            if self.kind.batched and getattr(model, "fixed_rows", None) == 1:
                self.notes.append(
                    f"{source.spec.artifacts[part]} is asked one instance after the other: its batch axis is "
                    "fixed at 1; exported with a free one (dynamic_axes, dynamic_shapes) it would be faster"
                )
        recorded = {part: Recorded(part, model) for part, model in artifact.models.items()}
        self.progress("asking it")
        handler, asked, expected = self._asked(recorded, {})
        self._examine(handler, recorded, {})
        self.notes += self._needs(handler, model_code)
        return self._built(handler, files, models, asked, expected, None)

    # -- steps ----------------------------------------------------------------------------------

    def _asked(
        self, recorded: Mapping[str, Recorded], modules: Mapping[str, Any]
    ) -> tuple[Any, list[Example], list[Any]]:
        """Return the handler with these models, its examples, and its answers."""
        source = self.source
        handler = opened(source, self.kind, self.params, source.directory, recorded, self.model_code)
        try:
            with self.model_code.running():
                asked = examples(source, handler, self.weights.seed)
                return handler, asked, answers(handler, asked)
        except ExportError:
            raise
        except FAILURES as error:
            # Outputs unlike the params explain the failure better.
            if not isinstance(error, Failed) and all(each.calls for each in recorded.values()):
                self._examine(handler, recorded, modules)
            raise handler_failed(source, self.kind, error, recorded=recorded) from error

    def _examine(self, handler: Any, recorded: Mapping[str, Recorded], modules: Mapping[str, Any]) -> None:
        """Let the handler examine the output of its only model. Raises ExportError."""
        import numpy as np

        if len(recorded) > 1:
            return
        [(part, only)] = recorded.items()
        first = only.calls[0]
        alike = [call for call in only.calls if _kinds(call.outputs) == _kinds(first.outputs)]
        outputs = {
            name: np.concatenate([call.outputs[name] for call in alike])
            if first.outputs[name].ndim
            else first.outputs[name]
            for name in first.outputs
        }
        module = modules.get(part)
        squashed = module is not None and ends_squashed(
            module, handler, _tensors(first.inputs), self.model_code
        )
        try:
            with self.model_code.running():
                self.notes += handler.examine(outputs, squashed=squashed)
        except ValueError as error:
            place = located(self.source, self.kind, error)
            raise ExportError(place or f"{self.source.spec.name}: {error}") from error
        except FAILURES as error:
            why = explained(self.source.directory, error, self.source.spec.requirements)
            raise ExportError(f"{self.source.spec.name}: {why}") from error

    def _export(self, part: str, module: Any, recorded: Recorded, folder: Path | None = None) -> Path:
        given = self.weights.file
        if self.source.spec.export_to == "eager" and given is not None and is_artifact(module, given):
            return given
        if not recorded.calls:
            remedy = "give `golden` a request that needs it, or leave it out"
            raise ExportError(f"{self.source.spec.name}: part {part} was never asked: {remedy}")
        blank = self.kind()
        blank.params = self.params
        if self.source.spec.export_to != "eager":
            _require_dynamic(self.source, blank.dynamic, recorded.calls)
        # An exporter assumes that an axis of length 1 stays so.
        calls = [call for call in recorded.calls if _is_free(call.inputs, blank.dynamic)] or recorded.calls
        largest = max(calls, key=lambda call: sum(array.size for array in call.inputs.values()))
        inputs = _tensors(largest.inputs)
        if blank.batched and largest.rows == 1:
            inputs = {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in inputs.items()}
        graph = Graph(module, blank, inputs, list(largest.outputs))
        return export(self.source, part, graph, folder or self.folder, self.model_code)

    def _model(self, part: str, recorded: Recorded) -> dict[str, Any]:
        """Return an exported part's entry in model-config.yaml."""
        runtime = self.source.spec.export_to
        name = f"{part}{SUFFIX[runtime]}"
        if runtime == "eager":
            named = self.source.spec.sources[part]
            with self.model_code.running():
                pretrained = takes_pretrained(function_of(self.source, named, "source"))
            return {"file": name, "format": runtime, "source": named, "pretrained": pretrained}
        first = recorded.calls[0]
        names: dict[str, Any] = {}
        if runtime == "aoti":
            names = {"inputs": list(first.inputs), "outputs": list(first.outputs)}
        elif first.inputs.keys() & first.outputs.keys():  # the graph has other names for these outputs
            names = {"outputs": list(first.outputs)}
        return {"file": name, "format": runtime, "prepared": True, **names}

    def _parity(
        self,
        models: Mapping[str, Mapping[str, Any]],
        recorded: Mapping[str, Recorded],
        asked: Sequence[Example],
        expected: Sequence[Any],
    ) -> Parity:
        source, folder = self.source, self.folder
        given = self.weights.file
        opened_as = {
            part: {**each, "file": str(given.resolve())}
            if given is not None and not (folder / each["file"]).exists()
            else each
            for part, each in models.items()
        }
        model_code = self._workers_code()
        handler = open_artifact(source, self.kind, self.params, opened_as, folder, model_code)
        with model_code.running():
            try:
                worst = max(
                    answers_again(source, handler, each.calls, part, folder)
                    for part, each in recorded.items()
                )
                found = answers(handler, asked)
            except ExportError:
                raise
            except FAILURES as error:
                raise handler_failed(source, self.kind, error) from error
        self.notes += self._needs(handler, model_code)
        comparator = self._comparator(handler)
        same = [comparator.same(one, other) for one, other in zip(expected, found, strict=True)]
        golden = sum(example.name is not None for example in asked)
        parity = Parity(len(asked), golden, rounded(worst.error), sum(same) / len(same), self.weights.seed)
        accept(source, parity, worst.where)
        return parity

    def _workers_code(self) -> ModelCode:
        return workers_code(self.folder) if self.source.has_code else self.model_code

    def _needs(self, handler: Any, model_code: ModelCode) -> Iterator[str]:
        """Yield a note on packages to install for serving, and one on imports that nobody listed."""
        needed = requirements_of(self.source, handler)
        if needed:
            yield f"on the server, install what its requirements.txt lists: {', '.join(needed)}"
        if not self.source.has_code:
            return
        own = self.source.handler.file
        more = unlisted([*model_code.files, *([] if own is None else [own])], needed)
        if more:
            yield f"list {', '.join(more)} under `requirements` in model.yaml: its packed code imports it"

    def _comparator(self, handler: Any) -> Comparator:
        spec = self.source.spec
        try:
            content = handler.compare() if spec.compare is None else spec.compare
            return Comparator.of(content, spec.accept.max_abs_error)
        except ValueError as error:
            raise ExportError(f"{self.source.spec.name}: compare() of its handler: {error}") from None

    def _built(
        self,
        handler: Any,
        files: Mapping[str, Path],
        models: Mapping[str, Mapping[str, Any]],
        asked: Sequence[Example],
        expected: Sequence[Any],
        parity: Parity | None,
    ) -> Artifacts:
        comparator = self._comparator(handler)
        golden = {
            example.name: expected_of(answer, comparator)
            for example, answer in zip(asked, expected, strict=True)
            if example.name is not None
        }
        with suppress(*FAILURES), self.model_code.running():
            if mixed := mixed_rows(handler, asked, comparator):
                self.notes.append(
                    f"the same instance is answered {mixed}: leave out of the model what is computed "
                    "over the batch; otherwise an answer depends on the rest of its batch (`batched = False` "
                    "in a handler of your own runs one after the other)"
                )
        needed = requirements_of(self.source, handler)
        return Artifacts(self.kind, files, models, comparator, golden, parity, needed, self.notes)

    def _named(self) -> set[str]:
        return set(self.source.file_params(self.kind).values())


def _require_dynamic(
    source: ModelSource, dynamic: Mapping[str, Mapping[int, str]], calls: Sequence[Call]
) -> None:
    """Raise ExportError if batches differ in an axis that is not named, because a graph would fix it."""
    for name, first in calls[0].inputs.items():
        shapes = [call.inputs[name].shape for call in calls if name in call.inputs]
        for axis in range(1, first.ndim):
            sizes = sorted({shape[axis] for shape in shapes if len(shape) > axis})
            if len(sizes) > 1 and axis not in dynamic.get(name, {}):
                remedy = f'write `dynamic = {{"{name}": {{{axis}: "length"}}}}` in its handler'
                what = (
                    f"axis {axis} of {name} has {', '.join(map(str, sizes[:5]))} in the batches that it makes"
                )
                raise ExportError(f"{source.spec.name}: {remedy}: {what}")


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}


def _is_free(inputs: Mapping[str, Any], dynamic: Mapping[str, Mapping[int, str]]) -> bool:
    """Return whether the varying axes, except the first, are longer than 1."""
    return all(inputs[name].shape[axis] > 1 for name in inputs for axis in dynamic.get(name, {}))


def _kinds(outputs: Mapping[str, Any]) -> list[Any]:
    return [(name, array.shape[1:], array.dtype) for name, array in outputs.items()]


def _of_data(data: Sequence[str], named: set[str]) -> list[str]:
    data = [name for name in data if name not in named]
    listed = ", ".join(data[:5]) + (f" and {len(data) - 5} more" if len(data) > 5 else "")
    return [f"packed with its code: {listed}"] if data else []
