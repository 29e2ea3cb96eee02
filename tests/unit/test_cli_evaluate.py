"""`torchmar evaluate` on archives that answer in a worker process: tables, JSON, a page, exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from tests.live.servers import ROOT, make_stranger
from torchmar.cli import app
from torchmar.evaluate import _ask

# Takes the first letter of a text for its class, and the second for the right one, unless it is told to err.
HANDLER = """
import os, time
def handle(data, context):
    if data is None:
        return
    answers = []
    for row in data:
        text = row["body"] if isinstance(row["body"], str) else bytes(row["body"]).decode()
        if text == "error":
            raise ValueError("cannot read that")
        if text == "crash":
            os._exit(3)
        if text == "hang":
            time.sleep(600)
        answers.append([{"label": text[WHICH], "index": 0, "probability": 0.9}])
    return answers
"""
FIRST = json.dumps({"kind": "first", "by": "label"}).encode()


def archive(folder: Path, version: str, which: int) -> Path:
    return make_stranger(
        folder,
        "letters",
        HANDLER.replace("WHICH", str(which)),
        version=version,
        files={"MAR-INF/compare.json": FIRST},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two archives: 1.0 is right for a third of the texts, 2.0 for all."""
    folder = tmp_path_factory.mktemp("letters")
    archive(folder, "1.0", 0)
    archive(folder, "2.0", 1)
    rows = [{"text": f"{'abc'[n % 3]}a", "label": "a", "site": "nS"[n % 2]} for n in range(30)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def typed(folder: Path, *arguments: str, code: int = 0) -> str:
    paths = [str(folder / one) if one.startswith("letters-") else one for one in arguments]
    done = CliRunner().invoke(app, ["evaluate", *paths], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done.stdout


def test_tables_for_people(folder: Path) -> None:
    said = typed(folder, "letters-1.0.mar", "--data", str(folder / "data.jsonl"))
    assert "letters-1.0.mar  30 requests, classes" in said
    assert "accuracy           0.333  0.192 to 0.512" in said


def test_json_for_machines(folder: Path) -> None:
    said = typed(folder, "letters-2.0.mar", "--data", str(folder / "data.jsonl"), "--json")
    found: dict[str, Any] = json.loads(said)
    assert (found["name"], found["version"], found["count"], found["kind"]) == (
        "letters",
        "2.0",
        30,
        "classes",
    )
    assert found["scores"][0] == {"name": "accuracy", "value": 1.0, "high": 1.0, "higher": True} | {
        "low": pytest.approx(0.8865, abs=1e-4)
    }


def test_against_another_archive(folder: Path, tmp_path: Path) -> None:
    """Better is exit code 0, worse 1; the page says it, too."""
    page = tmp_path / "page.html"
    data = ("--data", str(folder / "data.jsonl"))
    said = typed(
        folder, "letters-2.0.mar", *data, "--against", str(folder / "letters-1.0.mar"), "--report", str(page)
    )
    assert "better than 1.0: accuracy 1.000 against 0.333" in said
    assert "20 of 30 answers differ" in said
    assert "better than 1.0: accuracy" in page.read_text()
    worse = typed(
        folder, "letters-1.0.mar", *data, "--against", str(folder / "letters-2.0.mar"), "--json", code=1
    )
    assert json.loads(worse)["against"]["verdict"] == "worse"


def test_a_request_without_an_answer_is_exit_code_1(folder: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": "a"} for text in ("aa", "error", "aa")]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = typed(folder, "letters-2.0.mar", "--data", str(tmp_path / "data.jsonl"), code=1)
    assert "2 requests, classes" in said
    assert "not answered line 2: " in said


def test_a_request_that_kills_or_stops_its_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed, and the others are answered all the same."""
    monkeypatch.setattr(_ask, "_SLACK", 1.0)
    texts = ["aa"] * 4 + ["crash"] + ["aa"] * 3 + ["hang"] + ["aa"] * 2
    rows = [{"text": text, "label": "a"} for text in texts]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("--data", str(tmp_path / "data.jsonl"), "--timeout", "1", "--json")
    found = json.loads(typed(folder, "letters-2.0.mar", *data, code=1))
    assert found["count"] == 9
    assert found["scores"][0]["value"] == 1.0
    (crashed, why), (hung, silent) = found["failed"]
    assert (crashed, hung) == ("line 5", "line 9")
    assert "its worker process died (exit code 3)" in why
    assert "did not answer within" in silent


def test_golden_requests_without_answers_are_no_examples(folder: Path, tmp_path: Path) -> None:
    """A worker asks them, too."""
    files = {"MAR-INF/compare.json": FIRST, "MAR-INF/golden/x.txt": b"bb"}
    made = make_stranger(tmp_path, "letters", HANDLER.replace("WHICH", "1"), files=files)
    said = typed(folder, str(made), "--data", str(folder / "data.jsonl"), "--json")
    assert (json.loads(said)["count"], json.loads(said)["failed"]) == (30, [])


def test_sigterm_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    """As Ctrl-C does: neither the worker's process nor a folder."""
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "hang", "label": "a"}))
    program = [str(Path(sys.executable).parent / "torchmar"), "evaluate", str(folder / "letters-2.0.mar")]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [*program, "--data", str(tmp_path / "data.jsonl")],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        parent = psutil.Process(process.pid)
        deadline = time.monotonic() + 60
        while not (children := parent.children(recursive=True)) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        _, complained = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in complained
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert list(temporary.iterdir()) == []


def test_some_of_the_requests(folder: Path) -> None:
    """The same with each seed."""
    data = ("--data", str(folder / "data.jsonl"), "--limit", "12", "--json")
    once, again, other = (
        json.loads(typed(folder, "letters-1.0.mar", *data, "--seed", seed)) for seed in "112"
    )
    assert once["count"] == 12
    assert once == again
    assert [one["name"] for one in once["worst"]] != [one["name"] for one in other["worst"]]


def test_what_the_docs_show_from_python(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {"wines.csv": folder / "data.jsonl", "wine-1.0.mar": folder / "letters-2.0.mar"}
    for shown, here in names.items():
        assert shown in block
        block = block.replace(shown, str(here))
    exec(compile(block, "docs/evaluation.md", "exec"), {})
    assert capsys.readouterr().out.startswith("accuracy 0.88")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "nowhere: no such file or folder"),
        (("--data", "DATA", "--metric", "f1"), "--metric f1: expected one of classes"),
        (
            ("--data", "DATA", "--report", "nowhere/page.html"),
            "--report nowhere/page.html: cannot be written",
        ),
        (("--data", "DATA", "--label", "klass"), "name a column with labels: no row has 'klass'"),
    ],
)
def test_mistakes(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    given = [str(folder / "data.jsonl") if one == "DATA" else one for one in arguments]
    done = CliRunner().invoke(app, ["evaluate", str(folder / "letters-1.0.mar"), *given])
    assert done.exit_code == 1
    assert message in str(done.exception)
