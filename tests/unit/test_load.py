"""The load generator against small real servers on 127.0.0.1; what it counts, never how fast it is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from torchmar.measure.load import Load, Result, build_request, main, parse_reply, percentile, run

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

Answer = Callable[[bytes, int], bytes]
"""(the request's body, how many requests there were before) → what goes over the wire; b"" closes."""


@contextmanager
def serving(answer: Answer) -> Iterator[int]:
    """An HTTP server in a thread of its own; its port."""
    count = 0

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                [length] = [
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                ]
                body = await reader.readexactly(length)
                count += 1
                wire = answer(body, count - 1)
                writer.write(wire)
                await writer.drain()
                if not wire or b"connection: close" in wire:
                    writer.close()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(client, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def end() -> None:
            server.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()

        run_in(loop, end)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def run_in(loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[None]]) -> None:
    async def call() -> None:
        await function()

    asyncio.run_coroutine_threadsafe(call(), loop).result(10)


def load(port: int, body: bytes = b"picture", **options: Any) -> Load:
    request = build_request(f"http://127.0.0.1:{port}/predict", body, {})
    return Load(
        "127.0.0.1",
        port,
        request,
        **{"clients": 4, "seconds": 0.3, "warmup": 0.0, "warmup_max": 0.0, **options},
    )


def test_good_answers_are_counted() -> None:
    """Requests, rate and latencies of one phase; each distinct body once."""
    with serving(lambda _body, _n: GOOD) as port:
        result = run(load(port))
    assert result.requests > 0
    assert result.rps == pytest.approx(result.requests / result.seconds)
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms <= result.max_ms
    assert (result.errors, result.kinds) == (0, {})
    assert [(answer.text, answer.count) for answer in result.answers] == [("hello", result.requests)]
    assert result.answers[0].sha256 == hashlib.sha256(b"hello").hexdigest()


def test_the_whole_body_arrives() -> None:
    """A body larger than what a socket takes at once is sent in parts, unharmed."""
    body = bytes(range(256)) * 40_000
    seen = set()

    def answer(received: bytes, n: int) -> bytes:
        seen.add(hashlib.sha256(received).digest())
        return GOOD

    with serving(answer) as port:
        result = run(load(port, body, clients=2))
    assert result.requests > 0
    assert result.errors == 0
    assert seen == {hashlib.sha256(body).digest()}


def test_other_statuses_are_errors() -> None:
    """A 503 is counted by its status and not among the latencies; the client goes on, reconnecting."""
    refusal = b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
    with serving(lambda _body, n: refusal if n % 2 else GOOD) as port:
        result = run(load(port))
    assert result.requests > 0
    assert result.kinds["status 503"] == result.errors > 0


def test_a_closed_connection_is_an_error() -> None:
    """A server that closes without an answer."""
    with serving(lambda _body, n: b"" if n % 3 == 0 else GOOD) as port:
        result = run(load(port))
    assert result.requests > 0
    assert result.errors > 0
    assert set(result.kinds) <= {"closed without an answer", "connection: ECONNRESET"}


def test_no_server_is_an_error_and_ends() -> None:
    """Nothing listens there."""
    with serving(lambda _body, _n: GOOD) as port:
        pass
    result = run(load(port))
    assert result.requests == 0
    assert set(result.kinds) == {"connection: ECONNREFUSED"}


def test_no_answer_in_time_is_an_error() -> None:
    """Each client gives up after `timeout` and asks again."""
    with serving(lambda _body, _n: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhe") as port:
        result = run(load(port, timeout=0.5, seconds=2.5))
    assert result.requests == 0
    assert set(result.kinds) == {"timeout"}


def test_the_warm_up_is_not_counted() -> None:
    """What was answered before the measuring shows in its own figures only."""
    with serving(lambda _body, n: GOOD if n else GOOD.replace(b"hello", b"first")) as port:
        result = run(load(port, warmup=0.2, warmup_max=0.2))
    assert result.warmup_requests > 0
    assert result.warmup_seconds >= 0.2
    assert [answer.text for answer in result.answers] == ["hello"]


@pytest.mark.parametrize(
    ("wire", "status", "body", "reusable"),
    [
        (GOOD, 200, b"hello", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length:5\r\nx: y\r\n\r\nhello", 200, b"hello", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 200, b"", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, b"x", False),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
            200,
            b"hello",
            True,
        ),
    ],
)
def test_replies(wire: bytes, status: int, body: bytes, reusable: bool) -> None:
    """Whole answers are read, and no part of one is taken for it."""
    reply = parse_reply(wire)
    assert reply is not None
    assert (reply.status, reply.body, reply.reusable) == (status, body, reusable)
    assert all(parse_reply(wire[:end]) is None for end in range(len(wire)))


def test_a_reply_without_a_length_ends_with_the_connection() -> None:
    """As HTTP/1.0 has it."""
    wire = b"HTTP/1.1 200 OK\r\n\r\nhel"
    assert parse_reply(wire) is None
    reply = parse_reply(wire, ended=True)
    assert reply is not None
    assert reply.body == b"hel"
    assert not reply.reusable


def test_what_is_no_http() -> None:
    """Is told so."""
    with pytest.raises(ValueError, match="no HTTP"):
        parse_reply(b"SSH-2.0-OpenSSH\r\n\r\n")


def test_percentiles() -> None:
    """Nearest rank: always a value that was seen."""
    values = list(range(1, 101))
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert percentile([7], 0.99) == 7
    assert percentile([], 0.5) != percentile([], 0.5)  # NaN


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON object; another answer than the expected one is an error, and the exit code says so."""
    body = tmp_path / "body"
    body.write_bytes(b"x")
    with serving(lambda _body, _n: GOOD) as port:
        arguments = ["--url", f"http://127.0.0.1:{port}/", "--body", str(body), "--seconds", "0.1"]
        arguments += ["--warmup", "0", "--clients", "1"]
        right = main([*arguments, "--expect-sha256", hashlib.sha256(b"hello").hexdigest()])
        good = json.loads(capsys.readouterr().out)
        wrong = main([*arguments, "--expect-sha256", hashlib.sha256(b"other").hexdigest()])
        bad = json.loads(capsys.readouterr().out)
    assert (right, wrong) == (0, 1)
    assert good["errors"] == 0
    assert good["requests"] > 0
    assert bad["requests"] == 0
    assert bad["kinds"]["wrong answer"] == bad["errors"] > 0


def test_several_bodies_are_sent_in_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As often as each other; the arguments are read from a file, so that no token is seen in `ps`."""
    seen: list[bytes] = []

    def answer(received: bytes, n: int) -> bytes:
        seen.append(received)
        return GOOD

    with serving(answer) as port:
        arguments = ["--url", f"http://127.0.0.1:{port}/predict", "--clients", "1", "--seconds", "0.2"]
        for name in ("one", "two", "three"):
            (tmp_path / name).write_text(name)
            arguments += ["--body", str(tmp_path / name)]
        (tmp_path / "arguments").write_text("\n".join([*arguments, "--warmup", "0"]))
        assert main([f"@{tmp_path / 'arguments'}"]) == 0
    assert seen[:6] == [b"one", b"two", b"three"] * 2
    assert json.loads(capsys.readouterr().out)["errors"] == 0


def test_each_body_is_sent_as_its_name_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless all are to be sent as something else."""
    loads: list[Load] = []

    def run_none(load: Load) -> Result:
        loads.append(load)
        return Result(1, 1.0, 0, 0.0, math.nan, math.nan, math.nan, math.nan, 0, {}, (), 0.0, 0, 0, 0.0)

    monkeypatch.setattr("torchmar.measure.load.run", run_none)
    arguments = ["--url", "http://127.0.0.1:9/"]
    for name in ("a.json", "b.txt", "c.jpg"):
        (tmp_path / name).write_text(name)
        arguments += ["--body", str(tmp_path / name)]
    main(arguments)
    main([*arguments, "--content-type", "text/csv"])
    kinds = [
        [line for line in request.splitlines() if line.startswith(b"Content-Type")]
        for load in loads
        for request in (load.request, *load.more)
    ]
    expected = [b"application/json", b"text/plain", b"application/octet-stream", *[b"text/csv"] * 3]
    assert kinds == [[b"Content-Type: " + kind] for kind in expected]


def test_it_ends_with_whoever_asked_for_it(tmp_path: Path) -> None:
    """A measurement that is killed leaves no load behind."""
    (tmp_path / "body").write_bytes(b"x")
    load = ["-m", "torchmar.measure.load", "--url", "http://127.0.0.1:9/", "--body", str(tmp_path / "body")]
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, *{load!r}, '--seconds', '600'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None
        child = psutil.Process(int(asking.stdout.readline()))
        deadline = time.monotonic() + 20
        while child.num_threads() < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        asking.kill()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()
