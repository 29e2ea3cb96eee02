"""What a module gives is put right where only one thing can be meant, and held against `scores`."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from handlers.runtimes import unwrapped
from handlers.scores import only_tensor, rows_of_scores, to_probabilities
from torchmar.errors import ExportError
from torchmar.export import build_artifacts
from torchmar.spec import load_model

from .test_export import RANDOM, SPEC

CODE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(48, 3)
        {init}
    def forward(self, x):
        y = {y}
        {forward}
def build(pretrained=True):
    return {result}
"""


def built(
    folder: Path,
    forward: str = "return y",
    more: str = "",
    init: str = "pass",
    result: str = "Net()",
    runtime: str = "eager",
    y: str = "self.linear(x.flatten(1))",
) -> Any:
    """The artifact of a module with this forward(), which has y of shape (n, 3)."""
    (folder / "m").mkdir()
    (folder / "load.py").write_text(CODE.format(forward=forward, init=init, result=result, y=y))
    (folder / "model.yaml").write_text(SPEC.replace("eager", runtime) + more)
    return build_artifacts(load_model(folder), RANDOM, folder / "m")


def why_not(folder: Path, forward: str = "return y", **how: Any) -> str:
    """Why it is refused, in one line."""
    with pytest.raises(ExportError) as caught:
        built(folder, forward, **how)
    [message] = str(caught.value).splitlines()
    return message


# -- which tensor, and in what form -------------------------------------------------------------

T = torch.arange(6.0).view(2, 3)
Named = namedtuple("Named", "logits aux")


@dataclass
class Output:
    """As libraries define it."""

    scores: Any
    loss: Any = None


@pytest.mark.parametrize(
    "output",
    [
        T,
        (T,),
        [T],
        {"out": T},
        {"out": T, "loss": None},
        {"logits": T, "hidden": (T + 1, T + 2)},
        {"a": {"b": [T]}},
        Named(T, T + 1),
        Named(T, None),
        Output(T),
        (Output(T), "words"),
    ],
)
def test_the_tensor_that_is_meant(output: Any) -> None:
    """The only one, or the one named logits, however deep."""
    assert torch.equal(only_tensor(output), T)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ((T, T), r"2 tensors \(0, 1\) in a tuple"),
        ({"x": T, "y": [T, T]}, r"3 tensors \(x, y\.0, y\.1\) in a dict"),
        ([T] * 9, r"9 tensors \(0, 1, 2, 3, 4, …\) in a list"),
        (None, "no tensor in a NoneType"),
        (Output, "no tensor in a type"),
        ({"logits": T, "more": {"logits": T}}, "2 tensors"),
    ],
)
def test_no_tensor_that_could_be_meant(output: Any, why: str) -> None:
    """What is there instead is told."""
    with pytest.raises(ValueError, match=why):
        only_tensor(output)


@pytest.mark.parametrize(
    ("tensor", "rows"),
    [
        (T.double(), 2),
        (T.half(), 2),
        (T.bfloat16(), 2),
        (T.to_sparse(), 2),
        (T[:, :, None, None], 2),
        (T.clone().requires_grad_(), 2),
        (T[0], 1),
        (T[:1], 1),
        (T[:, 0], 2),
        (torch.tensor(3.0), 1),
    ],
)
def test_rows_of_scores(tensor: torch.Tensor, rows: int) -> None:
    """Float32 of shape (rows, outputs), with the same numbers, and the gradients that training needs."""
    found = rows_of_scores(tensor, rows)
    assert (found.dtype, found.ndim, len(found)) == (torch.float32, 2, rows)
    assert found.requires_grad == tensor.requires_grad
    dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
    assert found.flatten().tolist() == dense.float().flatten().tolist()


@pytest.mark.parametrize("tensor", [T.long(), T > 1, torch.complex(T, T)])
def test_numbers_that_are_no_scores(tensor: torch.Tensor) -> None:
    """The index of a class, say."""
    with pytest.raises(ValueError, match="numbers, expected floating-point scores"):
        rows_of_scores(tensor, 2)


