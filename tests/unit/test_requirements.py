"""What an archive's workers need besides what serving needs: listed in it, and told by the build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from typer.testing import CliRunner

from torchmar.archive import build
from torchmar.cli import app
from torchmar.errors import ExportError, SpecError
from torchmar.export._requirements import unlisted
from torchmar.spec import load_model

from ..any_model import write_model
from .test_pack import files_in

MODULE = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(3, 2)

    def forward(self, input_ids, attention_mask):
        return (self.table(input_ids) * attention_mask[:, :, None]).sum(1)


def build():
    torch.manual_seed(1)
    return Net()
"""


def reviews(folder: Path, **spec: Any) -> Path:
    """A text classifier with a tokenizer.json."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    contents = {"load.py": MODULE, "tokenizer.json": tokenizer.to_str()}
    said = {"name": "reviews", "source": "load:build", "handler": "text_classifier", **spec}
    said.setdefault("params", {"tokenizer": {"file": "tokenizer.json"}})
    return write_model(folder / "reviews", contents, {"one.txt": "a b"}, **said)


def test_what_a_handler_needs_is_in_the_archive(tmp_path: Path) -> None:
    """In model.yaml's words, without what only the code needs that was exported; `inspect` shows it."""
    model = reviews(tmp_path, requirements=["einops==0.8", "tokenizers>=0.19"])
    built = build(load_model(model), tmp_path / "store")
    assert files_in(built.archive.path)["requirements.txt"] == b"tokenizers>=0.19\n"
    assert any("requirements.txt lists: tokenizers>=0.19" in note for note in built.notes)
    shown = CliRunner().invoke(app, ["inspect", str(built.archive.path)])
    assert "Needs    ['tokenizers>=0.19']" in shown.output


def test_a_missing_library_is_told_at_the_parameter_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the file that asks for it, and not the handler."""
    model = reviews(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(SpecError) as found:
        load_model(model)
    [problem] = found.value.problems
    assert problem.where == "params.tokenizer.file"
    assert "file: tokenizer.json" in (model / "model.yaml").read_text().splitlines()[problem.line - 1]
    assert "pip install 'tokenizers>=0.20'" in problem.what


def test_what_a_module_gives_is_told_at_the_parameter_that_it_does_not_fit(tmp_path: Path) -> None:
    """With its line: `labels` names three, and the module has two classes."""
    params = {"tokenizer": {"file": "tokenizer.json"}, "labels": "labels.txt"}
    model = reviews(tmp_path, params=params)
    (model / "labels.txt").write_text("x\ny\nz\n")
    with pytest.raises(ExportError, match=r"model\.yaml: line 9: params\.labels: the module has 2 classes"):
        build(load_model(model), tmp_path / "store")


def test_what_code_imports_and_nobody_lists(tmp_path: Path) -> None:
    """Neither what serving brings, the standard library and the folder's own, nor what is listed."""
    code = "import json, numpy, torch, helper, einops\nimport yaml.nodes\n"
    (tmp_path / "load.py").write_text(code + "def f():\n    from nonesuch.x import y\n")
    (tmp_path / "helper.py").write_text("from PIL import Image\nfrom . import load\nimport typer\n")
    files = [tmp_path / "load.py", tmp_path / "helper.py"]
    assert unlisted(files, ["Typer>=0.1", "git+https://x/y"]) == ["einops", "nonesuch"]
