"""Run models: by ONNX Runtime, AOTInductor, torch.export, TorchScript, or eager PyTorch.

Each runtime is one call with named arrays, which have a batch axis. It imports its library only when it is in
use. The workers of one archive hold its weights in memory once.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array, BatchHandler, Inputs, Model, Outputs
from .worker.cpus import threads_for

logger = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"


def open_models(
    config: Mapping[str, Any], model_dir: Path, gpu_id: int | None, handler: BatchHandler[Any]
) -> dict[str, Model]:
    """Open a runtime for each of the `models` in the section `handler` of an archive's model-config.yaml.

    Each has a `file` in `model_dir` and its `format`: onnx, aoti, exported, torchscript, eager (a state dict,
    with the `source` that builds its module), pickled. `prepared` says that torchmar exported the graph,
    which then includes what the handler computes before and after the module; `inputs` and `outputs` are its
    names, if the file has others.
    """
    workers = int(config.get("workers", 1))
    threads = threads_for(config.get("threads", "auto"), workers)
    found: dict[str, Model] = {}
    for name, part in config["models"].items():
        artifact = model_dir / part["file"]
        if not artifact.is_file():
            raise FileNotFoundError(f"{artifact.name}: named in model-config.yaml, not in the archive")
        kind, prepared = part["format"], bool(part.get("prepared"))
        if kind == "onnx":
            before = None if prepared else handler.prepare
            names = part.get("outputs", ()) if prepared else handler.output_names
            found[name] = OnnxModel(
                artifact, threads, gpu_id, share=workers > 1, before=before, output_names=names
            )
        elif kind == "aoti" and prepared:
            found[name] = ExportedModel(_load_aoti(artifact), threads, part["inputs"], part["outputs"])
        elif kind in _LOADERS:
            module = _LOADERS[kind](artifact, part)
            # AOTInductor compiles for one kind of device, here the CPU.
            found[name] = TorchModel(module, handler, threads, None if kind == "aoti" else gpu_id)
        else:
            raise ValueError(f"{artifact.name}: format {kind!r} in model-config.yaml is not known")
    return found


# -- ONNX Runtime -------------------------------------------------------------------------------


class OnnxModel:
    """Runs ONNX Runtime, on CUDA if the worker has a GPU that the library can use."""

    def __init__(
        self,
        artifact: Path,
        threads: int,
        gpu_id: int | None,
        *,
        share: bool,
        before: Callable[[Inputs], Inputs] | None = None,
        output_names: Sequence[str] = (),
    ) -> None:
        # ONNX Runtime sends telemetry unless this is set before its import.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Planning memory for each batch size costs up to 24 MB per worker and saves no time.
        options.enable_mem_pattern = False
        # Between two requests the threads would spin, and take processors from the frontend.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = None
        if share and gpu_id is None:
            session = _open_shared(artifact, options)
        if session is None:
            providers = _providers(gpu_id)
            session = onnxruntime.InferenceSession(str(artifact), options, providers=providers)
        if gpu_id is not None and session.get_providers()[0] != _CUDA:
            logger.warning("worker has GPU %d, but this onnxruntime cannot use it: using the CPU", gpu_id)
        self._session = session
        self._inputs = [one.name for one in session.get_inputs()]
        first = {one.shape[0] for one in session.get_inputs() if one.shape}
        rows = first.pop() if len(first) == 1 else None
        self.fixed_rows = rows if isinstance(rows, int) else None
        """The batch size that the graph requires; None if it is free."""
        self._before = before
        self._outputs = named_as([one.name for one in session.get_outputs()], output_names)

    def __call__(self, inputs: Inputs) -> Outputs:
        """Return every output of the graph; runs instances one by one if it takes only one."""
        if self._before is not None:
            inputs = self._before(inputs)
        values = arguments(self._inputs, inputs)
        rows = {len(array) for array in values.values() if array.ndim}
        if self.fixed_rows == 1 and len(rows) == 1 and rows != {1}:
            each = [self._run({n: a[i : i + 1] for n, a in values.items()}) for i in range(*rows)]
            found = [np.concatenate(parts) for parts in zip(*each, strict=True)]
        else:
            found = self._run(values)
        return dict(zip(self._outputs, found, strict=True))

    def _run(self, values: Inputs) -> list[Array]:
        found: list[Array] = self._session.run(None, values)
        return found


def _providers(gpu_id: int | None) -> list[Any]:
    """Return CUDA first if the worker has a GPU and the library supports it; it may still fail to load."""
    import onnxruntime

    if gpu_id is None or _CUDA not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    return [(_CUDA, {"device_id": gpu_id}), "CPUExecutionProvider"]


def _open_shared(artifact: Path, options: Any) -> Any:
    """Return a session on weights that all workers map, or None."""
    import onnxruntime

    from .worker.shared_weights import optimized_model

    model = optimized_model(artifact)
    if model is None:
        return None
    level = options.graph_optimization_level
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the file was removed or changed meanwhile
        logger.warning("the weights of %s are not shared, %s does not load: %s", artifact.name, model, error)
        options.graph_optimization_level = level
        return None


def arguments(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under a model's input names: the same names, or else in order.

    Raises ValueError if their numbers differ.
    """
    if len(names) != len(values):
        raise ValueError(f"the model takes {', '.join(names)}; the handler gives {', '.join(values)}")
    if set(names) == set(values):
        return {name: values[name] for name in names}
    return dict(zip(names, values.values(), strict=True))


