"""No terminal makes a command end in a traceback: of any encoding, whatever names others gave their files."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

TERMINALS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "POSIX locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "UTF-8": {"PYTHONIOENCODING": "utf-8"},
}
NAMES = ["é→😀.mar", "a\nok      all is well\x1b[2J\x9b.mar", os.fsdecode(b"no-utf-8-\xff.mar")]


def torchmar(folder: Path, terminal: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))
    }
    command = [sys.executable, "-m", "torchmar", *arguments]
    environment = {**kept, "LANG": "C.UTF-8", **TERMINALS[terminal]}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Its name and those of its archives are beyond ASCII, or beyond any encoding."""
    store = tmp_path / "modèles →" / "model_store"
    store.mkdir(parents=True)
    for name in NAMES:
        (store / name).write_bytes(b"no zip")
    return store.parent


@pytest.mark.parametrize("terminal", TERMINALS)
def test_doctor(folder: Path, terminal: str) -> None:
    """It tells of every archive, with nothing raw of their names."""
    done = torchmar(folder, terminal, "doctor", "--no-load")
    assert done.stderr == b""
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    told = (b"not a model archive", b"no call can name this file")
    assert sum(any(words in line for words in told) for line in lines) == len(NAMES)
    assert not any(line.startswith(b"ok      all is well") for line in lines)
    assert b"\x1b" not in done.stdout
    assert b"\x9b" not in done.stdout.replace("→".encode(), b"").replace("😀".encode(), b"")


@pytest.mark.parametrize("terminal", TERMINALS)
def test_doctor_for_machines(folder: Path, terminal: str) -> None:
    """JSON holds the names as they are, in whatever a terminal can show."""
    done = torchmar(folder, terminal, "doctor", "--no-load", "--json")
    encoding = TERMINALS[terminal].get("PYTHONIOENCODING", "ascii")
    found = json.loads(done.stdout.decode(encoding, "surrogateescape"))
    if terminal != "POSIX locale":  # where Python itself reads names as bytes
        assert any(NAMES[0] in finding["where"] for finding in found["findings"])


@pytest.mark.parametrize("terminal", ["ascii", "POSIX locale"])
def test_errors_and_help(folder: Path, terminal: str) -> None:
    """Everything else that is printed goes the same way."""
    done = torchmar(folder, terminal, "inspect", f"model_store/{NAMES[0]}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: ")
    assert b"Traceback" not in done.stderr
    done = torchmar(folder, terminal, "release", "--help")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    """As by daemons and cron: no traceback, and what is opened next is not taken for the terminal."""
    command = f'{shlex.quote(sys.executable)} -m torchmar stop --dir "$1" {closed}'
    done = subprocess.run(["sh", "-c", command, "sh", tmp_path], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    seen = (
        "import os; import torchmar.cli as c; c.app = lambda: os.write(2, str(os.open('journal', os.O_CREAT))"
    )
    seen += ".encode()); c.main()"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(seen)} <&- >&-"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert int(done.stderr) > 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("--help", b"Usage: "), ("no-such-command", b"No such command"), ("status", b"error: no TorchServe")],
)
def test_a_terminal_without_a_size(tmp_path: Path, arguments: str, said: bytes) -> None:
    """COLUMNS=0, as terminals without a size have it, hides nothing."""
    command = [sys.executable, "-m", "torchmar", arguments]
    environment = {**os.environ, "COLUMNS": "0"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False
    )
    assert said in done.stdout + done.stderr


def test_serve_that_is_terminated(tmp_path: Path) -> None:
    """What it has begun is ended, as after Ctrl-C: no server is left that `stop` does not know of."""
    code = "import os, signal, sys, time, torchmar.cli, torchmar.server as server\n"
    code += "def start(*_, **more):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)\n"
    code += "    finally:\n        print('ended')\n"
    code += "server.start = start; sys.argv = ['torchmar', 'serve']; torchmar.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (130, b"ended\n")
    assert b"Traceback" not in done.stderr
