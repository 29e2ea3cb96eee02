"""A model becomes smaller, what that costs is measured, and what costs too much is not built."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handlers.classes import one_hot
from tests.any_model import write_model
from tests.compressed import CNN, LABELS, LENIENT, write_cnn
from tests.conftest import MakeOnce
from torchmar import mar
from torchmar.archive import build
from torchmar.cli._price import price_lines
from torchmar.compare import CLOSE
from torchmar.compress._compare import distance
from torchmar.compress._data import drawn
from torchmar.compress._fewest import fewest
from torchmar.compress._metric import Judge
from torchmar.dataset import read_dataset
from torchmar.errors import DatasetError, ExportError, ParityError, SpecError
from torchmar.evaluate import evaluate
from torchmar.spec import load_model

ROOT = Path(__file__).resolve().parents[2]

MLP = """\
import torch

class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = torch.nn.Linear(4, 64), torch.nn.Linear(64, 2)

    def forward(self, features):
        return self.second(torch.relu(self.first(features)))

def build(pretrained=True):
    return Module()
"""
TABLE = {"columns": ["a", "b", "c", "d"], "outputs": ["x", "y"]}
ROW = {"a": 0.3, "b": -0.2, "c": 0.5, "d": 1.0}


def write_mlp(folder: Path, quantize: str = "int8", labelled: bool = True, **spec: Any) -> Path:
    """Two numbers for four, and a table as its data."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((40, 4)).round(3)
    lines = [
        {
            **dict(zip("abcd", row.tolist(), strict=True)),
            **({"label": {"x": 0.0, "y": 0.0}} if labelled else {}),
        }
        for row in rows
    ]
    files = {"load.py": MLP, "rows.jsonl": "\n".join(map(json.dumps, lines))}
    compress = {"quantize": quantize, "data": "rows.jsonl"}
    said = {
        "name": "mlp",
        "handler": "tabular",
        "source": "load:build",
        "params": TABLE,
        "compress": compress,
    }
    return write_model(folder, files, {"a.json": ROW}, **{**said, "accept": LENIENT, **spec})


def built(folder: Path, store: Path, **options: Any) -> Any:
    return build(load_model(folder), store, seconds=0.01, **options)


def opened(path: Path) -> Any:
    """The graph in an archive."""
    import onnx

    with zipfile.ZipFile(path) as archive:
        return onnx.load_model_from_string(archive.read("model.onnx")).graph


def kinds(path: Path) -> set[str]:
    return {node.op_type for node in opened(path).node}


@pytest.fixture(scope="session")
def cnn(make_once: MakeOnce) -> Path:
    """A folder with the model's folder, and a store with cnn-1.0.mar, in int8. Read it, do not change it."""

    def fill(folder: Path) -> None:
        built(write_cnn(folder / "model"), folder / "store")

    return make_once("compressed-cnn", fill)


# -- an archive ---------------------------------------------------------------------------------


def test_an_archive_in_int8_carries_its_price(cnn: Path) -> None:
    """What model.yaml accepts is beside it."""
    archive = mar.verify(cnn / "store" / "cnn-1.0.mar")
    price = archive.price
    assert price is not None
    assert (price["quantize"], price["layers"], price["layers_in_float"]) == ("int8", 4, [])
    assert (price["examples"], price["calibrated_on"], price["apart"]) == (22, 8, True)
    assert price["bytes"]["compressed"] == next(f.size for f in archive.files if f.name == "model.onnx")
    assert 0 < price["cost"]["low"] <= price["cost"]["value"] <= price["cost"]["high"]
    assert 0 < price["mean_abs_error"] < price["max_abs_error"]
    assert archive.accepts == mar.Accepted(max_abs_error=0.9, agreement=0.0)
    assert "QuantizeLinear" in kinds(archive.path)


