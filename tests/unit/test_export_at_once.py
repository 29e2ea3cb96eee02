"""What no exporter can do is told before hours of it, and what takes time is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchmar.errors import ExportError
from torchmar.export import Weights, build_artifacts
from torchmar.spec import load_model

from ..any_model import write_model

DETECTOR = """\
import torchvision


class Mine(torchvision.models.detection.ssd.SSD):
    pass


def build():
    made = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None)
    made.__class__ = Mine
    return made
"""
TWICE = """\
import torch


def build():
    torch.manual_seed(1)
    return torch.nn.Linear(2, 1)
"""


def test_a_detector_of_torchvisions_is_not_exported(tmp_path: Path) -> None:
    """It is told as soon as the module is there; nobody waits for the exporter."""
    said: list[str] = []
    spec: dict[str, Any] = {"source": "load:build", "handler": "object_detector", "params": {"size": 320}}
    model = write_model(tmp_path / "boxes", {"load.py": DETECTOR}, name="boxes", **spec)
    with pytest.raises(ExportError, match="boxes: write `runtime: eager`: a detector of torchvision"):
        build_artifacts(load_model(model), Weights(), tmp_path, said.append)
    assert said == ["importing torch", "loading the module"]


def test_what_takes_time_is_named(tmp_path: Path) -> None:
    """Among it that the module is made twice."""
    said: list[str] = []
    spec: dict[str, Any] = {
        "source": "load:build",
        "handler": "tabular",
        "params": {"columns": ["a", "b"], "outputs": ["y"]},
    }
    model = write_model(tmp_path / "line", {"load.py": TWICE}, name="line", runtime="eager", **spec)
    build_artifacts(load_model(model), Weights(), tmp_path, said.append)
    assert said == [
        "importing torch",
        "loading the module",
        "asking the module",
        "loading it once more, to see whether its weights are the same",
        "exporting to eager",
        "checking parity",
    ]
