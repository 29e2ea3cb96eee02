"""Case 04: a module whose `squeeze()` drops the batch dimension of a batch of one."""

from __future__ import annotations

from pathlib import Path

from torchmar.export import Weights, build_artifacts
from torchmar.spec import load_model

from .models import answers, model_folder

CODE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 16, 3, 2)
        self.pool = torch.nn.AdaptiveAvgPool2d(1)
        self.linear = torch.nn.Linear(16, 3)
    def forward(self, x):
        return self.linear(self.pool(self.conv(x)).squeeze())
def build(pretrained=True):
    return Net()
"""


def test_one_picture_is_answered_as_it_is_among_others(binary: Path) -> None:
    """As ONNX."""
    [alone] = answers(binary, 1)
    first, *others = answers(binary, 3)
    assert alone == first
    assert len(others) == 2


def test_an_eager_module_answers_one_picture_as_several(tmp_path: Path) -> None:
    """Parity is measured in a batch of one, too, and finds the same row."""
    model = model_folder(tmp_path / "model", CODE, "runtime: eager\n")
    (tmp_path / "built").mkdir()
    artifact = build_artifacts(load_model(model), Weights("random"), tmp_path / "built")
    assert artifact.parity is not None
    assert artifact.parity.max_abs_error < 1e-6
