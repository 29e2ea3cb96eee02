"""A state that a module takes and gives goes in and out under one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from handlers.runtimes import open_models
from torchmar.export import Weights, build_artifacts
from torchmar.export._formats import _apart
from torchmar.handler_code import ModelCode
from torchmar.spec import load_model

HANDLER = '''
from dataclasses import dataclass

import numpy as np

from handlers.base import BatchHandler, Decoded


@dataclass(frozen=True)
class Params:
    """None."""


class Handler(BatchHandler[Params]):
    """Keeps a sum from request to request."""

    def example(self):
        return {"sound": np.ones(3, dtype=np.float32), "state": np.full(2, 2, dtype=np.float32)}

    def decode(self, request):
        return Decoded([self.example()])

    def encode(self, output, about):
        return {name: array.tolist() for name, array in output.items()}
'''

LOAD = """
import torch

class Keeps(torch.nn.Module):
    def forward(self, sound, state):
        state = state + sound.sum(1, keepdim=True)
        return {"state": state, "speech": state * 10}

def build(pretrained=True):
    return Keeps()
"""


def test_an_output_may_have_the_name_of_an_input(tmp_path: Path) -> None:
    """In the graph it has another name, for ONNX has each name once; the handler sees its own."""
    (tmp_path / "mine.py").write_text(HANDLER)
    (tmp_path / "load.py").write_text(LOAD)
    (tmp_path / "model.yaml").write_text('name: m\nversion: "1"\nhandler: mine.py\nsource: load:build\n')
    source, folder = load_model(tmp_path), tmp_path / "built"
    folder.mkdir()
    artifacts = build_artifacts(source, Weights(), folder)
    assert artifacts.parity is not None
    assert artifacts.parity.max_abs_error == 0
    file = folder / "model.onnx"
    onnx.checker.check_model(str(file))
    assert [each.name for each in onnx.load(file).graph.output] == ["next_state", "speech"]

    handler: Any = source.handler_class(ModelCode(tmp_path))()
    model = open_models({"models": artifacts.models}, folder, None, handler)["model"]
    found = model({"sound": np.ones((1, 3), np.float32), "state": np.zeros((1, 2), np.float32)})
    assert {name: array.tolist() for name, array in found.items()} == {
        "state": [[3, 3]],
        "speech": [[30, 30]],
    }


@pytest.mark.parametrize(
    ("outputs", "inputs", "names"),
    [
        (["a", "b"], ["x"], ["a", "b"]),
        (["state", "y"], ["x", "state"], ["next_state", "y"]),
        (["state", "next_state"], ["state"], ["next_next_state", "next_state"]),
        (["a", "next_a"], ["a", "next_a"], ["next_next_a", "next_next_next_a"]),
    ],
)
def test_each_name_of_a_graph_is_there_once(outputs: list[str], inputs: list[str], names: list[str]) -> None:
    """Also where the name that suggests itself is taken."""
    assert _apart(outputs, inputs) == names
