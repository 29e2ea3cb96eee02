"""One small ONNX archive for the cases that need one: an export takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import MakeOnce
from torchmar.archive import build
from torchmar.export import Weights
from torchmar.spec import load_model

from .models import model_folder

BINARY = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.linear = torch.nn.Linear(3, 1)
    def forward(self, x):
        return self.linear(self.pool(x).squeeze()).sigmoid()
def build(pretrained=True):
    torch.manual_seed(3)
    return Net()
"""
LABELS = b"\xef\xbb\xbfdunkel\r\nf\xc3\xa4hre\r\n\r\n"


@pytest.fixture(scope="session")
def binary(make_once: MakeOnce) -> Path:
    """A .mar whose module squeezes its batch of one away and ends in one sigmoid; its labels have a BOM."""

    def fill(folder: Path) -> None:
        more = "  labels: labels.txt\n  scores: probabilities\n"
        model = model_folder(folder / "model", BINARY, more, labels_dot_txt=LABELS)
        build(load_model(model), folder / "store", weights=Weights("random"))

    return make_once("cases-binary", fill) / "store" / "small-1.0.mar"
