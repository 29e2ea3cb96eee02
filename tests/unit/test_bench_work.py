"""The work without a server is the archive's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import archives, limit
from torchmar.worker import Request, Worker

from ..conftest import ROOT, TINY

PICTURE = TINY / "golden" / "noise.png"


@pytest.fixture
def packed(tiny_onnx: Path, tmp_path: Path) -> archives.Packed:
    """The tiny model, unpacked."""
    copy = tmp_path / tiny_onnx.name
    copy.write_bytes(tiny_onnx.read_bytes())
    return archives.unpacked(copy, "tiny", "2.0")


def test_the_limit_answers_what_a_worker_answers(packed: archives.Packed) -> None:
    """By the same code, in processes of its own; all of them count."""
    found = limit.measure(packed.folder, PICTURE, processes=2, seconds=0.2)
    with Worker.load(packed.mar) as worker:
        [response] = worker.predict([Request.body(PICTURE.read_bytes())])
    assert found.answer.encode() == response.body
    assert found.processes == 2
    assert found.rps > 0


def test_a_loop_that_fails_is_told(tmp_path: Path) -> None:
    """With its reason, and nothing is left running."""
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        limit.measure(tmp_path, PICTURE, processes=2, seconds=0.1)


def test_work_needs_no_torchmar(packed: archives.Packed) -> None:
    """The other servers' environments have neither it nor PyYAML."""
    code = """
import sys
from benchmarks.work import from_environment
print(from_environment()(open(sys.argv[1], "rb").read()).decode())
sys.exit(any(name.partition(".")[0] in {"torchmar", "yaml", "torch"} for name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(PICTURE)],
        cwd=ROOT,
        env={**os.environ, "BENCH_ARCHIVE": str(packed.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 3


def test_a_repacked_archive_is_one(packed: archives.Packed, tmp_path: Path) -> None:
    """Another name, another setting, a file replaced, and the same answers."""
    config = json.loads((packed.folder / "model-config.json").read_text())
    graph = packed.folder / config["handler"]["models"]["model"]["file"]
    target = archives.repacked(
        packed, tmp_path / "other-2.0.mar", "other", files={graph.name: graph}, config={"minWorkers": 3}
    )
    other = archives.unpacked(target, "other", "2.0")
    assert json.loads((other.folder / "model-config.json").read_text())["minWorkers"] == 3
    assert (
        json.loads((other.folder / "MAR-INF" / "MANIFEST.json").read_text())["model"]["modelName"] == "other"
    )
    request = Request.body(PICTURE.read_bytes())
    with Worker.load(packed.mar) as worker, Worker.load(target) as repacked:
        assert worker.predict([request])[0].body == repacked.predict([request])[0].body
