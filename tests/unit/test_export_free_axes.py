"""Axes that vary stay free in the graph, also where most inputs have 1 along them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchmar.errors import ExportError
from torchmar.export import Weights, build_artifacts
from torchmar.spec import load_model

HANDLER = '''
from dataclasses import dataclass

import numpy as np

from handlers.base import BatchHandler, Decoded


@dataclass(frozen=True)
class Params:
    """None."""


class Handler(BatchHandler[Params]):
    """Adds to each number its place."""

    dynamic = {"numbers": {1: "length"}}

    def example(self):
        return {"numbers": np.ones(1, dtype=np.float32)}

    def decode(self, request):
        return Decoded([{"numbers": np.array(request["body"], dtype=np.float32)}])

    def encode(self, output, about):
        return output["output"].tolist()
'''

LOAD = """
import torch


class Places(torch.nn.Module):
    def forward(self, numbers):
        return numbers + torch.arange(numbers.shape[1])


def places():
    return Places()
"""


def test_an_axis_that_varies_is_longer_than_one_in_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of three have length 1, a batch of one length 2: neither 1 may become a part of the graph."""
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "two.json").write_text("[1, 2]")
    (tmp_path / "mine.py").write_text(HANDLER)
    (tmp_path / "load.py").write_text(LOAD)
    (tmp_path / "model.yaml").write_text(
        'name: places\nversion: "1"\nhandler: mine.py\nsource: load:places\ngolden: golden\n'
    )
    (tmp_path / "built").mkdir()

    def export(source: Any, part: str, graph: Any, folder: Path, model_code: Any) -> Path:
        raise ExportError(str(tuple(graph.inputs["numbers"].shape)))

    monkeypatch.setattr("torchmar.export.export", export)
    with pytest.raises(ExportError, match=r"^\(2, 2\)$"):
        build_artifacts(load_model(tmp_path), Weights(), tmp_path / "built", lambda _: None)