def test_what_comes_before_the_first_layer_stays_in_float(tmp_path: Path) -> None:
    """Such as the scaling of columns, whose ranges differ; ONNX Runtime could quantise it."""
    folder = write_mlp(tmp_path / "model")
    (folder / "load.py").write_text(MLP.replace("self.first(features)", "self.first(features * 3 + 1)"))
    graph = opened(built(folder, tmp_path).archive.path)
    makers = {name: node.op_type for node in graph.node for name in node.output}
    scaling = [node for node in graph.node if node.op_type in {"Add", "Mul"}]
    assert len(scaling) == 2
    assert "DequantizeLinear" not in {makers.get(name) for node in scaling for name in node.input}


def test_what_comes_after_the_last_layer_stays_in_float(tmp_path: Path) -> None:
    """Such as the decoding of boxes, which spans hundreds of pixels; ONNX Runtime could quantise it."""
    folder = write_mlp(tmp_path / "model")
    last = "self.second(torch.relu(self.first(features)))"
    (folder / "load.py").write_text(MLP.replace(last, f"{last} * 3 + 1"))
    graph = opened(built(folder, tmp_path).archive.path)
    decoding = {name for node in graph.node if node.op_type in {"Add", "Mul"} for name in node.output}
    assert len(decoding) == 2
    assert not [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in decoding]


def test_an_infinite_padding_stays_in_float(tmp_path: Path) -> None:
    """As TensorFlow pads before a pooling; no scale has such a range, and all answers would be lost."""
    padded = "torch.nn.ConstantPad2d(1, float('-inf')), torch.nn.MaxPool2d(2)"
    folder = write_cnn(tmp_path / "model", code=CNN.replace("torch.nn.MaxPool2d(2)", padded))
    archive = built(folder, tmp_path).archive
    assert "Pad" in kinds(archive.path)
    assert archive.price["cost"]["value"] < 0.1


def test_the_cost_by_labels_is_the_distance_from_one_hot(cnn: Path) -> None:
    """2 (1 − p) for a classifier, on average: computed here by an independent road."""
    import onnxruntime

    with zipfile.ZipFile(cnn / "store" / "cnn-1.0.mar") as archive:
        session = onnxruntime.InferenceSession(archive.read("model.onnx"))
        price = json.loads(archive.read(mar.PRICE))
    files = sorted((cnn / "model" / "data").rglob("*.png"))
    costs = []
    for index in drawn(len(files), 0.2)[1]:
        pixels = np.asarray(Image.open(files[index]))[None]
        scores = session.run(None, {"pixels": pixels})[0][0].astype(np.float64)
        share = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        costs.append(2 * (1 - share[LABELS.index(files[index].parent.name)]))
    assert price["cost_by_labels"]["compressed"]["value"] == pytest.approx(np.mean(costs), rel=0.01)


def test_the_price_has_the_accuracy_that_evaluate_finds(cnn: Path) -> None:
    """Of the archive, on the same examples, with the same interval."""
    archive = mar.verify(cnn / "store" / "cnn-1.0.mar")
    examples = read_dataset(cnn / "model" / "data")
    judged = evaluate(archive, [examples[number] for number in drawn(len(examples), 0.2)[1]])
    assert archive.price is not None
    metric, accuracy = archive.price["metric"], judged.scores[0]
    assert (metric["name"], metric["examples"]) == (accuracy.name, judged.count) == ("accuracy", 22)
    found = metric["values"]["compressed"]
    assert (found["value"], found["low"], found["high"]) == pytest.approx(
        (accuracy.value, accuracy.low, accuracy.high), rel=0.01
    )
    lost = metric["values"]["float"]["value"] - found["value"]
    assert metric["drop"]["value"] == pytest.approx(lost, abs=0.001)


