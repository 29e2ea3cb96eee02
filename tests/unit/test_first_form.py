"""Archives that torchmar built in its first form are read, verified, planned and refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from torchmar import mar
from torchmar.cli import app
from torchmar.measure.tune._served import default_of
from torchmar.release import Options, ServedState
from torchmar.release._facts import Facts
from torchmar.release._plan import plan

from . import strangers

CONFIG = """\
minWorkers: 1
maxWorkers: 1
handler:
  artifact: {file: model.onnx, runtime: onnx}
  image: {size: [8, 8], mean: [0, 0, 0], std: [1, 1, 1]}
  labels: labels.txt
  threads: auto
"""
HANDLER = """
def handle(data, context):
    return None if data is None else [[{"index": 208, "label": "dog", "score": 0.9}]] * len(data)
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Its handler, its configuration, its golden answers and its parity are those of then."""
    files = {
        "model-config.yaml": CONFIG,
        "model.onnx": "x",
        mar.SPEC: "name: m\ntask: image_classification\naccept: {top1_agreement: 0.9, max_abs_error: 0.01}\n",
        mar.PARITY: json.dumps(
            {"runtime": "onnx", "inputs": 6, "golden": 1, "max_abs_error": 1e-6, "top1_agreement": 1.0}
        ),
        mar.BUILD: json.dumps({"torchmar": "0.1.0", "inputs_sha256": "ab", "toolchain": {"torch": "2.6"}}),
        **strangers.golden({"dog.txt": {"index": 208}}, **{"dog.txt": "a dog"}),
    }
    model = {"modelVersion": "1.0", "configFile": "model-config.yaml"}
    folder = strangers.write_folder(tmp_path / "m-1.0", HANDLER, "handler.py", files, model)
    archive = mar.archive_from_files(folder, mar.read(folder).files, lambda name: _read(folder, name), None)
    (folder / mar.DIGESTS).write_bytes(mar.listing(archive.files))
    return strangers.pack(folder, plain=True)


def _read(folder: Path, name: str) -> bytes | None:
    return (folder / name).read_bytes() if (folder / name).is_file() else None


def test_it_is_verified_and_its_golden_answers_still_count(old: Path) -> None:
    """`{"index": N}` is held against the first row of the answer."""
    done = CliRunner().invoke(app, ["verify", str(old), "--json"])
    assert done.exit_code == 0, done.output
    [result] = json.loads(done.stdout)
    assert (result["ok"], result["asked"]) == (True, 1)
    [golden] = result["check"]["golden"]
    assert (golden["name"], golden["ok"], golden["expected"]) == ("dog.txt", True, {"index": 208})


def test_it_is_shown_with_its_agreement(old: Path) -> None:
    """Which had another name then."""
    done = CliRunner().invoke(app, ["inspect", str(old)])
    assert done.exit_code == 0, done.output
    assert "agreement 1.0 on 6 inputs, 1 of them golden" in done.stdout
    assert mar.accepted(mar.read(old)) == mar.Accepted(0.01, 0.9)


def test_it_can_be_released(old: Path) -> None:
    """Its plan asks its golden requests."""
    facts = Facts(host="h", served=ServedState("m"), free_memory=10**12, in_store="absent", free_disk=10**12)
    found = plan(mar.verify(old), facts, Options())
    assert found.refusals == ()
    assert found.steps


def test_its_threads_are_left_alone(old: Path) -> None:
    """They are not where they are now: workers, batches and delays are searched."""
    assert default_of(mar.read(old), 2).threads is None
