"""Quantises an ONNX model by Olive, with the defaults of its pass OnnxStaticQuantization.

    python -m benchmarks.by_olive MODEL ARRAYS TARGET

ARRAYS is a .npz with the instances of the graph's only input. https://microsoft.github.io/Olive/ describes
the pass and the configuration.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main(model: Path, arrays: Path, target: Path) -> None:
    """Write the quantised model. Raises what Olive raises, or FileNotFoundError if it made none."""
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    import numpy as np
    from olive.data.registry import Registry
    from olive.workflows import run
    from onnxruntime.quantization import CalibrationDataReader

    with np.load(arrays) as content:
        [(name, instances)] = content.items()

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(instances)

        def get_next(self) -> Mapping[str, Any] | None:
            one = next(self._rest, None)
            return None if one is None else {name: one[None]}

    Registry.register_dataloader("instances")(lambda *_, **__: Reader())
    nothing = {"input_shapes": [[1, *instances.shape[1:]]], "input_names": [name], "max_samples": 1}
    data = {
        "name": "calibration",
        "load_dataset_config": {"type": "dummy_dataset", "params": nothing},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "instances"},
    }
    device = {"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}
    with tempfile.TemporaryDirectory(prefix="torchmar-olive-") as folder:
        run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(model)},
                "systems": {"here": {"type": "LocalSystem", "accelerators": [device]}},
                "host": "here",
                "target": "here",
                "data_configs": [data],
                "passes": {"int8": {"type": "OnnxStaticQuantization", "data_config": "calibration"}},
                "evaluate_input_model": False,
                "cache_dir": str(Path(folder) / "cache"),
                "output_dir": str(Path(folder) / "out"),
            }
        )
        shutil.copyfile(Path(folder) / "out" / "model.onnx", target)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
