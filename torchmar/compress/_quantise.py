"""Quantise an ONNX model by ONNX Runtime's own tools, with some of its layers left in float.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html has what each of them does.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from ..errors import ExportError
from ..failures import first_line
from ..spec import Compress

Feeds = Mapping[str, Any]
"""A batch by the names of a graph's inputs."""

_LAYERS = {
    "int8": {"Conv", "ConvTranspose", "Gather", "Gemm", "MatMul"},
    "dynamic": {"Conv", "Gather", "Gemm", "LSTM", "MatMul"},
    "weights": {"Gemm", "MatMul"},
    "fp16": {"Conv", "ConvTranspose", "Gather", "Gemm", "GRU", "LSTM", "MatMul"},
}
"""The kinds of nodes with weights that each way of quantising makes smaller."""

_BLOCK = 32  # weights that share a scale; ONNX Runtime's model builder takes as many for 4 bits
_DEFAULT_BITS = 8


class Quantiser:
    """Makes quantised models of one graph, in `folder`.

    `calibration` are batches that the ranges of activations are taken from. Raises ExportError if nothing in
    the graph can be quantised.
    """

    def __init__(self, how: Compress, model: Path, folder: Path, calibration: Sequence[Feeds]) -> None:
        import onnx

        self._how, self._calibration = how, calibration
        self._prepared = folder / f"{model.stem}.prepared.onnx"
        with _quiet(), _reported(how):
            from onnxruntime.quantization.shape_inference import quant_pre_process

            # Joins what can be joined, such as BatchNorm with its Conv. Nothing in it depends on the machine.
            quant_pre_process(str(model), str(self._prepared), skip_symbolic_shape=True)
            graph = onnx.load(str(self._prepared))
            _name_all(graph.graph.node)
            onnx.save(graph, str(self._prepared))
        self._graph = graph.graph
        weights = {one.name for one in self._graph.initializer if len(one.dims) > 1}
        kinds = _LAYERS[str(how.quantize)]
        self.layers = [
            node.name for node in self._graph.node if node.op_type in kinds and weights & {*node.input}
        ]
        """The names of the nodes with weights that are quantised, in the graph's order."""
        if not self.layers:
            there = ", ".join(sorted({node.op_type for node in self._graph.node}))
            raise ExportError(
                f"choose another way than `quantize: {how.quantize}`, or leave `compress` out: it changes "
                f"{', '.join(sorted(kinds))} with weights, and {model.name} has none, only {there}"
            )

    def write(self, target: Path, in_float: Collection[str] = ()) -> None:
        """Write the quantised model, with these layers left in float. Raises ExportError."""
        write = {
            "int8": self._static,
            "dynamic": self._dynamic,
            "weights": self._weights,
            "fp16": self._half,
        }[str(self._how.quantize)]
        with _quiet(), _reported(self._how):
            write(target, in_float)

    # -- each way -------------------------------------------------------------------------------

    def _static(self, target: Path, in_float: Collection[str]) -> None:
        """Quantise weights and activations, as it is recommended for x86: U8S8 in QDQ, per channel.

        Processors without VNNI saturate in it (VPMADDUBSW), which 7 bits of weight (`reduce_range`) prevent:
        so all kinds of CPU give the same answers.
        """
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        methods = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }
        kinds = _kinds_in_qdq()
        # Newer releases keep the ranges for the next try, to the last digit.
        takes_cache = "calibration_cache_path" in inspect.signature(quantize_static).parameters
        kept = {"calibration_cache_path": str(self._prepared.with_suffix(".json"))} if takes_cache else {}
        quantize_static(
            str(self._prepared),
            str(target),
            _reader(self._calibration),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=methods[self._how.calibration or "minmax"],
            op_types_to_quantize=kinds,
            nodes_to_exclude=self._in_float(in_float, kinds),
            # One batch after the other: otherwise all activations of all of them are in memory at once.
            extra_options={"CalibStridedMinMax": 1},
            **kept,
        )

    def _dynamic(self, target: Path, in_float: Collection[str]) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            str(self._prepared),
            str(target),
            op_types_to_quantize=sorted(_LAYERS["dynamic"] - {"Gemm"}),  # it becomes MatMul and Add
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_also_as_product(in_float),
        )

    def _weights(self, target: Path, in_float: Collection[str]) -> None:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
        from onnxruntime.quantization.onnx_model import ONNXModel

        model = ONNXModel(onnx.load(str(self._prepared)))
        model.replace_gemm_with_matmul()
        quantizer = MatMulNBitsQuantizer(
            model.model,
            bits=self._how.bits or _DEFAULT_BITS,
            block_size=_BLOCK,
            nodes_to_exclude=_also_as_product(in_float),
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), False)

    def _half(self, target: Path, in_float: Collection[str]) -> None:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = onnx.load(str(self._prepared))
        half = convert_float_to_float16(model, keep_io_types=True, node_block_list=[*in_float])
        onnx.save(half, str(target))

    # -- the graph ------------------------------------------------------------------------------

    def _in_float(self, layers: Collection[str], kinds: Collection[str]) -> list[str]:
        """Return all nodes to leave in float, if these layers are.

        A node without weights is quantised only between layers that are: after quantised nodes alone, and
        before a quantised layer. So the normalisation before the first layer keeps its precision, what a
        layer in float gives is rounded only by the next one, and what comes after the last layer stays as it
        is: a softmax or the decoding of boxes needs more than 256 steps. Nor is one that takes an infinite
        constant, such as a padding with -inf before a pooling: no scale has such a range.
        """
        leading = self._leading(layers)
        quantised: set[str] = set()  # tensors
        found = []
        constant = {one.name for one in self._graph.initializer}
        endless = _endless(self._graph.initializer)
        for node in self._graph.node:  # in topological order, as ONNX requires
            given = [name for name in node.input if name and name not in constant]
            if node.name in self.layers:
                keep = node.name not in layers
            else:
                keep = node.op_type in kinds and bool(given) and quantised.issuperset(given)
                keep = keep and not leading.isdisjoint(node.output) and endless.isdisjoint(node.input)
            if keep:
                quantised.update(node.output)
            else:
                found.append(node.name)
        return found

    def _leading(self, layers: Collection[str]) -> set[str]:
        """Return the tensors that a quantised layer depends on, if these layers are in float."""
        found: set[str] = set()
        for node in reversed(self._graph.node):
            if (node.name in self.layers and node.name not in layers) or not found.isdisjoint(node.output):
                found.update(node.input)
        return found