def test_what_wraps_a_module_is_taken_off() -> None:
    """Their names would stand before those of all weights."""
    module = torch.nn.Linear(1, 1)
    compiled = type("OptimizedModule", (torch.nn.Module,), {"_orig_mod": module})()
    assert unwrapped(module) is module
    assert unwrapped(torch.nn.DataParallel(compiled)) is module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "how",
    [
        {"init": "self.linear.to(torch.bfloat16)", "y": "self.linear(x.flatten(1).bfloat16())"},
        {"forward": "return {'logits': y.double(), 'hidden': x}"},
        {"y": "self.linear(x.flatten(1)[:, :, None].squeeze())"},
        {"forward": "return y.to_sparse()"},
        {"forward": "x.mul_(0); return y"},
        {"init": "Net.get_extra_state = lambda _: {'a': 1}; Net.set_extra_state = lambda *_: None"},
        {"result": "torch.jit.script(Net())"},
        {"result": "torch.jit.trace(Net().eval(), torch.zeros(1, 3, 4, 4))"},
        {"result": "torch.compile(Net())"},
        {"result": "torch.nn.DataParallel(Net())"},
        {"result": "torch.nn.Sequential(Net().to(torch.float64), torch.nn.Identity()).float()"},
    ],
)
def test_modules_as_people_have_them(how: dict[str, str], tmp_path: Path) -> None:
    """Each is built and answers as a worker would have it, in batches of one and of several."""
    assert built(tmp_path, **how).parity.max_abs_error < 1e-6


def test_a_dict_of_float64_is_one_output_of_an_onnx_graph(tmp_path: Path) -> None:
    """What is put right is part of the graph: the worker's runtime knows nothing of it."""
    forward = "return {'logits': y.double()[:, :, None], 'hidden': x}"
    file = built(tmp_path, forward, runtime="onnx").files["model"]
    import onnx

    [output] = onnx.load(str(file)).graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert len(output.type.tensor_type.shape.dim) == 2


@pytest.mark.parametrize(
    ("how", "remedy"),
    [
        ({"init": "self.linear.to(torch.bfloat16)"}, "the weights bfloat16: end with `.float()`"),
        ({"result": "Net().double()"}, "the weights float64: end with `.float()`"),
        ({"result": "Net().to('meta')"}, "build it with numbers, on the CPU"),
        ({"result": "torch.nn.LazyLinear(3)"}, "call it once, on zeros, before it is returned"),
        ({"result": "(Net(), 3)"}, "returned tuple, expected a torch.nn.Module"),
        (
            {"forward": "return y.squeeze().softmax(1).log()[:, :2]"},
            "keep the batch dimension, as flatten(1)",
        ),
    ],
)
def test_modules_that_are_refused_with_a_remedy(how: dict[str, str], remedy: str, tmp_path: Path) -> None:
    """Before they are exported, where that can be known."""
    assert remedy in why_not(tmp_path, **how)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "result", ["torch.jit.script(Net())", "torch.nn.Sequential(torch.jit.script(Net()))"]
)
def test_torchscript_for_other_runtimes_is_told(result: str, tmp_path: Path) -> None:
    """The exporters say so at length."""
    message = why_not(tmp_path, result=result, runtime="onnx")
    assert message.startswith(
        "m: return the module itself and not what torch.jit made of it, or write `runtime: ea"
    )


# -- what kind of scores ------------------------------------------------------------------------

PROBABILITIES = "m: write `scores: probabilities` under `params` in model.yaml, or leave the module's last"


@pytest.mark.parametrize(
    ("forward", "scores", "remedy"),
    [
        (
            "return y[:, :1]",
            "logits",
            "m: write `scores: sigmoid` under `params` in model.yaml if the model's one output is",
        ),
        (
            "return y[:, 0]",
            "logits",
            "m: write `scores: sigmoid` under `params` in model.yaml if the model's one output is",
        ),
        ("return y.softmax(1)", "logits", PROBABILITIES),
        ("return (y * 50).softmax(1)", "logits", PROBABILITIES),
        ("return y.softmax(1).half()", "logits", PROBABILITIES),
        ("return y.softmax(1) + 0", "logits", PROBABILITIES),
        ("return y.softmax(1)[:, :1]", "logits", PROBABILITIES),
        ("return y.sigmoid()", "logits", PROBABILITIES),
        ("return torch.nn.functional.hardsigmoid(y)", "logits", PROBABILITIES),
        ("return y.sigmoid_()[:, :1]", "logits", PROBABILITIES),
        ("return y.half().sigmoid().float()", "logits", PROBABILITIES),
        ("return y.sigmoid().clamp(1e-7, 1 - 1e-7)", "logits", PROBABILITIES),
        ("return torch.cat([y[:, :1].sigmoid(), y[:, 1:].sigmoid()], 1)", "sigmoid", PROBABILITIES),
        ("return torch.stack([y.sigmoid(), (-y).sigmoid()]).mean(0)", "logits", PROBABILITIES),
        ("return y[:, 0].sigmoid()", "sigmoid", PROBABILITIES),
        ("return y.sigmoid()", "sigmoid", PROBABILITIES),
        ("return y.softmax(1)", "sigmoid", PROBABILITIES),
        (
            "return y * 99",
            "probabilities",
            "m: take `scores: probabilities` out of model.yaml, write `scores:",
        ),
        (
            "return y.log_softmax(1)",
            "probabilities",
            "m: take `scores: probabilities` out of model.yaml, write `scores:",
        ),
    ],
)
def test_outputs_that_are_something_else(forward: str, scores: str, remedy: str, tmp_path: Path) -> None:
    """Each would give wrong probabilities for every picture, and say nothing."""
    assert why_not(tmp_path, forward, more=f"  scores: {scores}\n").startswith(remedy)


