"""Case 08: a module that computes, and answers, in bfloat16."""

from __future__ import annotations

from pathlib import Path

from torchmar.archive import build
from torchmar.export import Weights
from torchmar.spec import load_model

from .models import answers, model_folder

CODE = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)).to(torch.bfloat16)
    def forward(self, x):
        return {"logits": self.net(x.to(torch.bfloat16)), "hidden": None}
def build(pretrained=True):
    torch.manual_seed(0)
    return Net()
"""


def test_its_archive_answers(tmp_path: Path) -> None:
    """The worker that loads it when it is built, and this one; a dict around it is no matter."""
    model = model_folder(tmp_path / "model", CODE, "runtime: eager\n")
    built = build(load_model(model), tmp_path / "store", weights=Weights("random"))
    [first, second] = answers(built.archive.path, 2)
    assert sum(row["probability"] for row in first) - 1 < 1e-6
    assert [row["probability"] for row in first] != [row["probability"] for row in second]
