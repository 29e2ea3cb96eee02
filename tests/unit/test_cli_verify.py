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
    """It answers everything with 503, which a request finds out; for machines it is not ok, either."""
    code = "def handle(data, context):\n    if data is not None:\n        raise KeyError\n"
    path = pack(folder(code))
    done = torchmar("verify", path)
    assert (done.returncode, done.stderr) == (3, "")
    first, second, third = done.stdout.splitlines()
    assert first.startswith(f"unasked  {path}: no digests, loads in ")
    assert "--request FILE" in second
    assert third == f"    note: {NOTHING_ASKED}"
    [result] = json.loads(torchmar("verify", path, "--json").stdout)
    assert (result["ok"], result["outcome"], result["asked"]) == (False, "unasked", 0)
    assert result["check"]["caveats"] == [NOTHING_ASKED]
    request = path.with_suffix(".txt")
    request.write_text("1")
    done = torchmar("verify", path, "--request", request)
    why = "handler.py line 3: KeyError; answered with 503: "
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert done.stdout.startswith(f"    {request.name} → {why}")
    assert f"error: {path}: request {request.name}: {why}" in done.stderr


def test_an_archive_that_was_asked(folder: Folder) -> None:
    path = pack(folder(ECHO, files=golden({"one": {"index": 1}}, one="1")))
    done = torchmar("verify", path)
    assert done.stdout.endswith(", 1 golden answered as expected\n")
    [result] = json.loads(torchmar("verify", path, "--json").stdout)
    assert (result["asked"], result["check"]["caveats"]) == (1, [])


def test_one_that_was_not_loaded_has_no_verdict(folder: Folder) -> None:
    """With --no-load nothing of it is run, and no check is told."""
    path = pack(folder("1 / 0"))
    done = torchmar("verify", path, "--no-load")
    assert (done.returncode, done.stdout) == (0, f"not loaded  {path}: no digests, not loaded\n")
    [result] = json.loads(torchmar("verify", path, "--no-load", "--json").stdout)
    assert (result["outcome"], result["loaded"], result["check"]) == ("not loaded", False, None)
    request = path.with_suffix(".txt")
    request.write_text("1")
    assert "leave out --no-load" in torchmar("verify", path, "--no-load", "--request", request).stderr


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
    assert done.stdout.startswith(f"unasked  {small}: ")
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
        command = [sys.executable, "-m", "torchmar", "verify", str(path), *options]
        return subprocess.run(
            command, env=environment(), check=False, capture_output=True, encoding=encoding, timeout=120
        )

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
    request = path.with_suffix(".txt")
    request.write_text("1")
    assert torchmar("verify", path, "--python", sys.executable, "--request", request).returncode == 0


def test_a_request_that_is_asked_besides(folder: Folder) -> None:
    """Its status and its answer are shown, and its name tells its type; one that is not there is an error."""
    code = "def handle(data, context):\n    return None if data is None else [[str(type(data[0]['body']))]]\n"
    path = pack(folder(code))
    requests = [path.with_suffix(suffix) for suffix in (".txt", ".json", ".jpg")]
    for request in requests:
        request.write_text("{}")
    options = [word for request in requests for word in ("--request", request)]
    done = torchmar("verify", path, *options)
    assert (done.returncode, done.stderr) == (0, "")
    first, *answers = done.stdout.splitlines()
    assert first.endswith(", 3 requests answered")
    assert answers == [
        f"    {request.name} → 200: [\"<class '{kind}'>\"]"
        for request, kind in zip(requests, ("str", "dict", "bytearray"), strict=True)
    ]
    [result] = json.loads(torchmar("verify", path, *options, "--json").stdout)
    assert (result["outcome"], result["asked"], result["check"]["caveats"]) == ("ok", 3, [])
    assert result["check"]["requests"][1]["answer"] == {"answer": ["<class 'dict'>"]}
    assert (
        "--request nowhere.txt: no such file" in torchmar("verify", path, "--request", "nowhere.txt").stderr
    )


@pytest.mark.parametrize(
    ("code", "files", "line"),
    [
        ("import nonesuch.part", {"requirements.txt": "a\nNonesuch>=1.4 # why\n"}, "'Nonesuch>=1.4'"),
        ("import nonesuch", {}, "nonesuch"),
        ("import helper", {"helper.py": "import cv2_nonesuch\n"}, "cv2_nonesuch"),
        ("import handler_x", {"handler_x.py": "import sub\n", "lib/sub.py": ""}, "sub"),
    ],
)
def test_a_package_that_is_missing(folder: Folder, code: str, files: dict[str, str], line: str) -> None:
    """The line that installs it comes first, for the Python that was tried, as requirements ask for it."""
    path = pack(folder(f"{code}\n{FUNCTION}", files=files))
    done = torchmar("verify", path)
    assert done.returncode == 1
    assert f"error: {path}: install " in done.stderr
    assert f"`{sys.executable} -m pip install {line}`" in done.stderr


def test_a_python_that_lacks_what_workers_need(folder: Folder, tmp_path: Path) -> None:
    """A bare one: what to install there is told, for that Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    python = tmp_path / "bare" / "bin" / "python"
    done = torchmar("verify", pack(folder()), "--python", python)
    assert done.returncode == 1
    assert (
        f"install yaml for the Python that the server runs: `{python} -m pip install PyYAML`" in done.stderr
    )


@pytest.mark.parametrize("code", ["import handler.x", "from json import nonesuch", "raise ImportError('no')"])
def test_what_no_package_mends(folder: Folder, code: str) -> None:
    """A module of the archive itself, or a name that a module lacks: nothing to install."""
    path = pack(folder(f"{code}\n{FUNCTION}"))
    done = torchmar("verify", path)
    assert done.returncode == 1
    assert "pip install" not in done.stderr
