"""A client that is used in forked children, as with gunicorn --preload: each gets its own answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.named import make_named
from tests.live.servers import ROOT, Live, starter

pytestmark = pytest.mark.live

# A web server that connects, warms up, and then forks its workers: first quietly, then while threads ask.
PRELOADED = """
import json, os, sys, threading
from torchmar.client import connect

inference, management, key_file = sys.argv[1:]
server = connect(inference=inference, management=management, key_file=key_file, split={"9.9": 0.5})

def ask(who, count):
    bodies = [f"{who} request {number}".encode() for number in range(count)]
    answers = [server.inference.predict("echo", body, timeout=20) for body in bodies]
    right = sum(answer.content == body for answer, body in zip(answers, bodies))
    return {"who": who, "right": right, "drawn": [answer.instead_of is not None for answer in answers]}

def tell(**what):
    os.write(1, (json.dumps(what) + "\\n").encode())  # in one piece: the others write to the same pipe

def workers(when):
    pids = []
    for child in range(3):
        pid = os.fork()
        if pid == 0:
            tell(**ask(f"{when} {child}", 50))
            server.close()
            sys.exit(0)  # as a worker ends: what is to be done at the exit is done
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

ask("warm-up", 3)
codes = workers("quiet")
threads = [threading.Thread(target=ask, args=(f"thread {number}", 30)) for number in range(2)]
for thread in threads:
    thread.start()
codes += workers("busy")
for thread in threads:
    thread.join()
tell(**ask("parent", 50), codes=codes)
"""


@pytest.fixture
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with ExitStack() as stack:
        live = starter(stack, tmp_path_factory)()
        make_named(live.store, "echo.mar", "echo")
        live.management.register("echo.mar", initial_workers=1)
        live.management.wait_until_ready("echo")
        yield live


def test_each_child_gets_its_own_answers(echo: Live, tmp_path: Path) -> None:
    """All of them right, drawn by chance of their own, and none waits for ever."""
    script = tmp_path / "preloaded.py"
    script.write_text(PRELOADED)
    config = echo.running.config
    command = [sys.executable, str(script), config.inference, config.management, str(echo.running.key_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    told = {one["who"]: one for one in map(json.loads, done.stdout.splitlines())}
    workers = [f"{when} {child}" for when in ("quiet", "busy") for child in range(3)]
    assert {who: one["right"] for who, one in told.items()} == dict.fromkeys([*workers, "parent"], 50)
    assert told["parent"]["codes"] == [0] * 6
    assert len({tuple(told[who]["drawn"]) for who in workers}) == 6
