"""What computes: .onnx → ONNX Runtime, .pt2 → AOTInductor, .pth and a module → eager PyTorch.

All three are one call: a float32 array of shape (n, …) in, an array of shape (n, …) out. Each imports its
library only when it is the one in use.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .base import Array

logger = logging.getLogger(__name__)


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
    threads = int(config.get("threads", 1))
    if artifact.suffix == ".onnx":
        return OnnxRuntime(artifact, threads, gpu_id)
    if artifact.suffix == ".pt2":
        return AotInductorRuntime(artifact, threads, gpu_id)
    if artifact.suffix == ".pth":
        return EagerRuntime(artifact, config["source"], threads, gpu_id)
    raise ValueError(f"{artifact.name}: expected .onnx, .pt2 or .pth")


class OnnxRuntime:
    """ONNX Runtime, on CUDA where the worker has a GPU and the library can use it."""

    def __init__(self, artifact: Path, threads: int, gpu_id: int | None) -> None:
        # ONNX Runtime sends telemetry unless told otherwise before it is imported.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu_id is not None:
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu_id}))
            else:
                logger.warning("worker has GPU %d, but this onnxruntime has no CUDA: using the CPU", gpu_id)
        self._session = onnxruntime.InferenceSession(str(artifact), options, providers=providers)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: Array) -> Array:
        """The model's first output."""
        output: Array = self._session.run(None, {self._input: batch})[0]
        return output


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
        """The model's output; the first, where it gives several."""
        with self._torch.inference_mode():
            output = self._model(self._torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))
        if isinstance(output, list | tuple):
            output = output[0]
        array: Array = output.cpu().numpy()
        return array


class AotInductorRuntime(_TorchRuntime):
    """A package that torch._inductor compiled ahead of time for this kind of machine."""

    def __init__(self, artifact: Path, threads: int, gpu_id: int | None) -> None:
        super().__init__(threads, gpu_id)
        from torch._inductor import aoti_load_package

        self._model = aoti_load_package(str(artifact))


class EagerRuntime(_TorchRuntime):
    """The module itself, built by the archive's own `model_source` package, with its weights loaded.

    The weights are read with `weights_only=True`: a state dict, never a pickled object.
    """

    def __init__(self, artifact: Path, source: str, threads: int, gpu_id: int | None) -> None:
        super().__init__(threads, gpu_id)
        module_name, _, function = source.partition(":")
        build = getattr(importlib.import_module(f"model_source.{module_name}"), function)
        model = build(pretrained=False)
        state = self._torch.load(artifact, map_location="cpu", weights_only=True, mmap=True)
        model.load_state_dict(state)
        self._model = model.eval().to(self._device)
