"""What computes: .onnx → ONNX Runtime, .pt2 → AOTInductor, .pth and a module → eager PyTorch.

All three are one call: an array of shape (n, …) in, as the artifact takes it, an array of shape (n, …) out.
Each imports its library only when it is the one in use. Several workers of one archive hold its weights in
memory once.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .base import Array
from .cpus import threads_for

logger = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"


class Runtime(Protocol):
    """One forward pass."""

    def __call__(self, batch: Array) -> Array:
        """(n, …) in, (n, …) out."""
        ...


def open_runtime(config: Mapping[str, Any], model_dir: Path, gpu_id: int | None) -> Runtime:
    """The runtime for `config["artifact"]`, a file in `model_dir`; its suffix decides."""
    artifact = model_dir / config["artifact"]
    if not artifact.is_file():
        raise FileNotFoundError(f"{artifact.name}: named in model-config.yaml, not in the archive")
    workers = int(config.get("workers", 1))
    threads = threads_for(config.get("threads", "auto"), workers)
    if artifact.suffix == ".onnx":
        return OnnxRuntime(artifact, threads, gpu_id, share=workers > 1)
    if artifact.suffix == ".pt2":
        return AotInductorRuntime(artifact, threads)
    if artifact.suffix == ".pth":
        return EagerRuntime(artifact, config, threads, gpu_id)
    raise ValueError(f"{artifact.name}: expected .onnx, .pt2 or .pth")


class OnnxRuntime:
    """ONNX Runtime, on CUDA where the worker has a GPU and the library can use it."""

    def __init__(self, artifact: Path, threads: int, gpu_id: int | None, *, share: bool) -> None:
        # ONNX Runtime sends telemetry unless told otherwise before it is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Planning memory for each batch size that was seen costs up to 24 MB a worker and gains no time.
        options.enable_mem_pattern = False
        # Between two requests the threads would spin, and take the processors from the frontend.
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
        self._input = session.get_inputs()[0].name

    def __call__(self, batch: Array) -> Array:
        """The model's first output."""
        output: Array = self._session.run(None, {self._input: batch})[0]
        return output


def _providers(gpu_id: int | None) -> list[Any]:
    """CUDA first where the worker has a GPU and the library was built for it; it may still fail to load."""
    import onnxruntime

    if gpu_id is None or _CUDA not in onnxruntime.get_available_providers():
        return ["CPUExecutionProvider"]
    return [(_CUDA, {"device_id": gpu_id}), "CPUExecutionProvider"]


def _open_shared(artifact: Path, options: Any) -> Any:
    """A session on weights that all workers map, or None."""
    import onnxruntime

    from .shared_weights import optimized_model

    model = optimized_model(artifact)
    if model is None:
        return None
    level = options.graph_optimization_level
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # somebody has removed or changed it since
        logger.warning("the weights of %s are not shared, %s does not load: %s", artifact.name, model, error)
        options.graph_optimization_level = level
        return None


def unwrapped(module: Any) -> Any:
    """The module inside those that torch.compile and DataParallel put around it."""
    while type(module).__name__ in {"OptimizedModule", "DataParallel", "DistributedDataParallel"}:
        module = module._orig_mod if hasattr(module, "_orig_mod") else module.module
    return module


def only_tensor(output: Any) -> Any:
    """The tensor in what a module gives: alone, or in a tuple, a list, a mapping, a dataclass.

    Of several it is the one named `logits`. Raises ValueError where that leaves none, or several.
    """
    found = list(_tensors("", output))
    if len(found) > 1:
        found = [(name, tensor) for name, tensor in found if name.rpartition(".")[2] == "logits"] or found
    if len(found) == 1:
        return found[0][1]
    names = ", ".join(name for name, _ in found[:5]) + (", …" if len(found) > 5 else "")
    several = f"{len(found)} tensors ({names})" if found else "no tensor"
    raise ValueError(f"{several} in a {type(output).__name__}")


def _tensors(name: str, output: Any) -> Iterator[tuple[str, Any]]:
    """Every tensor in an output, under the dotted name that leads to it."""
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
        yield from _tensors(f"{name}.{key}" if name else str(key), part)


def rows_of(tensor: Any, rows: int) -> Any:
    """A module's tensor as float32 of shape (rows, outputs).

    What drops the batch dimension of a batch of one, as `squeeze()` does, gets it back. Raises ValueError
    where its numbers are no scores.
    """
    import torch

    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if not tensor.dtype.is_floating_point:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{kind} numbers, expected floating-point scores")
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype != torch.float32:
        tensor = tensor.to(torch.float32)
    return tensor if tensor.ndim == 2 else tensor.reshape(rows, -1)


class _TorchRuntime:
    """What AOTInductor and eager share: arrays to tensors on the device, and back."""

    def __init__(self, threads: int, gpu_id: int | None) -> None:
        import torch

        self._torch = torch
        torch.set_num_threads(threads)
        self._device = torch.device(
            f"cuda:{gpu_id}" if gpu_id is not None and torch.cuda.is_available() else "cpu"
        )
        self._model: Any = None

    def __call__(self, batch: Array) -> Array:
        """The model's output as (n, outputs), float32: see `rows_of`."""
        with self._torch.inference_mode():
            output = self._forward(self._torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))
            array: Array = rows_of(only_tensor(output), len(batch)).cpu().numpy()
        return array

    def _forward(self, batch: Any) -> Any:
        return self._model(batch)


class AotInductorRuntime(_TorchRuntime):
    """A package that torch._inductor compiled ahead of time for this kind of machine, and for its CPU."""

    def __init__(self, artifact: Path, threads: int) -> None:
        super().__init__(threads, gpu_id=None)
        from torch._inductor import aoti_load_package

        self._model = aoti_load_package(str(artifact))


class EagerRuntime(_TorchRuntime):
    """The module itself, built by the archive's own `model_source` package, with its weights loaded.

    The weights are read with `weights_only=True`: a state dict, never a pickled object. They stay where the
    file is mapped: the workers of one archive share them, and a worker starts without reading them all.
    """

    def __init__(self, artifact: Path, config: Mapping[str, Any], threads: int, gpu_id: int | None) -> None:
        super().__init__(threads, gpu_id)
        module_name, _, function = config["source"].partition(":")
        build = getattr(importlib.import_module(f"model_source.{module_name}"), function)
        state = self._torch.load(artifact, map_location="cpu", weights_only=True, mmap=True)
        with _without_initial_weights():
            model = unwrapped(build(pretrained=False))
        own = model.state_dict()
        same = all(_kind(own.get(name)) == _kind(tensor) for name, tensor in state.items())
        model.load_state_dict(state, assign=same)  # what must be converted is copied
        self._model = model.eval().to(self._device)
        self._mean, self._std = (
            self._torch.tensor(config["image"][key], dtype=self._torch.float32, device=self._device)
            for key in ("mean", "std")
        )

    def _forward(self, batch: Any) -> Any:
        """ToTensor and Normalize, to the bit as torchvision computes them; then the module."""
        pixels = batch.permute(0, 3, 1, 2).to(self._torch.float32).div_(255)
        return self._model(pixels.sub_(self._mean[:, None, None]).div_(self._std[:, None, None]))


def _kind(tensor: Any) -> Any:
    """A tensor's dtype; None of a module's extra state, which is anything."""
    return getattr(tensor, "dtype", None)


@contextmanager
def _without_initial_weights() -> Iterator[None]:
    """Parameters stay as they were allocated, so their memory is never touched: the state dict replaces them.

    Buffers, and tensors that a module keeps elsewhere, are computed as usual: no state dict brings those
    back, which is why the module is not built on the meta device.
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
