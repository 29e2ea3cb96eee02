"""`torchmar init` makes folders that load, and harms nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from torchmar.cli import app
from torchmar.handler import HandlerOf, names_of_ours
from torchmar.scaffold import NotMade, make_folder
from torchmar.spec import load_model


@dataclass(frozen=True)
class Params:
    """Of a handler without a template."""

    columns: tuple[str, ...]
    """What a row has,
    in this order."""
    most: int = 16
    """Rows of a request."""


@pytest.mark.parametrize("name", ["colours", "1.5", "no"])
@pytest.mark.parametrize("handler", ["image_classifier", "mine.py", "mine.py:Mine"])
def test_it_loads_as_it_is(tmp_path: Path, name: str, handler: str) -> None:
    """Whatever YAML would make of the name; with a golden request."""
    folder = tmp_path / "models" / "m"
    assert make_folder(name, handler, folder) == []
    source = load_model(folder)
    assert (source.spec.name, source.spec.handler) == (name, handler)
    assert len(source.golden_files()) == 1
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777


@pytest.mark.parametrize("handler", names_of_ours())
def test_each_handler_has_a_folder(tmp_path: Path, handler: str) -> None:
    """From a template, or with what is to be filled in."""
    missing = make_folder("m", handler, tmp_path / "m")
    spec = yaml.safe_load((tmp_path / "m" / "model.yaml").read_text())
    assert spec["handler"] == handler
    assert (tmp_path / "m" / "load.py").is_file()
    if not missing:
        load_model(tmp_path / "m")


def test_without_a_template_params_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are required stand there without a value, the others as comments with their defaults."""
    kind = type("Kind", (), {"params_type": staticmethod(lambda: Params)})
    monkeypatch.setattr("torchmar.scaffold.names_of_ours", lambda: ["limited"])
    monkeypatch.setattr(HandlerOf, "load", lambda *_: kind)
    folder = tmp_path / "m"
    assert make_folder("m", "limited", folder) == ["params.columns in model.yaml", "the module in load.py"]
    text = (folder / "model.yaml").read_text()
    assert yaml.safe_load(text)["params"] == {"columns": None}
    assert "  # What a row has, in this order.\n  columns: # tuple[str, ...], required\n" in text
    assert "  # Rows of a request.\n  # most: 16\n" in text


@pytest.mark.parametrize(
    ("name", "handler", "error"),
    [
        ("m", "nope", "--handler nope: expected one of "),
        ("m", "torchserve:image_classifier", "expected one of"),
        ("m", "load.py", "load.py is for the module"),
        ("token", "mine.py", "begins with 'token'"),
        ("../m", "mine.py", "holds '/'"),
        ("", "mine.py", "no part of a URL"),
        ("a b", "mine.py", r"^name: found 'a b'"),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, name: str, handler: str, error: str) -> None:
    """And nothing is made."""
    with pytest.raises(NotMade, match=error):
        make_folder(name, handler, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Neither a folder, however empty, nor a link that leads nowhere."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("empty", "link"):
        with pytest.raises(NotMade, match="exists already"):
            make_folder("m", "mine.py", tmp_path / name)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotMade, match="cannot be made"):
        make_folder("m", "mine.py", tmp_path / "file" / "m")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "link"]


def test_the_command_says_what_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder that it was typed in."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["init", "colours"])
    assert "models/colours  golden/red.png, labels.txt, load.py, model.yaml" in done.stdout
    assert done.stdout.endswith("torchmar archive models/colours\n")