def named_as(found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the names of a model's outputs: the handler's, if they are as many and differ."""
    renamed = len(found) == len(wanted) and not set(wanted) <= set(found)
    return list(wanted if renamed else found)


# -- torch --------------------------------------------------------------------------------------


class _OfTorch:
    """Shared by torch's runtimes: converts arrays to tensors on the device, and back."""

    def __init__(self, threads: int, gpu_id: int | None) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(threads)
        gpu = gpu_id is not None and torch.cuda.is_available()
        self._device = torch.device(f"cuda:{gpu_id}" if gpu else "cpu")

    def __call__(self, inputs: Inputs) -> Outputs:
        """Return every output of the module."""
        with self._torch.inference_mode():
            tensors = {name: self._tensor(array) for name, array in inputs.items()}
            return {name: _array(tensor) for name, tensor in self._forward(tensors).items()}

    def _tensor(self, array: Array) -> Any:
        array = np.ascontiguousarray(array)
        # torch warns about read-only memory, such as a Pillow picture's.
        return self._torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device)

    def _forward(self, tensors: dict[str, Any]) -> Mapping[str, Any]:
        raise NotImplementedError


class ExportedModel(_OfTorch):
    """A package that torch._inductor compiled ahead of time for this kind of machine, and for its CPU."""

    def __init__(self, model: Any, threads: int, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__(threads, gpu_id=None)
        self._model, self._inputs, self._outputs = model, inputs, outputs

    def _forward(self, tensors: dict[str, Any]) -> Mapping[str, Any]:
        found = self._model(*arguments(self._inputs, tensors).values())
        found = found if isinstance(found, list | tuple) else [found]
        return dict(zip(self._outputs, found, strict=True))


class TorchModel(_OfTorch):
    """A module, with what the handler computes before and after it."""

    def __init__(self, module: Any, handler: BatchHandler[Any], threads: int, gpu_id: int | None) -> None:
        super().__init__(threads, gpu_id)
        self.module = module.to(self._device)
        self._handler = handler

    def _forward(self, tensors: dict[str, Any]) -> Mapping[str, Any]:
        return forward(self.module, self._handler, tensors)


class Unfit(ValueError):
    """A module's output does not suit its handler."""


def forward(module: Any, handler: BatchHandler[Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Run the handler's prefix, the module and the handler's suffix: named tensors in, named tensors out."""
    return finished(module, handler, handler.graph_prefix(dict(batch)), batch)


def finished(
    module: Any, handler: BatchHandler[Any], prepared: Mapping[str, Any], batch: Mapping[str, Any]
) -> dict[str, Any]:
    """Run what follows the prefix, which made `prepared` of `batch`."""
    return {name: _plain(tensor) for name, tensor in _outputs(module, handler, prepared, batch).items()}


def differentiable(module: Any, handler: BatchHandler[Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `forward` does, with the gradients that training needs."""
    return _outputs(module, handler, handler.graph_prefix(dict(batch)), batch)


def _outputs(
    module: Any, handler: BatchHandler[Any], prepared: Mapping[str, Any], batch: Mapping[str, Any]
) -> dict[str, Any]:
    # while a graph is exported this is a symbol, which len() cannot return
    count = next(iter(batch.values())).shape[0]
    names = _parameters(module)
    if names is not None and set(prepared) == set(names):
        output = module(*(prepared[name] for name in names))  # torch.export's modules take no keywords
    elif names is not None and set(prepared) <= set(names):
        output = module(**prepared)
    else:
        output = module(*prepared.values())
    try:
        found = named_tensors(handler.graph_suffix(output, count))
    except ValueError as error:
        raise Unfit(str(error)) from error
    return dict(zip(named_as(list(found), handler.output_names), found.values(), strict=True))


def _parameters(module: Any) -> list[str] | None:
    """Return the names of `forward`'s parameters; None if they are unknown."""
    try:
        return list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError, AttributeError):
        return None


def named_tensors(output: Any) -> dict[str, Any]:
    """Return every tensor in a module's output, under the dotted name that leads to it.

    A single one is `output`; those of a tuple or a list are output_0, output_1, … Raises ValueError if there
    is none.
    """
    import torch

    if isinstance(output, torch.Tensor):
        return {"output": output}
    found = dict(tensors_in("", output))
    if not found:
        raise ValueError(f"no tensor in a {type(output).__name__}")
    return {name if not name[:1].isdigit() else f"output_{name}": tensor for name, tensor in found.items()}


def tensors_in(name: str, output: Any) -> Iterator[tuple[str, Any]]:
    """Yield every tensor in an output, under the dotted name that leads to it."""
    import torch

    if isinstance(output, torch.Tensor):
        yield name, output
        return
    if hasattr(output, "_asdict"):  # a named tuple
        output = output._asdict()
    if is_dataclass(output) and not isinstance(output, Mapping | type):
        output = {field.name: getattr(output, field.name) for field in fields(output)}
    parts: Any = ()
    if isinstance(output, Mapping):
        parts = output.items()
    elif isinstance(output, list | tuple):
        parts = enumerate(output)
    for key, part in parts:
        yield from tensors_in(f"{name}.{key}" if name else str(key), part)


def _plain(tensor: Any) -> Any:
    """Return what numpy and every runtime can hold: a dense tensor, with float32 for bfloat16."""
    import torch

    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.requires_grad:
        tensor = tensor.detach()
    return tensor.to(torch.float32) if tensor.dtype == torch.bfloat16 else tensor


def _array(tensor: Any) -> Array:
    array: Array = tensor.cpu().numpy()
    return array


def unwrapped(module: Any) -> Any:
    """Return the module inside the wrappers of torch.compile and DataParallel."""
    while type(module).__name__ in {"OptimizedModule", "DataParallel", "DistributedDataParallel"}:
        module = module._orig_mod if hasattr(module, "_orig_mod") else module.module
    return module


# -- from a file to a module --------------------------------------------------------------------


def _load_aoti(artifact: Path) -> Any:
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(artifact))


class _Package:
    """An AOTInductor package, called like a module; it has no names, so the order counts."""

    def __init__(self, artifact: Path, _part: Mapping[str, Any]) -> None:
        self._model = _load_aoti(artifact)

    def to(self, _device: Any) -> _Package:
        """Return itself: it cannot move."""
        return self

    def __call__(self, *tensors: Any) -> Any:
        return self._model(*tensors)


def _load_exported(artifact: Path, _part: Mapping[str, Any]) -> Any:
    import torch

    return torch.export.load(artifact).module()


def _load_torchscript(artifact: Path, _part: Mapping[str, Any]) -> Any:
    import torch

    return torch.jit.load(str(artifact), map_location="cpu").eval()


def _load_pickled(artifact: Path, _part: Mapping[str, Any]) -> Any:
    """Load a whole module, which runs any code in it; model.yaml's allow_pickle has permitted that.

    Its classes come from the model's folder, by the plain names of its files.
    """
    import torch

    folder = str(artifact.parent / "model_source")
    if folder not in sys.path:
        sys.path.append(folder)
    return torch.load(artifact, map_location="cpu", weights_only=False).eval()


def load_eager(artifact: Path, part: Mapping[str, Any]) -> Any:
    """Build the module by the archive's own `model_source` package, and load its weights.

    The weights are read with `weights_only=True`: a state dict, never a pickled object. They stay mapped from
    the file, so the workers of one archive share them, and a worker starts without reading them all.
    """
    import torch

    module_name, _, function = part["source"].partition(":")
    build = getattr(importlib.import_module(f"model_source.{module_name}"), function)
    state = torch.load(artifact, map_location="cpu", weights_only=True, mmap=True)
    with _without_initial_weights():
        model = unwrapped(build(pretrained=False) if part.get("pretrained", True) else build())
    own = model.state_dict()
    same = all(_kind(own.get(name)) == _kind(tensor) for name, tensor in state.items())
    model.load_state_dict(state, assign=same)  # conversion needs copies
    return model.eval()


def _kind(tensor: Any) -> Any:
    """Return a tensor's dtype; None for a module's extra state, which can be anything."""
    return getattr(tensor, "dtype", None)


_LOADERS: Mapping[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "aoti": _Package,
    "eager": load_eager,
    "exported": _load_exported,
    "pickled": _load_pickled,
    "torchscript": _load_torchscript,
}


@contextmanager
def _without_initial_weights() -> Iterator[None]:
    """Leave parameters as they were allocated, without touching their memory: the state dict replaces them.

    Buffers, and other tensors that a module keeps, are computed as usual, because no state dict restores
    them. For the same reason the module is not built on the meta device.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    fill = {
        getattr(torch.Tensor, f"{name}_")
        for name in ("uniform", "normal", "fill", "zero", "erfinv", "mul", "add", "clamp")
    }

    class LeaveParameters(TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            initial = func in fill or getattr(func, "__module__", "") == "torch.nn.init"
            tensor = args[0] if args else (kwargs or {}).get("tensor")
            if initial and isinstance(tensor, torch.nn.Parameter):
                return tensor
            return func(*args, **(kwargs or {}))

    with LeaveParameters():
        yield
