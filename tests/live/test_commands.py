"""The commands against a real server: what they do, refuse, and say."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import forked
from torchmar.client import connect
from torchmar.server import find_running, free_ports, read_config, stop

from .servers import ROOT, make_stranger

ECHO = "def handle(data, context):\n    return None if data is None else ['ok'] * len(data)\n"


class Commands:
    """A folder with a configuration and a model store, and `torchmar` typed in the folder above it."""

    def __init__(self, above: Path) -> None:
        self.above = above
        self.folder = above / "served"
        self.store = self.folder / "model_store"
        self.store.mkdir(parents=True)
        free_ports(read_config(ROOT / "config.properties")).write(self.folder / "config.properties")

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """What a command prints; its exit code must be `code`."""
        done = forked.torchmar([*arguments, "--dir", "served"], cwd=self.above)
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback (most recent call last)" not in done.stdout
        return done.stdout + done.stderr

    def json(self, *arguments: str | Path) -> Any:
        """What it prints for a machine."""
        return json.loads(self(*arguments, "--json"))


@pytest.fixture(scope="module")
def torchmar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """A server that `torchmar serve --dir served` has started, from the folder above."""
    commands = Commands(tmp_path_factory.mktemp("above"))
    assert "TorchServe runs" in commands("serve")
    yield commands
    running = find_running(commands.folder)
    if running is not None:
        stop(running, timeout=0)


def test_a_second_server_in_a_folder_is_refused(torchmar: Commands) -> None:
    """And says which one runs."""
    assert "is running already: process" in torchmar("serve", code=1)


def test_it_is_found_from_anywhere(torchmar: Commands) -> None:
    """By its folder, wherever the command is typed."""
    running = find_running(torchmar.folder)
    assert running is not None
    assert running.config.path == torchmar.folder / "config.properties"
    assert "Healthy" in torchmar("status")
    assert torchmar.json("status")["inference"] == running.config.inference


def test_register_scale_switch_unregister(torchmar: Commands, tiny_eager: Path, tiny_onnx: Path) -> None:
    """A model's life by commands alone."""
    for archive in (tiny_eager, tiny_onnx):
        shutil.copyfile(archive, torchmar.store / archive.name)
    assert "tiny 1.0: 1 READY, the default version" in torchmar("register", tiny_eager.name)
    assert "tiny 2.0: 2 READY, not the default" in torchmar("register", tiny_onnx.name, "--workers", "2")
    assert "built for" not in torchmar("scale", "tiny", "1", "--version", "2.0", "--longest", "0.2")
    assert "the archive is for 1 worker (maxWorkers)" in torchmar("scale", "tiny", "2", "--version", "2.0")
    assert torchmar.json("scale", "tiny", "1", "--version", "2.0", "--longest", "0.2")["ready_workers"] == 1
    switched = torchmar("set-default", "tiny", "2.0")
    assert "default is 2.0 (back: torchmar set-default tiny 1.0 --dir served)" in switched
    assert [row["default"] for row in torchmar.json("versions", "tiny") if row["version"] == "2.0"] == [True]
    picture = ROOT / "tests/models/tiny/golden/noise.png"
    [answer] = torchmar.json("predict", "tiny", picture)
    assert len(answer["answer"]) == 3
    refused = {
        ("predict", "tinny", picture): "give the name of a model that is served: tiny\n",
        ("predict", "tiny", picture, "--version", "9"): "give a version of tiny that is served: 1.0, 2.0\n",
        ("set-default", "tiny", "7"): "give a version of tiny that is served: 1.0, 2.0\n",
        ("unregister", "tiny"): "give a version of tiny that is served: 1.0, 2.0\n",
        ("set-default", "tiny"): "give a version of tiny that is served: 1.0, 2.0\n",
        ("retire", "tiny"): "give a version of tiny that is served: 1.0, 2.0\n",
        ("scale", "tiny", "1", "--version", "7"): "give a version of tiny that is served: 1.0, 2.0\n",
        ("versions", "tinny"): "give the name of a model that is served: tiny\n",
        (
            "unregister",
            "tiny",
            "2.0",
        ): "make another version the default first: `torchmar set-default tiny 1.0`",
        ("register", "nope.mar"): f"in the server's model store: {tiny_eager.name}, {tiny_onnx.name}",
        ("register", tiny_onnx.name): "`torchmar unregister tiny 2.0` first, or build it as another version",
    }
    for command, remedy in refused.items():
        assert remedy in torchmar(*command, code=1), command
    assert "tiny 1.0: unregistered" in torchmar("unregister", "tiny", "1.0")