def test_another_process_gives_the_same_bytes(cnn: Path, tmp_path: Path) -> None:
    """Times are not in the archive; quantising depends on no hash seed."""
    code = f"""
from pathlib import Path
from torchmar.archive import build
from torchmar.spec import load_model
print(build(load_model(Path({str(cnn / "model")!r})), Path({str(tmp_path)!r}), seconds=0.02).archive.sha256)
"""
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == mar.read(cnn / "store" / "cnn-1.0.mar").sha256


def test_it_is_up_to_date_until_the_data_change(tmp_path: Path) -> None:
    """Another label is another input."""
    folder = write_mlp(tmp_path / "model")
    assert not built(folder, tmp_path).was_there
    assert built(folder, tmp_path).was_there
    rows = (folder / "rows.jsonl").read_text()
    (folder / "rows.jsonl").write_text(rows.replace('"x": 0.0', '"x": 1.0', 1))
    assert not built(folder, tmp_path, force=True).was_there


@pytest.mark.parametrize(
    ("quantize", "more", "kind"),
    [
        ("int8", {"calibration": "entropy"}, "QuantizeLinear"),
        ("int8", {"calibration": "percentile"}, "QuantizeLinear"),
        ("dynamic", {}, "MatMulInteger"),
        ("weights", {}, "MatMulNBits"),
        ("weights", {"bits": 4}, "MatMulNBits"),
        ("fp16", {}, "Cast"),
    ],
)
def test_each_way_of_quantising_serves(tmp_path: Path, quantize: str, more: Any, kind: str) -> None:
    """A worker answers the golden request; the cost of a regression is against the labels' numbers."""
    compress = {"quantize": quantize, "data": "rows.jsonl", **more}
    found = built(write_mlp(tmp_path / "model", compress=compress), tmp_path)
    assert kind in kinds(found.archive.path)
    assert [each.ok for each in found.check.golden] == [True]
    price = found.archive.price
    assert 0 < price["cost"]["value"] < 0.5
    assert price["cost_by_labels"]["float"]["value"] > price["cost"]["value"]
    assert (price["examples"], price["apart"]) == ((32, True) if quantize == "int8" else (40, True))
    assert {*found.speed.latency["float"]} == {*found.speed.latency["compressed"]} == {"1", "8"}
    assert all(peak is None or peak > 10 for peak in found.speed.peak_rss_mb.values())


def test_labels_are_optional(tmp_path: Path) -> None:
    """The cost against the uncompressed model needs none."""
    found = built(write_mlp(tmp_path / "model", labelled=False), tmp_path)
    assert found.archive.price["cost_by_labels"] is None
    assert found.archive.price["metric"] is None
    assert found.archive.price["cost"]["value"] > 0


