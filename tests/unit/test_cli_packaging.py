"""What `archive` and `inspect` print: one line is one line whatever a stranger wrote, and JSON is JSON."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from torchmar import archive as archive_module
from torchmar import mar
from torchmar.archive import Built
from torchmar.cli import app

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "models" / "tiny"

BAD = "a\x1b[31mb\nc\u202ed\x07\u2028e"
CONFIG = """\
minWorkers: 1
handler: {a: .nan, b: [-.inf, {c: .inf}], 1: one, 2024-01-01: day}
"""


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """An archive whose texts would break lines, drive the terminal or fill it, and whose numbers are none."""
    path = tmp_path / "strange.mar"
    model = {
        "modelName": BAD,
        "modelVersion": BAD,
        "handler": "h.py",
        "configFile": "c.yaml",
        BAD: "x" * 9999,
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(mar.MANIFEST, json.dumps({"model": model, "createdOn": BAD, "\ud800": 1}))
        archive.writestr("h.py", "")
        archive.writestr("c.yaml", CONFIG)
        parity = '{"runtime": "%s", "max_abs_error": NaN, "top1_agreement": Infinity, "inputs": 4}'
        archive.writestr(mar.PARITY, parity % BAD.encode("unicode_escape").decode().replace("\\x", "\\u00"))
        archive.writestr(mar.BUILD, json.dumps({"torchmar": BAD, "toolchain": {BAD: BAD}}))
    return path


def test_inspect_prints_nothing_that_a_stranger_could_do_with_it(strange: Path) -> None:
    """No escape, no line of its own, no direction, and no page of one value."""
    done = CliRunner().invoke(app, ["inspect", str(strange)])
    assert done.exit_code == 0, done.output
    text = done.stdout
    assert [c for c in text if c != "\n" and not c.isprintable()] == []
    assert "\nc\N{REPLACEMENT CHARACTER}d" not in text
    assert max(map(len, text.splitlines())) < 1100


@pytest.mark.parametrize("kind", ["pickled", "torchscript"])
def test_inspect_tells_of_a_pickled_module(tmp_path: Path, kind: str) -> None:
    """And of no other."""
    path = tmp_path / "m.mar"
    model = {"modelName": "m", "modelVersion": "1", "handler": "h.py", "configFile": "c.yaml"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(mar.MANIFEST, json.dumps({"model": model}))
        archive.writestr("h.py", "")
        archive.writestr("c.yaml", f"handler: {{models: {{model: {{file: m.pt, format: {kind}}}}}}}")
    shown = CliRunner().invoke(app, ["inspect", str(path)]).stdout
    assert ("holds a pickled module: loading it runs code" in shown) == (kind == "pickled")
    told = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)
    assert told["pickled"] == (kind == "pickled")


def test_inspect_as_json_has_no_number_that_is_none(strange: Path) -> None:
    """NaN is no JSON; keys are texts."""
    done = CliRunner().invoke(app, ["inspect", str(strange), "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout, parse_constant=pytest.fail)
    assert (content["parity"]["max_abs_error"], content["parity"]["inputs"]) == (None, 4)
    assert content["name"] == BAD
    assert content["config"]["handler"]["b"] == [None, {"c": None}]
    assert content["config"]["handler"]["2024-01-01"] == "day"


def test_archive_tells_what_it_did_unasked(
    tiny_eager: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A line each for people, a list for machines."""
    built = Built(mar.read(tiny_eager), was_there=False, notes=("weights of w.pth: taken from 'model'", BAD))
    monkeypatch.setattr(archive_module, "build", lambda *_, **__: built)
    done = CliRunner().invoke(app, ["archive", str(TINY)])
    assert "\n  note: weights of w.pth: taken from 'model'\n  note: a" in done.stdout
    done = CliRunner().invoke(app, ["archive", str(TINY), "--json"])
    assert json.loads(done.stdout)[0]["notes"] == list(built.notes)


@pytest.mark.parametrize("seed", ["-1", str(2**65)])
def test_a_seed_that_no_generator_takes(seed: str) -> None:
    """Told as an option's value."""
    done = CliRunner().invoke(app, ["archive", str(TINY), "--seed", seed])
    assert done.exit_code == 2
    assert "--seed" in done.output
