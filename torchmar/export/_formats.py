"""Export an nn.Module to an artifact: one exporter for each runtime, and the error if one fails."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import threading
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import ExportError
from ..failures import first_line, named, own_line
from ..files import DISK_FULL
from ..handler_code import FAILURES, ModelCode, handlers
from ..spec import ModelSource

if TYPE_CHECKING:
    import torch

_LEAST_FREE = 1 << 20  # bytes

SUFFIX = {"onnx": ".onnx", "aoti": ".pt2", "eager": ".pth"}


@dataclass(frozen=True)
class Graph:
    """A module with its handler's first and last part, and a batch to export it with.

    `inputs` are tensors by name with the batch axis first; `outputs` are the names of its outputs.
    """

    module: torch.nn.Module
    handler: Any
    inputs: Mapping[str, torch.Tensor]
    outputs: Sequence[str]


def export(source: ModelSource, part: str, graph: Graph, folder: Path, model_code: ModelCode) -> Path:
    """Write the artifact for `source`'s runtime into `folder`. Raises ExportError."""
    runtime = source.spec.export_to
    file = folder / f"{part}{SUFFIX[runtime]}"
    captured = OfThisThread(sys.stderr)
    try:
        with model_code.running(), redirect_stderr(captured):
            if runtime == "eager":
                _export_eager(graph.module, file)
            else:
                write = {"onnx": _export_onnx, "aoti": _export_aoti}[runtime]
                write(graph, file)
    except ExportError:
        raise
    except FAILURES as error:  # exporters raise anything
        raise not_exported(source, error, folder, captured.text()) from error
    return file


_DETECTION = "torchvision.models.detection"


def require_exportable(source: ModelSource, module: torch.nn.Module) -> None:
    """Raise ExportError early for a module that no exporter reads: a failing export may take minutes."""
    import torch

    if source.spec.export_to == "eager":
        return
    kinds = {(kind.__module__, kind.__name__) for part in module.modules() for kind in type(part).__mro__}
    if (f"{_DETECTION}.transform", "GeneralizedRCNNTransform") in kinds:  # every detector contains it
        raise ExportError(
            f"{source.spec.name}: write `runtime: eager`: a detector of {_DETECTION} cannot be exported to "
            f"{source.spec.export_to}: how many boxes it gives depends on the picture"
        )
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ExportError(
            f"{source.spec.name}: return the module itself and not what torch.jit made of it, or write "
            f"`runtime: eager`: TorchScript cannot be exported to {source.spec.export_to}"
        )


def not_exported(source: ModelSource, error: BaseException, folder: Path, output: str = "") -> ExportError:
    """Return the error for a failed exporter: one sentence; the whole output goes into a file."""
    name, runtime = source.spec.name, source.spec.export_to
    free = shutil.disk_usage(folder).free
    if (isinstance(error, OSError) and error.errno in DISK_FULL) or free < _LEAST_FREE:
        return ExportError(
            f"{name}: make room in {folder.parent}, or set TMPDIR to another folder: {free:,} bytes are free "
            f"there, too few for the artifact ({first_line(error)})"
        )
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    file, line = own_line(cause, source.directory.absolute())
    place = "" if file is None else f"{file.as_posix()} line {line}: "
    other = "" if runtime == "eager" else "write `runtime: eager`, which serves any module, or "
    return ExportError(
        f"{name}: {other}change what could not be exported to {runtime}: {place}{named(cause)}"
        f"{_kept(source, error, output)}"
    )


def _kept(source: ModelSource, error: BaseException, output: str) -> str:
    """Write an exporter's whole output to a file; returns its name for the end of a sentence."""
    lines = [*output.splitlines(), *"".join(traceback.format_exception(error)).splitlines()]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"torchmar-{source.spec.name}-", suffix=".log", encoding="utf-8", delete=False
        ) as file:
            file.write("\n".join(lines) + "\n")
    except OSError:
        return ""
    return f" (all {len(lines)} lines: {file.name})"


class OfThisThread(io.TextIOBase):
    """A stderr that keeps its own thread's output; other threads, such as the spinner's, write through."""

    def __init__(self, beneath: TextIO) -> None:
        self._beneath = beneath
        self._thread = threading.get_ident()
        self._kept = io.StringIO()

    def write(self, text: str) -> int:
        return (self._kept if threading.get_ident() == self._thread else self._beneath).write(text)

    def flush(self) -> None:
        self._beneath.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._beneath, name)  # rich asks for attributes of the stream below

    def text(self) -> str:
        return self._kept.getvalue()