def test_a_file_of_onnx_is_compressed_as_it_is(cnn: Path, tmp_path: Path) -> None:
    """What the handler computes before such a graph is fed to it for its ranges, too."""
    import torch

    folder = write_mlp(tmp_path / "model")
    namespace: dict[str, Any] = {}
    exec(MLP, namespace)
    torch.onnx.export(
        namespace["build"](),
        (torch.zeros(2, 4),),
        str(folder / "given.onnx"),
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    said = yaml.safe_load((folder / "model.yaml").read_text())
    del said["source"]
    (folder / "model.yaml").write_text(yaml.safe_dump({**said, "artifact": "given.onnx"}))
    found = built(folder, tmp_path)
    assert "QuantizeLinear" in kinds(found.archive.path)
    assert found.archive.parity is None
    assert found.archive.price["agreement"] > 0


def test_the_data_of_a_handler_of_ones_own_are_not_packed(tmp_path: Path) -> None:
    """Its code is, and the data beside it."""
    own = "from handlers.tabular import Handler as Theirs, Params\n\nclass Mine(Theirs):\n    pass\n"
    folder = write_mlp(tmp_path / "model", handler="mine.py")
    (folder / "mine.py").write_text(own)
    names = {file.name for file in built(folder, tmp_path).archive.files}
    assert "model_source/mine.py" in names
    assert not [name for name in names if "rows" in name]


def test_a_note_says_that_the_cost_was_measured_on_what_was_calibrated_on(tmp_path: Path) -> None:
    """With so few examples nothing can be set apart."""
    found = built(write_cnn(tmp_path / "model", count=9), tmp_path)
    assert (found.archive.price["apart"], found.archive.price["examples"]) == (False, 9)
    assert any(note.startswith("give `compress.data` more examples: ") for note in found.notes)


def test_the_program_s_log_is_left_as_it_was() -> None:
    """One of ONNX Runtime's tools configures the root logger when it is imported."""
    code = """
import logging
from torchmar.compress._quantise import _quiet
with _quiet():
    import onnxruntime.quantization.matmul_nbits_quantizer
    print("told")
    assert logging.root.handlers
print(logging.root.handlers, logging.root.level, logging.root.manager.disable)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[] 30 0\n", "")


# -- what is refused ----------------------------------------------------------------------------

SPIKED = (
    CNN.replace("    return torch.nn.Sequential(", "    net = torch.nn.Sequential(")
    + """\
    with torch.no_grad():
        net[3].weight *= 0.001  # beside one channel of a thousand, the others vanish in 8 bits
        net[3].bias[0] = 1000.0
        net[7].weight[:, :4] = 0.0
        net[7].weight[:, 4:] *= 1000.0
    return net
"""
)


def test_the_layer_that_costs_most_is_left_in_float(tmp_path: Path) -> None:
    """Where one channel fills the range, all others vanish: what makes it and what takes it stay in float."""
    accept = {"agreement": 0.5, "max_abs_error": 0.05}
    found = built(write_cnn(tmp_path / "model", code=SPIKED, accept=accept), tmp_path)
    price = found.archive.price
    assert 0 < len(price["layers_in_float"]) < price["layers"]
    assert price["max_abs_error"] <= 0.05
    assert "QuantizeLinear" in kinds(found.archive.path)
    weights = [one for one in opened(found.archive.path).initializer if one.name.endswith(".weight")]
    assert len(weights) == len(price["layers_in_float"])


@pytest.mark.parametrize("quantize", ["int8", "dynamic"])
def test_what_costs_too_much_is_refused_with_what_would_take_it(tmp_path: Path, quantize: str) -> None:
    """With its line; and what it says to write does take it."""
    compress = {"quantize": quantize, "data": "data"}
    strict = {"agreement": 0.0, "max_abs_error": 0.9, "cost": 1e-9}
    folder = write_cnn(tmp_path / "model", accept=strict, compress=compress)
    with pytest.raises(ParityError) as caught:
        built(folder, tmp_path)
    message = str(caught.value)
    assert re.search(r"model\.yaml: line \d+: accept: write `accept: \{cost: ", message), message
    assert "or leave `compress` out" in message
    written = re.search(r"write `accept: (\{.*?\})`", message)
    assert written is not None
    said = yaml.safe_load((folder / "model.yaml").read_text())
    said["accept"] |= yaml.safe_load(written[1])
    (folder / "model.yaml").write_text(yaml.safe_dump(said))
    assert built(folder, tmp_path).archive.price["layers_in_float"] == []


def label_with_answers(folder: Path) -> None:
    """Label each row with what the module answers: whatever is rounded away is an error."""
    import torch

    namespace: dict[str, Any] = {}
    exec(MLP, namespace)
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    with torch.no_grad():
        answers = namespace["build"]()(torch.tensor([[row[key] for key in "abcd"] for row in rows]))
    for row, one in zip(rows, answers.tolist(), strict=True):
        row["label"] = dict(zip("xy", one, strict=True))
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_a_metric_that_drops_too_far_is_refused(tmp_path: Path) -> None:
    """It says what would take it, and that does."""
    folder = write_mlp(tmp_path / "model", "weights", accept={**LENIENT, "metric_drop": 1e-6})
    label_with_answers(folder)
    said = r"write `accept: \{metric_drop: (0\.\d+)\}`.*metric_drop .* exceeds 1e-06"
    with pytest.raises(ParityError, match=said) as caught:
        built(folder, tmp_path)
    enough = re.search(said, str(caught.value))
    assert enough is not None
    spec = yaml.safe_load((folder / "model.yaml").read_text())
    spec["accept"]["metric_drop"] = float(enough[1])
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    metric = built(folder, tmp_path).archive.price["metric"]
    assert (metric["name"], metric["higher"]) == ("RMSE", False)
    assert 0 < metric["drop"]["low"] <= metric["drop"]["value"] <= metric["drop"]["high"]
    assert metric["p"] < 0.05


@pytest.mark.parametrize(
    ("labels", "answers", "why"),
    [
        ([], [], "has no labels"),
        (["blue"], [{"x": 1.0}], "expected a number as label"),
        (["cat"], [[0.1, 0.2]], "no other metric than the agreement"),
    ],
)
def test_where_there_is_no_metric(labels: list[Any], answers: list[Any], why: str) -> None:
    """It says why, and the archive is built as ever."""
    judge = Judge(labels, answers, CLOSE)
    assert why in judge.why_not
    assert judge.of(answers) is None


def test_the_uncompressed_artifact_is_held_to_accept_first(tmp_path: Path) -> None:
    """Its error is no matter of compressing."""
    with pytest.raises(ParityError, match="the onnx artifact does not answer as the module does"):
        built(write_cnn(tmp_path / "model", accept={"agreement": 0.0, "max_abs_error": 1e-12}), tmp_path)


def test_golden_answers_are_those_of_the_compressed_model(cnn: Path) -> None:
    """An accepted difference is no failure of the archive's own golden request."""
    from torchmar.worker import check_archive

    check = check_archive(cnn / "store" / "cnn-1.0.mar")
    assert [each.ok for each in check.golden] == [True]
    assert not check.caveats, "no torch in the worker"


def test_a_graph_without_layers_is_refused(tmp_path: Path) -> None:
    """It says what there is instead."""
    code = "import torch\ndef build(pretrained=True):\n    return torch.nn.Sequential(torch.nn.ReLU())\n"
    params = {"columns": ["a", "b"], "outputs": ["x", "y"]}
    folder = write_mlp(tmp_path / "model", params=params)
    (folder / "load.py").write_text(code)
    (folder / "golden" / "a.json").write_text('{"a": 1, "b": 2}')
    (folder / "rows.jsonl").write_text('{"a": 1, "b": 2}\n' * 20)
    with pytest.raises(ExportError, match=r"has none, only Relu"):
        built(folder, tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ('{"a": 1}\n', ExportError, r"line \d+: compress\.data: .*\(remove line 1, or put it right\)"),
        ("", DatasetError, "holds none"),
        ('{"a": 1, "b": 2, "c": 3, "d": 4, "label": "blue"}\n' * 20, ExportError, "label 'blue'"),
    ],
)
def test_data_that_cannot_be_asked(tmp_path: Path, change: str, error: type[Exception], said: str) -> None:
    """Which request, and what to do."""
    folder = write_mlp(tmp_path / "model")
    (folder / "rows.jsonl").write_text(change)
    with pytest.raises(error, match=said):
        built(folder, tmp_path)