def _kinds_in_qdq() -> list[str]:
    """Return the kinds of nodes that ONNX Runtime's tools quantise statically."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return sorted({*QDQRegistry, *QLinearOpsRegistry})


def _name_all(nodes: Any) -> None:
    """Give each node a name of its own: layers are left out by their names."""
    seen: set[str] = set()
    for number, node in enumerate(nodes):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{number}"
        seen.add(node.name)


def _endless(constants: Any) -> set[str]:
    """Return the names of the constants that hold an infinity, or no number."""
    import numpy as np
    from onnx import numpy_helper

    arrays = ((one.name, numpy_helper.to_array(one)) for one in constants)
    return {name for name, array in arrays if array.dtype.kind == "f" and not np.isfinite(array).all()}


def _also_as_product(names: Collection[str]) -> list[str]:
    """Return these names, and those that ONNX Runtime gives to a Gemm's product when it splits it."""
    return [each for name in names for each in (name, f"{name}_MatMul")]


def _reader(batches: Sequence[Feeds]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.set_range(0, len(batches))

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = iter(batches[start_index:end_index])

        def get_next(self) -> Feeds | None:
            return next(self._rest, None)

    return Reader()


@contextmanager
def _reported(how: Compress) -> Iterator[None]:
    """Raise ExportError for whatever ONNX Runtime's tools raise."""
    try:
        yield
    except Exception as error:
        what = f"choose another way than `quantize: {how.quantize}`, or leave `compress` out"
        raise ExportError(f"{what}: ONNX Runtime cannot do it: {first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what ONNX Runtime's tools print to themselves; one of them configures the root logger.

    They compute scales of tensors that are not quantised, too, such as one with an infinity.
    """
    import numpy as np

    root = logging.getLogger()
    handlers, level, disabled = [*root.handlers], root.level, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), np.errstate(invalid="ignore"):
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
