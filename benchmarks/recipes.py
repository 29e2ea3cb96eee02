"""Quantises an ONNX model by others' plain recipes, which torchmar's int8 is compared with.

Their settings are the defaults, but for those that a name says. They know nothing of `accept`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchmar.errors import TorchmarError

Batches = Sequence[Mapping[str, Any]]
"""Arrays by the names of the graph's inputs, to take ranges of activations from."""

_LONGEST = 600.0  # seconds
OLIVE = "olive"


def onnx_runtime(model: Path, target: Path, batches: Batches, *, per_channel: bool = False) -> None:
    """Write ONNX Runtime's own int8: quant_pre_process, then quantize_static.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    rest = iter(batches)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, Any] | None:
            return next(rest, None)

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(str(prepared), str(target), Reader(), per_channel=per_channel)
    prepared.unlink()


def olive(model: Path, target: Path, batches: Batches) -> None:
    """Write the int8 of Olive's pass OnnxStaticQuantization. Raises TorchmarError if it cannot.

    It runs in a process of its own, because it sets up logging and telemetry for all of its process.
    """
    import numpy as np

    if importlib.util.find_spec(OLIVE) is None:
        raise TorchmarError("pip install olive-ai")
    arrays = target.with_suffix(".npz")
    [name] = batches[0]
    content: Any = {name: np.concatenate([batch[name] for batch in batches])}
    np.savez(arrays, **content)
    command = [sys.executable, "-m", "benchmarks.by_olive", str(model), str(arrays), str(target)]
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=_LONGEST, check=False
        )
    except subprocess.TimeoutExpired:
        raise TorchmarError(f"Olive took longer than {_LONGEST:.0f} s") from None
    if done.returncode != 0 or not target.is_file():
        raise TorchmarError(f"Olive failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