def test_all_mistakes_of_the_section_are_told_at_once(tmp_path: Path) -> None:
    """Each with its line."""
    compress = {"quantize": "fp16", "data": "../else", "bits": 4, "calibration": "entropy"}
    folder = write_cnn(tmp_path / "model", compress=compress, runtime="eager")
    with pytest.raises(SpecError) as caught:
        load_model(folder)
    assert [problem.where for problem in caught.value.problems] == [
        "compress",
        "compress.data",
        "compress.bits",
        "compress.calibration",
    ]
    assert all(problem.line for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"compress": None, "accept": {"cost": 0.1}}, "accept.cost"),
        ({"compress": None, "accept": {"metric_drop": 0.1}}, "accept.metric_drop"),
        ({"compress": {"quantize": "int8", "data": "nowhere"}}, "compress.data"),
        ({"compress": {"quantize": "int4", "data": "data"}}, "compress.quantize"),
        (
            {"compress": {"quantize": "int8", "data": "data", "calibration_share": 1}},
            "compress.calibration_share",
        ),
        ({"source": None, "artifact": "labels.txt"}, "compress"),
    ],
)
def test_a_mistake_of_the_section(tmp_path: Path, spec: Mapping[str, Any], where: str) -> None:
    """By its place."""
    with pytest.raises(SpecError) as caught:
        load_model(write_cnn(tmp_path / "model", **spec))
    assert [problem.where for problem in caught.value.problems] == [where]


