"""TensorFlow.js graph model → nn.Module: its nodes, one after another, as operations of torch.

Reads what `tensorflowjs_converter` writes (format "graph-model"): a JSON file with the graph and a manifest
of weights, which lie in a binary file beside it, as float16 or as 8-bit numbers with a scale where they
were quantised. Tensors keep TensorFlow's layout, NHWC; what convolves and pools turns them for the moment.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

Tensor = torch.Tensor


class TfjsGraph(torch.nn.Module):
    """The graph in `file`: its input in, its outputs out, in the order of `outputs`, else all of them."""

    def __init__(self, file: Path, outputs: Sequence[str] | None = None) -> None:
        super().__init__()
        content = json.loads(file.read_text(encoding="utf-8"))
        self._nodes = [node for node in content["modelTopology"]["node"] if node["op"] != "Const"]
        known = {node["name"]: index for index, node in enumerate(self._nodes)}
        self._nodes = _in_order(self._nodes, known)
        self._outputs = list(outputs or content["signature"]["outputs"])
        # Shapes, axes and the like are no tensors: an exporter must know them.
        self._constants: dict[str, Any] = {}
        self._weights: dict[str, str] = {}
        for index, (name, value) in enumerate(read_weights(file, content["weightsManifest"]).items()):
            if value.dtype == np.float32 and value.ndim:
                self._weights[name] = f"weight_{index}"
                self.register_buffer(f"weight_{index}", torch.from_numpy(value))
            else:
                self._constants[name] = value if value.ndim else value.item()

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        """The outputs for one input; a single one is no tuple."""
        values = self._constants | {name: getattr(self, own) for name, own in self._weights.items()}
        for node in self._nodes:
            name, operation = node["name"], node["op"]
            if operation == "Placeholder":
                values[name] = x
                continue
            inputs = [_value(values, each) for each in node.get("input", ()) if not each.startswith("^")]
            if operation not in OPERATIONS:
                raise NotImplementedError(f"{operation}: an operation of TensorFlow that is not known here")
            values[name] = OPERATIONS[operation](inputs, _Attributes(node.get("attr", {})))
        found = tuple(_value(values, name.removesuffix(":0")) for name in self._outputs)
        return found if len(found) > 1 else found[0]


def _value(values: Mapping[str, Any], name: str) -> Any:
    base, _, index = name.partition(":")
    value = values[base]
    return value[int(index or 0)] if isinstance(value, tuple | list) else value


def _in_order(nodes: list[dict[str, Any]], known: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each node after those that it reads."""
    done: set[str] = set()
    ordered: list[dict[str, Any]] = []

    def visit(node: dict[str, Any]) -> None:
        stack = [node]
        while stack:
            here = stack[-1]
            reads = [name.lstrip("^").partition(":")[0] for name in here.get("input", ())]
            waiting = [name for name in reads if name in known and name not in done]
            if waiting:
                stack += [nodes[known[name]] for name in waiting]
                continue
            stack.pop()
            if here["name"] not in done:
                done.add(here["name"])
                ordered.append(here)

    for node in nodes:
        visit(node)
    return ordered


