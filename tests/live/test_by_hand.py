"""`torchserve --start --model-store model_store` by hand, with the project's config.properties."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from torchmar.server import find_java

from .servers import ROOT, make_stranger, put_on_free_ports

PICTURE = ROOT / "tests/models/tiny/golden/noise.png"
ECHO = "def handle(data, context):\n    return None if data is None else ['ok'] * len(data)\n"


class ByHand:
    """A folder as the project's root is, on free ports, and the commands that a user types in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "model_store"
        self.store.mkdir()
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        shutil.copyfile(ROOT / "config.properties", folder / "config.properties")
        self.config = put_on_free_ports(folder / "config.properties")
        java = find_java(os.environ)
        self.environment = {
            **os.environ,
            "JAVA_HOME": str(java.home),
            "TMPDIR": str(self.temporary),
            "TEMP": str(self.temporary),
        }
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command typed in the folder, with the environment active."""
        program = Path(sys.executable).parent / command[0]
        with (self.folder / "output.txt").open("a+") as output:
            done = subprocess.run(
                [str(program), *command[1:]],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                check=False,
            )
            output.seek(0)
            done.stdout = output.read()
        return done

    def start(self) -> None:
        """Start it as the README says, and wait until it answers."""
        assert self.run("torchserve", "--start", "--model-store", "model_store").returncode == 0
        self.wait(lambda: (self.folder / "key_file.json").exists() and self.answers())

    def stop(self) -> None:
        """Stop it as the README says, and wait until nothing listens."""
        self.run("torchserve", "--stop")
        self.wait(lambda: not self.answers())

    def answers(self) -> bool:
        try:
            requests.get(self.config["inference_address"] + "/ping", timeout=5)
            requests.get(self.config["management_address"] + "/ping", timeout=5)
        except requests.RequestException:
            return False
        return True

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "output.txt").read_text()[-2000:]
            time.sleep(0.1)

    def call(self, method: str, api: str, path: str, **body: Any) -> requests.Response:
        """As curl would."""
        key = json.loads((self.folder / "key_file.json").read_text())[api]["key"]
        url = self.config[f"{api}_address"] + path
        headers = {"Authorization": f"Bearer {key}"}
        return requests.request(method, url, headers=headers, timeout=60, **body)

    def ready(self, name: str) -> bool:
        [model] = self.call("GET", "management", f"/models/{name}").json()
        return [worker["status"] for worker in model["workers"]] == ["READY"]


@pytest.fixture
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ByHand]:
    """A folder like the root; whatever still runs in it is stopped."""
    hand = ByHand(tmp_path_factory.mktemp("root"))
    yield hand
    hand.stop()
    shutil.rmtree(hand.temporary, ignore_errors=True)


def test_start_register_predict_stop(by_hand: ByHand, tiny_onnx: Path) -> None:
    """The three ways of use in one: the server by hand, the call by curl, the client's commands."""
    shutil.copyfile(tiny_onnx, by_hand.store / tiny_onnx.name)
    make_stranger(by_hand.store, "echo", ECHO, plain=True)
    by_hand.start()

    answer = by_hand.call("POST", "management", f"/models?url={tiny_onnx.name}")
    assert answer.status_code == 200, answer.text
    # The call is answered before the worker is listed as READY: `WorkerThread.setState` tells, then sets.
    by_hand.wait(lambda: by_hand.ready("tiny"))
    answer = by_hand.call("POST", "inference", "/predictions/tiny", data=PICTURE.read_bytes())
    assert [set(row) for row in answer.json()] == [{"label", "index", "probability"}] * 3

    done = by_hand.run("torchmar", "register", "echo-1.0.mar", "--workers", "2")
    assert "echo 1.0: 2 READY, the default version" in done.stdout
    done = by_hand.run("torchmar", "status")
    assert re.search(r"tiny +2\.0 +default +1 +1 ", done.stdout), done.stdout
    done = by_hand.run("torchmar", "predict", "tiny", str(PICTURE))
    assert answer.json()[0]["label"] in done.stdout


def test_it_is_hardened(by_hand: ByHand) -> None:
    """Only 127.0.0.1, only with a token, nothing from foreign URLs; metrics are there."""
    by_hand.start()
    for address in ("inference_address", "management_address", "metrics_address"):
        assert by_hand.config[address].startswith("http://127.0.0.1:")
    assert requests.get(by_hand.config["inference_address"] + "/ping", timeout=5).status_code == 400
    assert requests.get(by_hand.config["management_address"] + "/models", timeout=5).status_code == 400
    answer = by_hand.call("POST", "management", "/models?url=http://127.0.0.1:9/x.mar")
    assert answer.status_code == 404
    assert "does not match any allowed URL" in answer.text
    assert "Requests4XX" in requests.get(by_hand.config["metrics_address"] + "/metrics", timeout=5).text


def test_a_second_start_reads_the_snapshot(by_hand: ByHand, tiny_onnx: Path) -> None:
    """Pinned: without --ncs the second start serves what the first did; doctor tells what that may cost."""
    shutil.copyfile(tiny_onnx, by_hand.store / tiny_onnx.name)
    by_hand.start()
    by_hand.call("POST", "management", f"/models?url={tiny_onnx.name}")
    by_hand.stop()
    by_hand.start()
    by_hand.wait(lambda: by_hand.ready("tiny"))
    by_hand.stop()
    done = by_hand.run("torchmar", "doctor", "--no-load")
    assert "snapshots: a plain `torchserve --start` reads the newest" in done.stdout


def test_torchmar_stop_ends_it_too(by_hand: ByHand) -> None:
    """A server that was started by hand in a folder is found there."""
    by_hand.start()
    done = by_hand.run("torchmar", "stop")
    assert "has stopped" in done.stdout
    assert not by_hand.answers()


def java_process(by_hand: ByHand) -> int:
    return int((by_hand.temporary / ".model_server.pid").read_text())


def java_threads(pid: int) -> list[str]:
    return [(task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()]


def test_the_folders_logging_and_thread_pool_are_used(by_hand: ByHand) -> None:
    """No option names them: the folder that TorchServe is started in is on Java's class path.

    With few processors Java would start a thread for each batch, instead of using its common pool.
    """
    for name in ("log4j2.xml", "log4j2.system.properties"):
        shutil.copyfile(ROOT / name, by_hand.folder / name)
    make_stranger(by_hand.store, "echo", ECHO)
    by_hand.start()
    by_hand.call("POST", "management", "/models?url=echo-1.0.mar&initial_workers=1&synchronous=true")
    assert by_hand.call("POST", "inference", "/predictions/echo", data=b"x").text == "ok"
    assert any(name.startswith("ForkJoinPool.co") for name in java_threads(java_process(by_hand)))
    logs = by_hand.folder / "logs"
    by_hand.wait(lambda: "/predictions/echo" in (logs / "access_log.log").read_text())
    assert "State change" in (logs / "ts_log.log").read_text()
    assert "Looping backend response" not in (logs / "ts_log.log").read_text()
    assert "Torch worker started." in (logs / "model_log.log").read_text()


@pytest.mark.parametrize("named", [False, True])
def test_vmargs_are_read_only_from_a_file_that_is_named(by_hand: ByHand, named: bool) -> None:
    """Pinned: `torchserve --start` finds config.properties, but not the JVM's options in it."""
    if named:
        by_hand.environment["TS_CONFIG_FILE"] = "config.properties"
    by_hand.start()
    command = Path(f"/proc/{java_process(by_hand)}/cmdline").read_text()
    assert ("-Xmx" in command) == named