# -- parts --------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(0, 70))
def test_the_fewest_layers(most: int, needed: int) -> None:
    """What a walk through all numbers would find, by few tries."""
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number >= needed

    expected = next((number for number in range(1, most + 1) if number >= needed), None)
    assert fewest(most, holds) == expected
    assert len(asked) <= 2 * math.log2(most + 2) + 2
    assert all(1 <= number <= most for number in asked)


@given(st.integers(1, 3000), st.floats(0.01, 0.99))
def test_no_example_is_calibrated_on_and_measured(count: int, share: float) -> None:
    """Unless there are too few; then both have all."""
    first, rest = drawn(count, share)
    assert {*first, *rest} <= {*range(count)}
    assert not {*first} & {*rest} or ({*first} <= {*rest} and len(rest) == min(count, 2000))
    assert len(first) >= min(8, count)
    assert drawn(count, share) == (first, rest)


def test_the_distance_of_outputs() -> None:
    """The sum over all outputs; None where they have no common form."""
    one, other = {"a": np.array([1.0, 2.0]), "b": np.array(3)}, {"a": np.array([0.0, 2.5]), "b": np.array(5)}
    assert distance(one, other) == 3.5
    assert distance(one, one) == 0
    assert distance({"a": np.array([math.inf])}, {"a": np.array([math.inf])}) == 0
    assert distance(one, {"a": np.array([1.0])}) is None
    assert distance({"a": np.array([1.0])}, {"a": np.array([1.0, 2.0])}) is None
    assert distance({"a": np.array(["x"])}, {"a": np.array(["x"])}) is None


@pytest.mark.parametrize(
    ("label", "labels", "index"),
    [("dog", LABELS, 1), (2, LABELS, 2), ("0", LABELS, 0), (3, ("3", "5", "7", "9"), 0), ("1", None, 1)],
)
def test_a_label_is_a_text_or_an_index(label: Any, labels: Any, index: int) -> None:
    """The text wins."""
    assert one_hot(label, labels, 4).tolist() == [float(each == index) for each in range(4)]


@pytest.mark.parametrize("label", ["cow", 4, -1, 1.5, True, None, "²"])
def test_a_label_of_no_class(label: Any) -> None:
    """Which ones there are is told."""
    with pytest.raises(ValueError, match="is no class: expected one of cat, dog, emu, or 0 to 2"):
        one_hot(label, LABELS, 3)


def test_a_price_in_lines(cnn: Path) -> None:
    """Of an archive, and of a stranger's that holds anything."""
    price = mar.read(cnn / "store" / "cnn-1.0.mar").price
    assert price is not None
    lines = price_lines({**price, "layers_in_float": [f"n{number}" for number in range(7)]})
    assert [line.split()[0] for line in lines] == ["price", "cost", "metric", "answers", "in"]
    assert lines[0].startswith("price    int8: ")
    assert lines[4].endswith("n4 and 2 more")
    assert price_lines({"quantize": []}) == ["price    {'quantize': []}"]