def read_weights(file: Path, manifest: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """All weights of a manifest, by name, as float32 or integers."""
    found = {}
    for group in manifest:
        raw = b"".join((file.parent / path).read_bytes() for path in group["paths"])
        start = 0
        for weight in group["weights"]:
            how = weight.get("quantization")
            dtype = np.dtype(how["dtype"] if how else weight["dtype"]).newbyteorder("<")
            count = int(np.prod(weight["shape"], dtype=np.int64))
            array = np.frombuffer(raw, dtype, count, start).reshape(weight["shape"])
            start += array.nbytes
            if how and "scale" in how:
                array = array * np.float32(how["scale"]) + np.float32(how["min"])
            found[weight["name"]] = array.astype(weight["dtype"])
    return found


class _Attributes:
    """The attributes of a node."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def text(self, name: str) -> str:
        return base64.b64decode(self._content[name]["s"]).decode()

    def integers(self, name: str) -> list[int]:
        return [int(each) for each in self._content[name]["list"]["i"]]

    def flag(self, name: str) -> bool:
        return bool(self._content.get(name, {}).get("b", False))

    def number(self, name: str, default: float) -> float:
        return float(self._content.get(name, {}).get("f", default))


Operation = Callable[[list[Any], _Attributes], Any]


def _padded(x: Tensor, kernel: Sequence[int], attributes: _Attributes, value: float = 0.0) -> Tensor:
    """NCHW, with what TensorFlow's SAME adds: more at the end where the sum is odd."""
    if attributes.text("padding") != "SAME":
        return x
    strides = attributes.integers("strides")[1:3]
    sides: list[int] = []
    for size, length, stride in zip(x.shape[2:], kernel, strides, strict=True):
        total = max((-(-int(size) // stride) - 1) * stride + length - int(size), 0)
        sides = [total // 2, total - total // 2, *sides]
    return functional.pad(x, sides, value=value)


def _convolve(inputs: list[Any], attributes: _Attributes) -> Tensor:
    x, weight = inputs[0].permute(0, 3, 1, 2), inputs[1].permute(3, 2, 0, 1)
    x = _padded(x, weight.shape[2:], attributes)
    y = functional.conv2d(x, weight, stride=attributes.integers("strides")[1:3])
    return y.permute(0, 2, 3, 1)


def _convolve_depthwise(inputs: list[Any], attributes: _Attributes) -> Tensor:
    x = inputs[0].permute(0, 3, 1, 2)
    height, width, channels, multiplier = inputs[1].shape
    weight = inputs[1].permute(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width)
    x = _padded(x, (height, width), attributes)
    y = functional.conv2d(x, weight, stride=attributes.integers("strides")[1:3], groups=channels)
    return y.permute(0, 2, 3, 1)


def _convolve_transposed(inputs: list[Any], attributes: _Attributes) -> Tensor:
    weight = inputs[1].permute(3, 2, 0, 1)  # TensorFlow: height, width, out, in
    y = functional.conv_transpose2d(
        inputs[2].permute(0, 3, 1, 2), weight, stride=attributes.integers("strides")[1:3]
    )
    return y.permute(0, 2, 3, 1)


def _pool(function: Callable[..., Tensor]) -> Operation:
    def pool(inputs: list[Any], attributes: _Attributes) -> Tensor:
        kernel = attributes.integers("ksize")[1:3]
        x = _padded(inputs[0].permute(0, 3, 1, 2), kernel, attributes)
        return function(x, kernel, attributes.integers("strides")[1:3]).permute(0, 2, 3, 1)

    return pool


def _pad(inputs: list[Any], _: _Attributes) -> Tensor:
    sides = [int(each) for pair in reversed(inputs[1].tolist()) for each in pair]
    return functional.pad(inputs[0], sides, value=float(inputs[2]) if len(inputs) > 2 else 0.0)


def _resize(inputs: list[Any], attributes: _Attributes) -> Tensor:
    y = functional.interpolate(
        inputs[0].permute(0, 3, 1, 2),
        size=[int(each) for each in inputs[1].tolist()],
        mode="bilinear",
        align_corners=attributes.flag("align_corners"),
    )
    return y.permute(0, 2, 3, 1)


def _reshape(inputs: list[Any], _: _Attributes) -> Tensor:
    # The first axis is the batch: it was 1 when the graph was written, and may be any number here.
    return inputs[0].reshape(inputs[0].shape[0], *[int(each) for each in inputs[1].tolist()][1:])


def _dense(inputs: list[Any], _: _Attributes) -> Any:
    indexes, shape, values, default = inputs
    dense = np.full(shape, default)
    dense[tuple(np.asarray(indexes).T)] = values
    return dense


OPERATIONS: Mapping[str, Operation] = {
    "Add": lambda x, _: x[0] + x[1],
    "AddN": lambda x, _: sum(x[1:], start=x[0]),
    "AddV2": lambda x, _: x[0] + x[1],
    "AvgPool": _pool(functional.avg_pool2d),
    "ConcatV2": lambda x, _: torch.cat(x[:-1], dim=int(x[-1])),
    "Conv2D": _convolve,
    "Conv2DBackpropInput": _convolve_transposed,
    "DepthwiseConv2dNative": _convolve_depthwise,
    "Identity": lambda x, _: x[0],
    "LeakyRelu": lambda x, a: functional.leaky_relu(x[0], a.number("alpha", 0.2)),
    "MaxPool": _pool(functional.max_pool2d),
    "Mul": lambda x, _: x[0] * x[1],
    "Pad": _pad,
    "PadV2": _pad,
    "Relu": lambda x, _: functional.relu(x[0]),
    "Relu6": lambda x, _: functional.relu6(x[0]),
    "Reshape": _reshape,
    "ResizeBilinear": _resize,
    "Sigmoid": lambda x, _: torch.sigmoid(x[0]),
    "SparseToDense": _dense,
    "SplitV": lambda x, _: torch.split(x[0], [int(each) for each in x[1].tolist()], dim=int(x[2])),
    "Transpose": lambda x, _: x[0].permute(*[int(each) for each in x[1].tolist()]),
}