def test_a_form_arrives_in_its_fields(torchmar: Commands, tmp_path: Path) -> None:
    """JSON parsed, text as text, all else as bytes; and bytes that are answered are kept."""
    code = (
        "def handle(data, context):\n"
        "    if data is None: return None\n"
        "    context.set_response_content_type(0, 'application/octet-stream')\n"
        "    told = {k: repr(bytes(v) if isinstance(v, bytearray) else v) for k, v in data[0].items()}\n"
        "    return [b'\\xff' + repr(told).encode()]\n"
    )
    make_stranger(torchmar.store, "form", code)
    torchmar("register", "form-1.0.mar")
    contents = {"j.json": b"[1, 2]", "t.txt": "\u00e9".encode(), "b.bin": b"\xff\0", "x.jpg": b"jpg"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    fields = [argument for name in contents for argument in ("-F", f"{name[0]}=@{tmp_path / name}")]
    said = torchmar("predict", "form", "-F", "a=2", *fields, "--save", tmp_path / "answer")
    assert "that are no text (application/octet-stream): in " in said
    answer = (tmp_path / "answer").read_bytes()
    assert answer[:1] == b"\xff"
    assert ast.literal_eval(answer[1:].decode()) == {
        "a": "b'2'",
        "j": "[1, 2]",
        "t": repr("\u00e9"),
        "b": repr(b"\xff\0"),
        "x": repr(b"jpg"),
    }


def test_broken_archive_is_told_and_taken_back(torchmar: Commands) -> None:
    """With the worker's own reason; nothing of it stays registered."""
    make_stranger(torchmar.store, "broken", "import not_installed_anywhere\n")
    said = torchmar("register", "broken-1.0.mar", code=1)
    assert "No module named 'not_installed_anywhere'" in said
    assert "It was unregistered again" in said
    assert "no such model" not in said
    assert all(row["name"] != "broken" for row in torchmar.json("status")["models"])


def test_another_archive_of_the_same_name_is_not_taken_for_it(torchmar: Commands, tmp_path: Path) -> None:
    """The server registers its own file: another one here is refused before anything is asked of it."""
    make_stranger(torchmar.store, "twin", ECHO, version="1.0")
    mine = make_stranger(tmp_path, "twin", ECHO, version="9.0").rename(tmp_path / "twin-1.0.mar")
    said = torchmar("register", mine, code=1)
    assert "is not what the server would take" in said
    assert "no such file" in torchmar("register", tmp_path / "nowhere" / "twin-1.0.mar", code=1)
    assert all(row["name"] != "twin" for row in torchmar.json("status")["models"])


def test_a_path_into_the_store(torchmar: Commands, tmp_path: Path) -> None:
    """From here, from the server's folder, or whole: what the help says. Elsewhere is told in a sentence."""
    make_stranger(torchmar.store, "pathed", ECHO)
    for path in (
        "served/model_store/pathed-1.0.mar",
        "model_store/pathed-1.0.mar",
        torchmar.store / "pathed-1.0.mar",
    ):
        assert "pathed 1.0: 1 READY" in torchmar("register", path)
        torchmar("unregister", "pathed", "1.0")
    outside = make_stranger(tmp_path, "outside", ECHO)
    said = torchmar("register", outside, code=1)
    assert f"is not in {torchmar.store}, the server's model store" in said
    assert f"torchmar release {outside}" in said
    assert "no such file or folder" in torchmar("register", "elsewhere/pathed-1.0.mar", code=1)
    assert "is no archive" in torchmar("register", "served/logs", code=1)
    assert "expected" not in torchmar("register", "pathed-9.0.mar", code=1)
    for nothing in ("", ".", "/"):
        assert "give its file name, or a path to it" in torchmar("register", nothing, code=1)
    assert "name too long" in torchmar("register", "x" * 300 + ".mar", code=1)
    assert all(row["name"] not in {"pathed", "outside"} for row in torchmar.json("status")["models"])


def test_a_worker_that_dies_again_and_again(torchmar: Commands) -> None:
    """`/ping` says Healthy; repair replaces nothing, says what it dies of, and fails; so does doctor."""
    handler = "import not_installed_anywhere\n"
    name = make_stranger(torchmar.store, "loops", handler, config={"maxRetryTimeoutInSec": 60}).name
    running = find_running(torchmar.folder)
    assert running is not None
    config = running.config
    with connect(
        inference=config.inference, management=config.management, key_file=running.key_file
    ) as clients:
        clients.management.register(name, initial_workers=1)
        said = torchmar("repair", "loops", code=1)
        assert "again and again" in said
        assert "No module named 'not_installed_anywhere'" in said
        assert "loops 1.0 is the default and has no READY worker" in torchmar("doctor", "--no-load", code=1)
        clients.management.unregister("loops", "1.0")


def test_default_without_workers_is_refused(torchmar: Commands) -> None:
    """TorchServe would take it, and fail every request."""
    for version in ("1.0", "2.0"):
        make_stranger(torchmar.store, "idle", ECHO, version=version)
    torchmar("register", "idle-1.0.mar")
    torchmar("register", "idle-2.0.mar")
    torchmar("scale", "idle", "0", "--version", "2.0", "--longest", "0.2")
    assert "has no worker that is READY" in torchmar("set-default", "idle", "2.0", code=1)
    torchmar("set-default", "idle", "2.0", "--force")
    torchmar("set-default", "idle", "1.0")


def test_a_served_version_is_evaluated(torchmar: Commands, tmp_path: Path) -> None:
    """It answers as the same archive does in a worker; one that is not served is an error."""
    answers = "[[{'label': row['body'][:1], 'probability': 0.9}] for row in data]"
    handler = f"def handle(data, context):\n    return None if data is None else {answers}\n"
    first = {"MAR-INF/compare.json": json.dumps({"kind": "first", "by": "label"}).encode()}
    archive = make_stranger(torchmar.store, "letters", handler, files=first)
    rows = [{"text": text, "label": "a"} for text in ("ab", "ac", "ba")]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = ("evaluate", archive, "--data", tmp_path / "data.jsonl")
    assert "404: Model not found: letters" in torchmar(*asked, "--served", code=1)
    torchmar("register", "letters-1.0.mar")
    served, here = torchmar.json(*asked, "--served"), torchmar.json(*asked)
    assert served == here
    assert served["scores"][0]["value"] == pytest.approx(2 / 3)


def test_a_killed_server_leaves_nothing_that_hinders(tmp_path: Path) -> None:
    """After kill -9 of Java: status says that none runs, doctor has no error, serve starts another."""
    torchmar = Commands(tmp_path)
    first = torchmar.json("serve")
    running = find_running(torchmar.folder)
    assert running is not None
    os.kill(first["pid"], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(first["pid"])] if psutil.pid_exists(first["pid"]) else [], timeout=10)
    assert f"(process {first['pid']}) has ended without `torchmar stop`" in torchmar("status", code=1)
    told = torchmar("doctor", "--no-load")
    assert "error" not in told
    assert f"(process {first['pid']}) has ended without `torchmar stop`" in told
    try:
        assert torchmar.json("serve")["pid"] != first["pid"]
        assert not running.temporary.exists()
    finally:
        torchmar("stop")
    assert "no TorchServe" in torchmar("stop")
    assert not (torchmar.folder / "key_file.json").exists()