def _in_one(graph: Graph) -> torch.nn.Module:
    """Join the handler's first part, the module and the handler's last part: tensors in, tensors out.

    The model then receives what the handler decodes, such as bytes for a picture, and computes the rest
    itself.
    """
    import torch

    names, runtimes = list(graph.inputs), handlers("runtimes")

    class InOne(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = graph.module

        def forward(self, *tensors: torch.Tensor) -> Any:
            batch = dict(zip(names, tensors, strict=True))
            return tuple(runtimes.forward(self.module, graph.handler, batch).values())

    return InOne().eval()


def _dynamic(graph: Graph) -> Any:
    """Return the axes that vary: the first, and those that the handler names."""
    import torch

    free = torch.export.Dim.DYNAMIC
    first = {0: free} if graph.handler.batched else {}
    axes = graph.handler.dynamic
    return (tuple({**first, **dict.fromkeys(axes.get(name, {}), free)} for name in graph.inputs),)


def _apart(outputs: Sequence[str], inputs: Collection[str]) -> list[str]:
    """Return unique names for a graph's outputs, as ONNX requires: a state's input and output share one."""
    names: list[str] = []
    for name in outputs:
        own = name
        while own in inputs or own in names or (own != name and own in outputs):
            own = f"next_{own}"
        names.append(own)
    return names


def _export_onnx(graph: Graph, file: Path) -> None:
    """Export ONNX with free axes, without what differs from machine to machine."""
    import onnx
    import torch

    program = torch.onnx.export(
        _in_one(graph),
        tuple(graph.inputs.values()),
        dynamo=True,
        dynamic_shapes=_dynamic(graph),
        input_names=list(graph.inputs),
        output_names=_apart(graph.outputs, graph.inputs),
        verbose=False,
    )
    assert program is not None
    program.save(str(file))
    model = onnx.load(str(file))  # the exporter moves weights above 2 GB into their own file; see below
    # Nodes carry stack traces with this machine's paths, which leak, and change the bytes in another folder.
    functions = [part for function in model.functions for part in (function, *function.node)]
    for part in _with_metadata(model.graph, [model, *functions]):
        del part.metadata_props[:]
        part.doc_string = ""
    if model.ByteSize() >= 2**31:
        raise ExportError(f"the ONNX model has {model.ByteSize():,} bytes; one file holds less than 2 GiB")
    for extra in file.parent.glob(f"{file.name}.data*"):
        extra.unlink()
    onnx.save(model, str(file))


def _with_metadata(graph: Any, found: list[Any]) -> list[Any]:
    """Return all parts of a graph, and of the graphs inside its nodes, that can carry metadata."""
    found += [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _with_metadata(attribute.g, found)
    return found


def _export_aoti(graph: Graph, file: Path) -> None:
    """Compile ahead of time for this kind of machine, with free axes."""
    import torch
    from torch._inductor import aoti_compile_and_package

    example = tuple(graph.inputs.values())
    program = torch.export.export(_in_one(graph), example, dynamic_shapes=_dynamic(graph))
    aoti_compile_and_package(program, package_path=str(file))


def _export_eager(module: torch.nn.Module, file: Path) -> None:
    """Save the state dict alone; the archive carries the code that builds the module.

    Convolutions on a CPU are faster with weights in channels_last order (ResNet-18: 33 ms against 41), and a
    worker that maps the file cannot reorder them without a copy of its own.
    """
    import torch

    torch.save({name: _in_fast_order(tensor) for name, tensor in module.state_dict().items()}, file)


def _in_fast_order(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.ndim != 4:  # extra state is no tensor
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)


def is_artifact(module: torch.nn.Module, file: Path) -> bool:
    """Return whether a file is the module's state dict as `_export_eager` would write it, and nothing more.

    It needs the same names and tensors in the same order, in torch's zip format, which a worker can map into
    memory.
    """
    import torch

    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # an older format, which cannot be mapped
        return False
    own = module.state_dict()
    if not isinstance(state, dict) or list(state) != list(own):
        return False
    if not all(isinstance(value, torch.Tensor) for value in own.values()):
        return False
    needed = sum(value.untyped_storage().nbytes() for value in own.values())
    return file.stat().st_size < 1.1 * needed + 2**20 and all(
        isinstance(value, torch.Tensor)
        and value.dtype == own[name].dtype
        and value.stride() == _in_fast_order(value).stride()
        and torch.equal(value, own[name])
        for name, value in state.items()
    )
