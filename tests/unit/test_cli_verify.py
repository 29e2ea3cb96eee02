"""`torchmar verify`: a line for each archive, and what ok does not say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .strangers import ECHO, FUNCTION, Folder, golden, pack
from .test_cli import ROOT, environment, torchmar

NOTHING_ASKED = "it has no golden requests, so nothing was asked of it: whether it answers is not known"


def test_an_archive_that_was_asked_nothing_is_not_called_good_without_saying_so(folder: Folder) -> None:
    """It answers everything with 503; for machines the number of what was asked is there, too."""
    code = "def handle(data, context):\n    if data is not None:\n        raise KeyError\n"
    path = pack(folder(code))
    done = torchmar("verify", path)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith(f"ok  {path}: it has no digests, loads in ")
    assert second == f"    note: {NOTHING_ASKED}"
    [result] = json.loads(torchmar("verify", path, "--json").stdout)
    assert (result["ok"], result["loaded"], result["asked"]) == (True, True, 0)
    assert result["check"]["caveats"] == [NOTHING_ASKED]


def test_an_archive_that_was_asked(folder: Folder) -> None:
    path = pack(folder(ECHO, files=golden({"one": {"index": 1}}, one="1")))
    done = torchmar("verify", path)
    assert done.stdout.endswith(", 1 golden answered as the module does\n")
    [result] = json.loads(torchmar("verify", path, "--json").stdout)
    assert (result["asked"], result["check"]["caveats"]) == (1, [])


def test_one_that_was_not_loaded_has_no_verdict(folder: Folder) -> None:
    """With --no-load nothing of it is run, and no check is told."""
    path = pack(folder("1 / 0"))
    done = torchmar("verify", path, "--no-load")
    assert (done.returncode, done.stdout) == (0, f"ok  {path}: it has no digests, not loaded\n")
    [result] = json.loads(torchmar("verify", path, "--no-load", "--json").stdout)
    assert (result["ok"], result["loaded"], result["check"]) == (True, False, None)


def test_one_that_cannot_be_unpacked_does_not_hide_the_others(folder: Folder) -> None:
    """A temporary folder that is too small for the first of three is one error; all three are told."""
    large = pack(folder(files={"large.bin": "x" * 1_000_000}))
    small, wrong = pack(folder()), pack(folder("1 / 0"))
    limited = ["sh", "-c", 'ulimit -f 300; exec "$@"', "sh", sys.executable, "-m", "torchmar", "verify"]
    done = subprocess.run(
        [*limited, large, small, wrong],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.startswith(f"ok  {small}: ")
    assert f"error: {large}: could not be unpacked into " in done.stderr
    assert "set TMPDIR to a folder with room" in done.stderr
    assert f"error: {wrong}: its handler handler would not load: ZeroDivisionError" in done.stderr
    assert "torchmar/cli" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_characters(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """Names, reasons and tracebacks are told with escapes; JSON stays JSON, with the text as it is."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    path = folder().parent / "größe-€.mar"
    pack(folder("raise ValueError('Größe € \\udcff')\n")).rename(path)

    def verify(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torchmar", "verify", path, *options]
        settings = {"capture_output": True, "encoding": encoding, "timeout": 120}
        return subprocess.run(command, env=environment(), check=False, **settings)

    done = verify()
    assert (done.returncode, done.stdout) == (1, "")
    assert "would not load: ValueError: Gr" in done.stderr
    assert "torchmar/cli" not in done.stderr
    [result] = json.loads(verify("--json").stdout)
    assert result["path"] == str(path)
    assert result["check"]["reason"].endswith("ValueError: Größe € \udcff")


@pytest.mark.parametrize("model", [{"modelName": "tokens"}, {"modelVersion": "1/0"}, {"modelName": "a\nb"}])
def test_names_that_cannot_be_managed(folder: Folder, model: dict[str, str]) -> None:
    """TorchServe registers them; refused, and nothing of the archive is run."""
    path = pack(folder("1 / 0", **model))
    done = torchmar("verify", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {path}: ")
    assert "ZeroDivisionError" not in done.stderr


def test_the_servers_python(folder: Folder, tmp_path: Path) -> None:
    """Given by --python; one that is not there is one error, which is not the archive's."""
    path = pack(folder(FUNCTION))
    done = torchmar("verify", path, "--python", tmp_path / "nonesuch")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: --python {tmp_path / 'nonesuch'}: give the path of a Python")
    assert torchmar("verify", path, "--python", sys.executable).returncode == 0
