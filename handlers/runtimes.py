"""What computes: .onnx → ONNX Runtime, .pt2 → AOTInductor, .pth and a module → eager PyTorch.

All three are one call: an array of shape (n, …) in, as the artifact takes it, an array of shape (n, …) out.
Each imports its library only when it is the one in use. Several workers of one archive hold its weights in
memory once.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .base import Array
from .cpus import threads_for

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
    workers = int(config.get("workers", 1))
    threads = threads_for(config.get("threads", "auto"), workers)
    if artifact.suffix == ".onnx":
        return OnnxRuntime(artifact, threads, gpu_id, share=workers > 1)
    if artifact.suffix == ".pt2":
        return AotInductorRuntime(artifact, threads, gpu_id)
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
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu_id is not None:
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": gpu_id}))
            else:
                logger.warning("worker has GPU %d, but this onnxruntime has no CUDA: using the CPU", gpu_id)
        model = artifact
        if share and len(providers) == 1:
            from .shared_weights import optimized_model

            model = optimized_model(artifact) or artifact
        if model is not artifact:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = onnxruntime.InferenceSession(str(model), options, providers=providers)
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
            output = self._forward(self._torch.from_numpy(np.ascontiguousarray(batch)).to(self._device))
        if isinstance(output, list | tuple):
            output = output[0]
        array: Array = output.cpu().numpy()
        return array

    def _forward(self, batch: Any) -> Any:
        return self._model(batch)


class AotInductorRuntime(_TorchRuntime):
    """A package that torch._inductor compiled ahead of time for this kind of machine."""

    def __init__(self, artifact: Path, threads: int, gpu_id: int | None) -> None:
        super().__init__(threads, gpu_id)
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
        model = self._mapped(build, state)
        if model is None:
            model = build(pretrained=False)
            model.load_state_dict(state)
        self._model = model.eval().to(self._device)
        self._mean, self._std = (
            self._torch.tensor(config["image"][key], dtype=self._torch.float32, device=self._device)
            for key in ("mean", "std")
        )

    def _mapped(self, build: Any, state: Mapping[str, Any]) -> Any:
        """The module around the state dict's own tensors; None where it cannot be built that way.

        On the meta device nothing is allocated or initialised. What a module computes while it is built, and
        does not keep in its state dict, is lost there: then it must be built as usual.
        """
        try:
            with self._torch.device("meta"):
                model = build(pretrained=False)
            kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
            if any(kinds.get(name) != tensor.dtype for name, tensor in state.items()):
                return None  # load_state_dict would convert it
            model.load_state_dict(state, assign=True)
        except Exception as error:  # the module's own code, which may not know the meta device
            logger.info("the weights are copied and not shared: %s", error)
            return None
        if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
            return None
        return model

    def _forward(self, batch: Any) -> Any:
        """ToTensor and Normalize, to the bit as torchvision computes them; then the module."""
        pixels = batch.permute(0, 3, 1, 2).to(self._torch.float32).div_(255)
        return self._model(pixels.sub_(self._mean[:, None, None]).div_(self._std[:, None, None]))
