"""`torchmar predict --stream`: each part on standard output as soon as it comes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .test_http_errors import answers, listening, sends
from .test_predict_stream import END, HEAD, chunk, stream, told


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A file to send."""
    file = tmp_path / "x.txt"
    file.write_text("x")
    return file


def command(address: str, *arguments: object) -> list[str]:
    options = ["--stream", "--inference", address, "--no-token"]
    return [sys.executable, "-m", "torchmar", "predict", "m", *map(str, arguments), *options]


def run(content: bytes, *arguments: object) -> subprocess.CompletedProcess[str]:
    with listening(sends(content)) as heard:
        return subprocess.run(
            command(heard.address, *arguments), capture_output=True, text=True, timeout=60, check=False
        )


def test_a_part_is_printed_before_the_next_is_sent(body: Path) -> None:
    """In a pipe, too: the server goes on when the reader has seen it."""
    seen = threading.Semaphore(0)

    def talk(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        for part in (b"ein T", b"eil\xc3", b"\xa4\n"):
            connection.sendall(chunk(part))
            assert seen.acquire(timeout=30)
        connection.sendall(END)

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with listening(talk) as heard:
        with subprocess.Popen(
            command(heard.address, body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for expected in (b"ein T", b"eil", "ä\n".encode()):
                assert process.stdout.read(len(expected)) == expected
                seen.release()
            assert process.stdout.read() == b""
            assert b"(first part " in process.stderr.read()
        assert process.returncode == 0


def test_an_answer_at_once_is_told_to_be_none_in_parts(body: Path) -> None:
    """Whoever has asked for parts learns that there were none, and where some models are asked for them."""
    done = run(answers(200, b"whole"), body)
    assert (done.returncode, done.stdout) == (0, "whole\n")
    assert "the answer had no parts; some models send parts only if the request says" in done.stderr


def test_json_has_a_line_for_each_part(body: Path) -> None:
    """With its seconds, and one for the end."""
    done = run(stream(b"a\n", b"b"), body, "--json")
    *parts, end = map(json.loads, done.stdout.splitlines())
    assert [part["part"] for part in parts] == ["a\n", "b"]
    assert 0 < parts[0]["seconds"] <= parts[1]["seconds"] <= end["seconds"]
    assert end == {"file": str(body), "first_seconds": parts[0]["seconds"], "seconds": end["seconds"]}


def test_what_breaks_off_is_told(body: Path) -> None:
    """What came is printed, then one message and exit code 1; nothing that drives a terminal."""
    done = run(stream(b"a\x1b[2J", told("no memory")), body)
    assert (done.returncode, done.stdout) == (1, "a\ufffd[2J\n")
    assert "the answer broke off: no memory" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_answer_at_once(body: Path) -> None:
    """Of any model, with the line end that it lacks; of two files one after the other."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n7"
    assert run(whole, body, body).stdout == "7\n7\n"
