"""Quantise an ONNX model by ONNX Runtime's own tools, and find out which layers that harms most.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html has what each of them does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
        kinds = _LAYERS[how.quantize]
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
        }[self._how.quantize]
        with _quiet(), _reported(self._how):
            write(target, in_float)

    def noise(
        self, quantised: Path, batches: Sequence[Feeds], in_float: Collection[str] = ()
    ) -> dict[str, float]:
        """Return how much noise each other layer adds in a model that `write` made with these in float.

        Noise is the power of the difference from the float model, relative to the power of the signal, on
        average over a tensor's channels. A layer's is that after it less that before it: the noise of
        independent roundings adds up so (Bennett, Spectra of Quantized Signals, Bell System Technical Journal
        27, 1948).
        """
        import onnx

        other = onnx.load(str(quantised))
        made = {name for node in other.graph.node for name in node.output}
        _, rounded = self._divided(in_float, _kinds_in_qdq())
        places = {name: self._places(name, made, rounded) for name in self.layers if name not in in_float}
        pairs = sorted({pair for both in places.values() for pair in both if all(pair)})
        relative = _relative_noise(onnx.load(str(self._prepared)), other, pairs, batches)
        return {
            name: relative.get(after, 0.0) - relative.get(before, 0.0)
            for name, (before, after) in places.items()
        }

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
            nodes_to_exclude=self._divided(in_float, kinds)[0],
            # One batch after the other: otherwise all activations of all of them are in memory at once.
            extra_options={"CalibStridedMinMax": 1},
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

    def _divided(self, layers: Collection[str], kinds: Collection[str]) -> tuple[list[str], set[str]]:
        """Return all nodes to leave in float, if these layers are, and the tensors that the others make.

        A node without weights is quantised only after quantised ones: so the normalisation before the first
        layer keeps its precision, and what a layer in float gives is rounded only by the next one.
        """
        quantised: set[str] = set()
        found = []
        constant = {one.name for one in self._graph.initializer}
        for node in self._graph.node:  # in topological order, as ONNX requires
            given = [name for name in node.input if name and name not in constant]
            if node.name in self.layers:
                keep = node.name not in layers
            else:
                keep = node.op_type in kinds and bool(given) and quantised.issuperset(given)
            if keep:
                quantised.update(node.output)
            else:
                found.append(node.name)
        return found, quantised

    def _places(
        self, layer: str, made: Collection[str], rounded: Collection[str]
    ) -> tuple[tuple[str, str], tuple[str, str]]:
        """Return the tensors before and after a layer: in the float graph, and the same in the quantised one.

        What a quantised node makes is taken as it is rounded, which is a part of that node's noise.
        """
        [node] = [one for one in self._graph.node if one.name == layer]
        constant = {one.name for one in self._graph.initializer}
        before = [name for name in node.input if name and name not in constant]
        # A Relu or Clip may have been joined with it.
        after = [node.output[0]]
        after += [one.output[0] for one in self._graph.node if node.output[0] in one.input]

        def first(names: Sequence[str]) -> tuple[str, str]:
            for name in names:
                dequantised = f"{name}_DequantizeLinear_Output"
                if name in rounded and dequantised in made:
                    return name, dequantised
                if name in made:
                    return name, name
            return "", ""

        return first(before), first(after)


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


def _relative_noise(
    one: Any, other: Any, pairs: Sequence[tuple[str, str]], batches: Sequence[Feeds]
) -> dict[tuple[str, str], float]:
    """Return the relative power of the difference between two models, at each pair of tensors.

    It is at most 1 for a channel, which says as little with more noise.
    """
    import numpy as np

    mine, theirs = (
        _with_outputs(model, names)
        for model, names in zip((one, other), zip(*pairs, strict=True), strict=True)
    )
    noise, signal = ({pair: np.zeros(()) for pair in pairs} for _ in range(2))
    for feeds in batches:
        for pair, wanted, found in zip(pairs, mine(feeds), theirs(feeds), strict=True):
            axes = tuple(
                axis for axis in range(wanted.ndim) if axis != (1 if wanted.ndim > 3 else wanted.ndim - 1)
            )
            noise[pair] = noise[pair] + np.square(wanted - found).sum(axes)
            signal[pair] = signal[pair] + np.square(wanted).sum(axes)
    return {
        pair: float(
            np.divide(noise[pair], signal[pair], out=np.zeros_like(noise[pair]), where=signal[pair] > 0)
            .clip(max=1)
            .mean()
        )
        for pair in pairs
    }


def _with_outputs(model: Any, tensors: Sequence[str]) -> Callable[[Feeds], list[Any]]:
    """Return a function that gives these tensors, as float64, for a batch."""
    import numpy as np
    import onnx
    import onnxruntime

    there = {one.name for one in model.graph.output}
    new = dict.fromkeys(name for name in tensors if name not in there)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in new)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    asked = [*dict.fromkeys(tensors)]

    def run(feeds: Feeds) -> list[Any]:
        found = dict(zip(asked, session.run(asked, feeds), strict=True))
        return [np.asarray(found[name], np.float64) for name in tensors]

    return run


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
    """Keep what ONNX Runtime's tools print to themselves; one of them configures the root logger."""
    root = logging.getLogger()
    handlers, level, disabled = [*root.handlers], root.level, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
        root.setLevel(level)
