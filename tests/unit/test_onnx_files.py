"""ONNX files from elsewhere: a fixed batch axis, and outputs that are no arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from torchmar.archive import build
from torchmar.errors import ExportError
from torchmar.spec import ModelSource, load_model

from ..any_model import write_model
from .test_any_handler import answers


def tabular(folder: Path, rows: Any, *, zipmap: bool = False, mixes: bool = False) -> ModelSource:
    """A table of three columns, and an ONNX file with so many rows: each sum, and twice it.

    With `mixes` less the mean of all rows.
    """
    table = np.array([[1, 2], [1, 2], [1, 2]], np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 2])]
    if mixes:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["z"])]
        nodes.append(helper.make_node("ReduceMean", ["z"], ["mean"], axes=[0], keepdims=1))
        nodes.append(helper.make_node("Sub", ["z", "mean"], ["y"]))
    if zipmap:
        nodes.append(helper.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]))
        kind = helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
        outputs = [helper.make_value_info("z", helper.make_sequence_type_proto(kind))]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 3])],
        outputs,
        [numpy_helper.from_array(table, "w")],
    )
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    params = {"columns": ["a", "b", "c"], "outputs": ["once", "twice"]}
    golden = {"both.json": [[1, 2, 3], [4, 5, 6]]}
    said = {"name": "sums", "artifact": "sums.onnx", "handler": "tabular", "params": params}
    found = write_model(folder / "sums", {}, golden, **said)
    onnx.save(model, str(found / "sums.onnx"))
    return load_model(found)


def test_a_file_for_one_instance_is_asked_for_each(tmp_path: Path) -> None:
    """Whatever the batch; the build says what it costs, and nothing of a file with a free axis."""
    expected = {"both.json": {"predictions": [{"once": 6.0, "twice": 12.0}, {"once": 15.0, "twice": 30.0}]}}
    for rows, told in ((1, True), ("n", False)):
        folder = tmp_path / str(rows)
        built = build(tabular(folder, rows), folder / "store")
        assert answers(built.archive, folder) == expected
        assert any("one instance after the other" in note for note in built.notes) is told


def test_a_file_for_four_instances_is_refused(tmp_path: Path) -> None:
    """It says what to do about it."""
    told = r"sums\.onnx fails .* export it with a free batch axis \(.*\), which is fixed at 4: "
    with pytest.raises(ExportError, match=told):
        build(tabular(tmp_path, 4), tmp_path / "store")


def test_rows_that_depend_on_each_other_are_told(tmp_path: Path) -> None:
    """What a caller gets would depend on who is in the batch."""
    built = build(tabular(tmp_path, "n", mixes=True), tmp_path / "store")
    [note] = [note for note in built.notes if "the same instance is answered" in note]
    assert " alone, and " in note
    assert "computed over the batch" in note


def test_a_zipmap_is_told(tmp_path: Path) -> None:
    """skl2onnx's classifiers end in one, unless told otherwise."""
    told = r"sums: export it with options={'zipmap': False}: the output z of sums\.onnx is a ZipMap"
    with pytest.raises(ExportError, match=told):
        build(tabular(tmp_path, "n", zipmap=True), tmp_path / "store")


def test_a_program_for_one_instance_is_refused(tmp_path: Path) -> None:
    """torch.export fixes the axis unless it is told to vary; what the file is asked one by one is known."""
    import torch

    source = tabular(tmp_path, "n")
    program = torch.export.export(torch.nn.Linear(3, 2), (torch.zeros(1, 3),))
    torch.export.save(program, source.directory / "sums.pt2")
    file = source.file
    file.write_text(file.read_text().replace("sums.onnx", "sums.pt2"))
    told = r"sums\.pt2 fails .* export it with a free batch axis \(.*\), which is fixed at 1: "
    with pytest.raises(ExportError, match=told):
        build(load_model(source.directory), tmp_path / "store")
