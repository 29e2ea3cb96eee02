"""What `archive` and `inspect` print: one line is one line whatever a stranger wrote, and JSON is JSON."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from torchmar import archive as archive_module
from torchmar import mar, pack, revision
from torchmar.archive import Built
from torchmar.cli import app
from torchmar.dataset import digest, read_dataset
from torchmar.lineage import Lineage, Metric

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


def lineage_given(
    monkeypatch: pytest.MonkeyPatch, tiny_eager: Path, *options: str, models: int = 1
) -> tuple[Lineage | None, Result]:
    """The lineage that `archive` with these options gives to a build, and what it printed."""
    given: list[Lineage | None] = []

    def build(*_: object, lineage: Lineage | None, **__: object) -> Built:
        given.append(lineage)
        return Built(replace(mar.read(tiny_eager), lineage=lineage), was_there=False)

    monkeypatch.setattr(archive_module, "build", build)
    done = CliRunner().invoke(app, ["archive", *[str(TINY)] * models, *options])
    return (given or [None])[0], done


def test_a_plain_archive_has_no_lineage(monkeypatch: pytest.MonkeyPatch, tiny_eager: Path) -> None:
    """Its bytes depend on no checkout; the revision alone is recorded where it is asked for."""
    assert lineage_given(monkeypatch, tiny_eager)[0] is None
    assert lineage_given(monkeypatch, tiny_eager, "--revision", "none")[0] is None
    assert lineage_given(monkeypatch, tiny_eager, "--revision", "r1")[0] == Lineage(revision="r1")


def test_a_lineage_is_recorded_with_its_revision(
    monkeypatch: pytest.MonkeyPatch, tiny_eager: Path, tmp_path: Path
) -> None:
    """Of a parent and data: git's revision besides, unless another one is named, or none."""
    monkeypatch.setattr(revision, "revision_of", lambda folder, _: f"of {folder.name}")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.txt").write_text("1")
    given = ("--parent", str(tiny_eager), "--data", f"train={tmp_path}")
    whole, done = lineage_given(monkeypatch, tiny_eager, *given)
    parent = mar.read(tiny_eager).as_parent()
    assert whole == Lineage(parent, {"train": digest(read_dataset(tmp_path))}, "of tiny")
    assert (
        f"  lineage  from tiny 1.0 (sha256 {parent.sha256[:12]}…), revision of tiny, data train "
        in done.stdout
    )
    assert lineage_given(monkeypatch, tiny_eager, *given, "--revision", "none")[0] == replace(
        whole, revision=None
    )
    assert lineage_given(monkeypatch, tiny_eager, *given, "--revision", "r1")[0] == replace(
        whole, revision="r1"
    )


def test_git_knows_no_revision(monkeypatch: pytest.MonkeyPatch, tiny_eager: Path) -> None:
    """A note says so, and nothing is written where nothing else is known."""
    monkeypatch.setattr(revision, "revision_of", lambda *_: None)
    lineage, done = lineage_given(monkeypatch, tiny_eager, "--revision", "auto")
    assert lineage is None
    assert "no revision is recorded: git knows none of" in done.stderr


@pytest.mark.parametrize(
    ("options", "models", "message"),
    [
        (("--parent", "nowhere.mar"), 1, "nowhere.mar: no such file"),
        (("--parent", "TINY"), 2, "--parent: name one model folder, not several"),
        (("--data", "data/train"), 1, "--data data/train: write a role once and a path"),
        (("--data", "train=nowhere"), 1, "nowhere: no such file or folder"),
    ],
)
def test_a_lineage_that_cannot_be_recorded(
    options: tuple[str, str], models: int, message: str, monkeypatch: pytest.MonkeyPatch, tiny_eager: Path
) -> None:
    """Nothing is built."""
    given = [str(tiny_eager) if one == "TINY" else one for one in options]
    lineage, done = lineage_given(monkeypatch, tiny_eager, *given, models=models)
    assert (done.exit_code, lineage) == (1, None)
    assert message in str(done.exception)


def test_inspect_tells_of_the_lineage(tiny_eager: Path, tmp_path: Path) -> None:
    """Two lines for people, everything for machines; a stranger's texts break no line."""
    lineage = Lineage(
        seed=3, metrics={"accuracy": Metric(0.5, 0.25, 0.75, 8, "ab" * 32), BAD: Metric(1, 1, 1, 1, "0" * 64)}
    )
    path = tmp_path / "told-1.0.mar"
    pack.variant(mar.verify(tiny_eager), path, {mar.LINEAGE: lineage.as_bytes()})
    text = CliRunner().invoke(app, ["inspect", str(path)]).stdout
    assert "\nLineage  seed 3\nMetrics  accuracy 0.5 [0.25, 0.75] on 8 examples; a" in text
    assert [c for c in text if c != "\n" and not c.isprintable()] == []
    told = json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)["lineage"]
    assert Lineage.of(told) == lineage
