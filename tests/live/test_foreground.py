"""`torchmar serve --foreground`, as a container's first process: what is sent to it goes to the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from torchmar.server import find_running, free_ports, read_config

from .servers import ROOT, make_stranger

pytestmark = pytest.mark.live

ECHO = "def handle(data, context):\n    return None if data is None else ['ok'] * len(data)\n"
WAIT = 60.0  # seconds, at most


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def foreground(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """With one model, which the configuration has it load."""
    store = folder / "model_store"
    store.mkdir()
    make_stranger(store, "echo", ECHO)
    config = free_ports(read_config(ROOT / "config.properties"))
    config.with_settings({"load_models": "echo-1.0.mar"}).write(folder / "config.properties")
    program = Path(sys.executable).parent / "torchmar"
    with (
        (folder / "out").open("wb") as output,
        subprocess.Popen(
            [program, "serve", "--foreground"], cwd=folder, stdout=output, stderr=output
        ) as process,
    ):
        try:
            until(lambda: b"WORKER_MODEL_LOADED" in (folder / "out").read_bytes())
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "is_javas", "code"),
    [
        (signal.SIGTERM, False, 143),
        (signal.SIGINT, False, 143),
        (signal.SIGHUP, False, 143),
        (signal.SIGKILL, True, 137),
    ],
)
def test_it_ends_as_the_server_does(
    tmp_path: Path, number: signal.Signals, code: int, *, is_javas: bool
) -> None:
    """By SIGTERM, by Ctrl-C, and where somebody kills Java: no process is left, nor what it had written."""
    with foreground(tmp_path) as process:
        running = find_running(tmp_path)
        assert running is not None
        [java] = psutil.Process(process.pid).children()
        assert java.pid == running.pid
        everyone = [java, *java.children(recursive=True)]
        assert len(everyone) > 1, "a worker, too"
        os.kill(java.pid if is_javas else process.pid, number)
        assert process.wait(WAIT) == code
        until(lambda: not any(one.is_running() for one in everyone))
    assert not (tmp_path / "key_file.json").exists()
    assert not running.temporary.exists()