@pytest.mark.parametrize(
    ("forward", "scores"),
    [
        ("return y.log_softmax(1)", "logits"),
        ("return y.sigmoid() * 2", "logits"),
        ("return torch.cat([y.sigmoid(), 2 + y], 1)", "logits"),
        ("return y", "sigmoid"),
        ("return y[:, 0]", "sigmoid"),
        ("return y.softmax(1)", "probabilities"),
        ("return y.sigmoid()", "probabilities"),
        ("return y[:, :1].sigmoid()", "probabilities"),
        ("return y.softmax(1).bfloat16()", "probabilities"),
    ],
)
def test_outputs_that_are_what_is_said(forward: str, scores: str, tmp_path: Path) -> None:
    """The softmax of a log-softmax is right, too."""
    assert built(tmp_path, forward, f"  scores: {scores}\n").parity.agreement == 1.0


@pytest.mark.parametrize(
    ("forward", "labels", "why"),
    [
        ("return y", "a\nb\n", "has 3 classes, `labels: l.txt` names 2"),
        ("return y[:, :1].sigmoid()", "a\n", "has one output, which is two classes, `labels: l.txt` names 1"),
        (
            "return y[:, :1].sigmoid()",
            "a\nb\nc\n",
            "has one output, which is two classes, `labels: l.txt` names 3",
        ),
    ],
)
def test_labels_that_are_too_few_or_too_many(forward: str, labels: str, why: str, tmp_path: Path) -> None:
    """Counted as the handler counts, before anything is exported."""
    (tmp_path / "l.txt").write_text(labels)
    scores = "probabilities" if "sigmoid" in forward else "logits"
    assert why in why_not(tmp_path, forward, more=f"  labels: l.txt\n  scores: {scores}\n")


def test_labels_that_several_classes_have_are_said(tmp_path: Path) -> None:
    """They may be meant, and the index tells them apart."""
    (tmp_path / "l.txt").write_text("crane\ncat\ncrane\n")
    assert "labels: several classes have the same: crane" in built(tmp_path, more="  labels: l.txt\n").notes


def test_golden_answers_of_one_output_are_those_of_two_classes(tmp_path: Path) -> None:
    """The index that the handler will answer."""
    from PIL import Image

    (tmp_path / "golden").mkdir()
    for name, value in (("a", 0), ("b", 255)):
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / "golden" / f"{name}.png")
    forward = "return (x.flatten(1).mean(1, keepdim=True) - 0.5) * 9"
    artifact = built(tmp_path, forward, "  scores: sigmoid\ngolden: golden\n")
    assert [artifact.golden[f"{name}.png"]["answer"][0]["index"] for name in "ab"] == [0, 1]


# -- probabilities ------------------------------------------------------------------------------

ROWS = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.floats(-300, 300, width=32)
)


@settings(max_examples=100)
@given(ROWS)
def test_probabilities_of_any_logits(rows: np.ndarray[Any, Any]) -> None:
    """Between 0 and 1; a row's sum is 1 for logits; one sigmoid is a choice between two."""
    for kind in ("logits", "sigmoid"):
        found = to_probabilities(rows, kind)
        assert found.dtype == np.float64
        assert ((found >= 0) & (found <= 1)).all()
        likeliest = np.take_along_axis(found, rows.argmax(1)[:, None], 1)[:, 0]
        assert (likeliest == found.max(1)).all()
    assert np.allclose(to_probabilities(rows, "logits").sum(1), 1)
    one = to_probabilities(rows[:, :1], "sigmoid")
    assert one.shape == (len(rows), 2)
    assert np.allclose(one.sum(1), 1)
    assert (one.argmax(1) == (rows[:, 0] > 0)).all() or np.abs(rows[:, 0]).min() < 1e-6


def test_probabilities_are_taken_as_they_are() -> None:
    """Of several classes, and of one."""
    assert to_probabilities(np.array([[0.25, 0.75]]), "probabilities").tolist() == [[0.25, 0.75]]
    assert to_probabilities(np.array([[0.25]]), "probabilities").tolist() == [[0.75, 0.25]]
    with pytest.raises(ValueError, match="scores"):
        to_probabilities(np.array([[0.25]]), "logit")
