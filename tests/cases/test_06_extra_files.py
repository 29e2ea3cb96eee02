"""Case 06: an eager model with a folder of modules and data that it reads."""

from __future__ import annotations

import zipfile
from pathlib import Path

from torchmar.archive import build
from torchmar.export import Weights
from torchmar.spec import load_model

from .models import answers, model_folder

CODE = """
import json
from pathlib import Path
from .nets.backbone import backbone
ARCH = json.loads((Path(__file__).parent / "arch.json").read_text())
def build(pretrained=True):
    return backbone(ARCH["width"])
"""
BACKBONE = """
from pathlib import Path
import torch
from ..heads import head
NAMES = (Path(__file__).parent / "names" / "classes.csv").read_text().split(",")
def backbone(width):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, width), head(width, len(NAMES)))
"""


def test_an_archive_has_all_that_its_code_imports_and_reads(tmp_path: Path) -> None:
    """It is loaded in a worker when it is built, and again here; what was packed is said."""
    model = model_folder(
        tmp_path / "model",
        CODE,
        "runtime: eager\n",
        arch_dot_json='{"width": 4}',
        nets__backbone_dot_py=BACKBONE,
        nets__names__classes_dot_csv="a,b,c",
        heads_dot_py="import torch\ndef head(n, m): return torch.nn.Linear(n, m)\n",
    )
    built = build(load_model(model), tmp_path / "store", weights=Weights("random"))
    assert built.notes == ("packed with its code: arch.json, nets/names/classes.csv",)
    names = zipfile.ZipFile(built.archive.path).namelist()
    assert {name.removeprefix("model_source/") for name in names if name.startswith("model_source/")} == {
        "__init__.py",
        "arch.json",
        "heads.py",
        "load.py",
        "nets/backbone.py",
        "nets/names/classes.csv",
    }
    assert [len(answer) for answer in answers(built.archive.path, 2)] == [3, 3]
