"""`torchmar tune` against a real server: the whole road, and that nothing is left of it. No timing counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from torchmar.mar import verify
from torchmar.pack import variant

from .servers import ROOT, make_stranger

# As short and as few as can be.
QUICK = ("--seconds", "0.2", "--rounds", "2", "--max-workers", "2", "--max-batch", "2", "--clients", "3")


class Tune:
    """`torchmar tune` in a folder, with a temporary folder of its own, where nothing may be left."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.folder = folder
        self.temporary = temporary

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        program = Path(sys.executable).parent / "torchmar"
        return subprocess.Popen(
            [str(program), "tune", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """What it prints, of JSON nothing else; nothing is left behind."""
        with self.start(*arguments) as process:
            said, complained = process.communicate(timeout=240)
        assert process.returncode == code, said + complained
        assert "Traceback" not in complained
        self.left_nothing()
        return said if "--json" in arguments else said + complained

    def processes(self) -> list[psutil.Process]:
        """Java, workers and clients of ours: they have been told where their temporary folder is."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.temporary) in process.environ().get("TMPDIR", ""):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def runs(self, module: str) -> bool:
        """Whether one of them, or the launcher that tune started, is `python -m module`."""
        for process in psutil.process_iter():
            try:
                command = process.cmdline()
                if module in command and str(self.temporary) in process.environ().get("TMPDIR", ""):
                    return True
            except psutil.Error:
                continue
        return False

    def left_nothing(self) -> None:
        assert list(self.temporary.iterdir()) == []
        psutil.wait_procs(self.processes(), timeout=5)
        assert self.processes() == []


@pytest.fixture
def tune(tmp_path: Path) -> Iterator[Tune]:
    """Its temporary folder has a short name: sockets are in there."""
    with tempfile.TemporaryDirectory(prefix="tt-") as temporary:
        yield Tune(tmp_path, Path(temporary))


def test_the_whole_road(tune: Tune, tiny_onnx: Path) -> None:
    """Every configuration is a row; what wins, if any, is in model.yaml, and nothing else of it changed."""
    model = shutil.copytree(ROOT / "tests/models/tiny", tune.folder / "models" / "tiny")
    before = yaml.safe_load((model / "model.yaml").read_text())
    content: dict[str, Any] = json.loads(
        tune(tiny_onnx, "--p99", "20s", "--memory", "8G", *QUICK, "--report", "report.html", "--json")
    )
    assert content["result"] in {"better", "as good"}
    assert {
        trial["reason"] for trial in content["trials"] if trial["verdict"] not in {"ok", "given up"}
    } == set()
    [default] = [trial for trial in content["trials"] if trial["default"]]
    assert default["candidate"]["batch_size"] == 8
    assert default["memory"] > 10_000_000
    assert 1 in {trial["candidate"]["workers"] for trial in content["trials"]}
    after = yaml.safe_load((model / "model.yaml").read_text())
    assert content["written"] == (content["result"] == "better")
    assert after == {**before, "serving": {**before["serving"], **(content["serving"] or {})}}
    assert "<svg" in (tune.folder / "report.html").read_text()
    assert verify(tiny_onnx).problems() == []


@pytest.mark.slow
def test_no_configuration_keeps_the_target(tune: Tune, tiny_onnx: Path) -> None:
    """Exit code 1, the nearest, and model.yaml as it was."""
    model = shutil.copytree(ROOT / "tests/models/tiny", tune.folder / "tiny")
    before = (model / "model.yaml").read_bytes()
    said = tune(tiny_onnx, "--p99", "0.001ms", *QUICK, "--model", model, code=1)
    assert "no configuration keeps p99 ≤ 0.001 ms; the nearest is" in said
    assert (model / "model.yaml").read_bytes() == before


def test_a_configuration_that_fails_is_a_row(tune: Tune, tiny_onnx: Path, tmp_path: Path) -> None:
    """Here all do: the handler would not load."""
    broken = tmp_path / "broken"
    variant(verify(tiny_onnx), broken, {"handlers/image_classifier.py": b"import not_there\n"})
    said = tune(broken, "--p99", "1s", *QUICK, code=1)
    assert "failed" in said
    assert "No module named 'not_there'" in said
    assert "no configuration could be measured" in said


@pytest.mark.parametrize(
    ("sign", "while_"), [(signal.SIGINT, "ts.model_server"), (signal.SIGTERM, "torchmar.measure.load")]
)
def test_interrupted(tune: Tune, tiny_onnx: Path, sign: signal.Signals, while_: str) -> None:
    """While the server starts, and while a configuration is measured; and twice, as impatient people do."""
    with tune.start(tiny_onnx, "--p99", "20s", "--seconds", "30") as process:
        deadline = time.monotonic() + 60
        while not tune.runs(while_) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(sign)
        time.sleep(0.2)  # it is ending by now; the second signal must not break that off
        process.send_signal(sign)
        _, complained = process.communicate(timeout=60)
    assert process.returncode not in {0, 1}
    assert "Traceback" not in complained
    tune.left_nothing()


def test_mistakes_are_told_before_anything_is_measured(tune: Tune, tiny_onnx: Path, tmp_path: Path) -> None:
    model = shutil.copytree(ROOT / "tests/models/tiny", tune.folder / "tiny")
    without = tmp_path / "without"
    archive = verify(tiny_onnx)
    golden = {file.name: None for file in archive.files if file.name.startswith("MAR-INF/golden/")}
    variant(archive, without, golden)
    make_stranger(tmp_path, "stranger", "def handle(data, context):\n    return ['ok'] * len(data or [])\n")
    for arguments, wanted in (
        ((tiny_onnx, "--p99", "80"), "--p99 '80': expected a time with its unit"),
        ((tiny_onnx, "--p99", "1s", "--memory", "2"), "--memory '2': expected a size"),
        ((tiny_onnx, "--p99", "1s", "--body", "nowhere.jpg"), "--request nowhere.jpg: no such file"),
        ((tiny_onnx, "--p99", "1s", "--report", "nowhere/r.html"), "there is no folder nowhere"),
        ((tiny_onnx, "--p99", "1s", "--report", "."), "cannot be written"),
        ((tiny_onnx, "--p99", "1s", "--model", "nowhere"), "no such file or folder"),
        ((tiny_onnx, "--p99", "1s", "--model", ROOT / "models/vgg16"), "it is the folder of 'vgg16'"),
        ((without, "--p99", "1s", "--model", model), "give what to send with --request FILE"),
        ((tmp_path / "stranger-1.0.mar", "--p99", "1s"), "give what to send with --request FILE"),
        ((tmp_path / "nowhere.mar", "--p99", "1s"), "no such file"),
    ):
        assert wanted in tune(*arguments, code=1)
