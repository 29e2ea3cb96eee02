"""Quantises ResNet-18 to int8, statically, from the fp32 archive's graph.

The loss of accuracy is not measured. The int8 server's answers are compared with those of the int8 handler
without a server.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .work import Work

CROPS = 64
SEED = 0


def quantise(archive: Path, model: Path, target: Path, photographs: Sequence[Path]) -> None:
    """Quantise `model`, the graph of an unpacked archive, with inputs from that archive's handler.

    https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html: static and QDQ for a CNN;
    pre-processing first; weights per channel. The data types are U8S8, for which x86 has an instruction both
    in VNNI and in AVX2/AVX-512 (VPMADDUBSW); S8S8 was three times slower here. VPMADDUBSW saturates, which
    `reduce_range` (7 bits of weight) prevents, so that both kinds of CPU give the same answers.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    excluded, input_name = _before_first_convolution(prepared)
    handler = Work(archive).handler
    batches = (handler.decode({"body": crop}).inputs for crop in crops(photographs))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {input_name: batch}

    quantize_static(
        str(prepared),
        str(target),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        nodes_to_exclude=excluded,
    )
    prepared.unlink()


def crops(photographs: Sequence[Path]) -> Iterator[bytes]:
    """Yield random square crops of at least 200 pixels, as JPEG files for the handler's decode."""
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in photographs]
    choose = random.Random(SEED)  # noqa: S311 (no secret)
    for number in range(CROPS):
        picture = pictures[number % len(pictures)]
        size = choose.randint(200, min(picture.size))
        left, top = (choose.randint(0, whole - size) for whole in picture.size)
        file = io.BytesIO()
        picture.crop((left, top, left + size, top + size)).save(file, "JPEG", quality=95)
        yield file.getvalue()


def _before_first_convolution(model: Path) -> tuple[list[str], str]:
    """Return the nodes before the first convolution, which are not quantised, and the input's name."""
    import onnx

    graph = onnx.load(str(model)).graph
    makers = {output: node for node in graph.node for output in node.output}
    first = next(node for node in graph.node if node.op_type == "Conv")
    found, pending = [], [first.input[0]]
    while pending:
        node = makers.get(pending.pop())
        if node is not None:
            found.append(node.name)
            pending.extend(node.input)
    return found, graph.input[0].name
