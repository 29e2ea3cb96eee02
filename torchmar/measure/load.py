"""Generate load: closed-loop clients of one URL, in a process of its own.

    python -m torchmar.measure.load --url http://127.0.0.1:8080/predictions/NAME --body FILE --clients 32

Each client sends a request over a kept-alive connection, waits for the whole response, and sends again. Given
--body several times, the clients together take the bodies in turn. `@FILE` reads arguments from a file, one
a line.

It shares the machine with the server that it measures, so it does as little as possible: it builds the bytes
once, uses raw non-blocking sockets and one thread, and reads only a response's status, length and body.

It prints one JSON object: requests per second and latencies of the successful responses alone, every
failure by its kind, each distinct response with its count, and the CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import itertools
import json
import math
import os
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..files import BINARY, content_type_of

_MAX_ANSWERS = 256  # distinct ones; responses that contain the time would otherwise fill the memory
_RETRY_SECONDS = 0.05  # after a refused connection, so as not to hammer a server that is gone
_PAUSE_SECONDS = 0.005  # at most, while a client waits to connect
_WINDOW_SECONDS = 1.0  # of the warm-up, compared with the window before


@dataclass(frozen=True)
class Load:
    """Describes the load: requests, target and times in seconds.

    The warm-up lasts at least `warmup`, and continues until two windows of a second differ by less than
    `stable` (a fraction) or `warmup_max` is over. `timeout` limits a client's wait for a response. The
    clients together send `request` and each of `more` in turn.
    """

    host: str
    port: int
    request: bytes = field(repr=False)
    clients: int
    seconds: float
    warmup: float = 1.0
    warmup_max: float = 1.0
    stable: float = 0.05
    timeout: float = 30.0
    more: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def apart(self) -> float:
        """Return the seconds between two clients' first connections: all connect within a second."""
        return min(0.02, 1.0 / self.clients)


@dataclass(frozen=True)
class Answer:
    """One distinct body of a 200, with its count."""

    sha256: str
    count: int
    text: str


@dataclass(frozen=True)
class Result:
    """The result. `errors` counts all but successful responses, `kinds` by their kind."""

    clients: int
    seconds: float
    requests: int
    rps: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    errors: int
    kinds: dict[str, int]
    answers: tuple[Answer, ...]
    warmup_seconds: float
    warmup_requests: int
    warmup_errors: int
    cpu_seconds: float


def build_request(url: str, body: bytes, headers: Mapping[str, str], content_type: str = BINARY) -> bytes:
    """Return the bytes of one POST over HTTP/1.1."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {"Host": parts.netloc, "Content-Type": content_type, "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def percentile(ordered: Sequence[int], share: float) -> float:
    """Return the smallest value that `share` of them do not exceed (nearest rank); NaN if there are none."""
    if not ordered:
        return math.nan
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


# -- a response -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """A response as read. `reusable` says whether the connection can carry another request."""

    status: int
    body: bytes
    reusable: bool


def parse_reply(received: bytes | bytearray, *, ended: bool = False) -> Reply | None:
    """Return the response in the received bytes, or None while it is incomplete.

    `ended` says that the server has closed: only then is a response without a length complete. Raises
    ValueError for bytes that are no HTTP response.
    """
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    if received[:7] != b"HTTP/1.":
        raise ValueError(f"no HTTP answer: {bytes(received[:40])!r}")
    status = int(received[9:12])
    head = bytes(received[:end]).lower()
    reusable = b"\r\nconnection: close" not in head and head[:8] == b"http/1.1"
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        until = head.find(b"\r\n", at + 2)
        length = int(head[at + 17 : until if until >= 0 else None])
        if len(received) < end + 4 + length:
            return None
        return Reply(status, bytes(received[end + 4 : end + 4 + length]), reusable)
    if b"\r\ntransfer-encoding: chunked" in head:
        body = _unchunked(received, end + 4)
        return None if body is None else Reply(status, body, reusable)
    return Reply(status, bytes(received[end + 4 :]), reusable=False) if ended else None


def _unchunked(received: bytes | bytearray, start: int) -> bytes | None:
    """Return the body of a chunked response; None while it is incomplete."""
    parts: list[bytes] = []
    while True:
        line = received.find(b"\r\n", start)
        if line < 0:
            return None
        size = int(bytes(received[start:line]).split(b";")[0], 16)
        start = line + 2
        if len(received) < start + size + 2:
            return None
        if size == 0:
            return b"".join(parts)
        parts.append(bytes(received[start : start + size]))
        start += size + 2


# -- the clients --------------------------------------------------------------------------------


class _Client:
    """One connection and its current request."""

    __slots__ = ("begun", "connected", "received", "socket", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.begun = 0  # ns
        self.connected = False
        self.received = bytearray()
        self.unsent: memoryview | None = None


class _Count:
    """Counts what happened in one phase."""

    def __init__(self) -> None:
        self.latencies: list[int] = []  # ns
        self.kinds: Counter[str] = Counter()
        self.answers: Counter[bytes] = Counter()


class _Clients:
    """Runs all clients on one selector."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = itertools.cycle([memoryview(request) for request in (load.request, *load.more)])
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        # When each client may connect. They connect one after another, so that several accepting processes
        # share them; all at once would go to the process that wakes first.
        now = time.perf_counter()
        self._waiting = [now + number * load.apart for number in range(load.clients)]
        self.count = _Count()

    def open(self, number: int) -> None:
        """Connect this many clients and send their first request."""
        for _ in range(number):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = _Client(sock)
            client.begun = time.perf_counter_ns()
            client.unsent = next(self._requests)
            code = sock.connect_ex((self._load.host, self._load.port))
            if code not in {0, errno.EINPROGRESS}:
                sock.close()
                self._refused()
                continue
            self._clients.add(client)
            self._selector.register(sock, selectors.EVENT_WRITE, client)

    def open_all(self) -> None:
        """Run until every client has been opened."""
        self.run_until(max(self._waiting, default=0.0) + 2 * _PAUSE_SECONDS)

    def close(self) -> None:
        """Close all clients; drops their current requests."""
        for client in self._clients:
            client.socket.close()
        self._clients.clear()
        self._selector.close()

    def run_until(self, deadline: float) -> None:
        """Serve all clients until `deadline` (perf_counter, seconds)."""
        overdue = time.perf_counter() + 1.0
        while True:
            now = time.perf_counter()
            if now >= deadline:
                return
            if self._waiting:
                self._retry(now)
            if now >= overdue:
                self._give_up_overdue()
                overdue = now + 1.0
            pause = _PAUSE_SECONDS if self._waiting else _RETRY_SECONDS
            for key, events in self._selector.select(min(deadline - now, pause)):
                self._serve(key.data, events)

    def _serve(self, client: _Client, events: int) -> None:
        """Read from a client's connection or write to it, as the selector allows."""
        try:
            if events & selectors.EVENT_READ:
                self._read(client)
            elif client.unsent is not None:
                self._write(client)
        except ConnectionRefusedError:
            self._drop(client)
            self._refused()
        except OSError as error:
            self._failed(client, f"connection: {errno.errorcode.get(error.errno or 0, 'error')}")
        except ValueError:
            self._failed(client, "no HTTP answer")

    def _write(self, client: _Client) -> None:
        if not client.connected:
            code = client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, errno.errorcode.get(code, ""))
            client.connected = True
            self._selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        assert client.unsent is not None
        try:
            sent = client.socket.send(client.unsent)
        except BlockingIOError:
            return
        if sent < len(client.unsent):
            client.unsent = client.unsent[sent:]
            return
        client.unsent = None
        self._selector.modify(client.socket, selectors.EVENT_READ, client)

    def _read(self, client: _Client) -> None:
        try:
            part = client.socket.recv(65536)
        except BlockingIOError:
            return
        client.received += part
        reply = parse_reply(client.received, ended=not part)
        if reply is None:
            if not part:
                self._failed(client, "closed without an answer")
            return
        done = time.perf_counter_ns()
        count = self.count
        if reply.status == 200:
            count.latencies.append(done - client.begun)
            if reply.body in count.answers or len(count.answers) < _MAX_ANSWERS:
                count.answers[reply.body] += 1
            else:
                count.answers[b"(others)"] += 1
        else:
            count.kinds[f"status {reply.status}"] += 1
        if not reply.reusable or client.unsent is not None or not part:
            self._drop(client)
            self.open(1)
            return
        client.received.clear()
        self._send(client)

    def _send(self, client: _Client) -> None:
        """Send the next request on a ready connection; usually it leaves at once."""
        request = next(self._requests)
        client.begun = time.perf_counter_ns()
        try:
            sent = client.socket.send(request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            client.unsent = request[sent:]
            self._selector.modify(client.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.socket)
        client.socket.close()
        self._clients.discard(client)

    def _failed(self, client: _Client, kind: str) -> None:
        self.count.kinds[kind] += 1
        self._drop(client)
        self.open(1)

    def _refused(self) -> None:
        self.count.kinds["connection: ECONNREFUSED"] += 1
        self._waiting.append(time.perf_counter() + _RETRY_SECONDS)

    def _retry(self, now: float) -> None:
        ready = sum(moment <= now for moment in self._waiting)
        self._waiting = [moment for moment in self._waiting if moment > now]
        self.open(ready)

    def _give_up_overdue(self) -> None:
        limit = time.perf_counter_ns() - int(self._load.timeout * 1e9)
        for client in [client for client in self._clients if client.begun < limit]:
            self._failed(client, "timeout")


def run(load: Load) -> Result:
    """Warm up, measure, and count."""
    clients = _Clients(load)
    try:
        begin = time.perf_counter()
        clients.open_all()
        _warm_up(clients, load)
        warm = clients.count
        clients.count = count = _Count()
        start, cpu = time.perf_counter(), time.process_time()
        clients.run_until(start + load.seconds)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    finally:
        clients.close()
    ordered = sorted(count.latencies)
    answers = [
        Answer(hashlib.sha256(body).hexdigest(), number, body.decode("utf-8", "replace")[:4000])
        for body, number in count.answers.most_common()
    ]
    return Result(
        clients=load.clients,
        seconds=seconds,
        requests=len(ordered),
        rps=len(ordered) / seconds,
        p50_ms=percentile(ordered, 0.50) / 1e6,
        p90_ms=percentile(ordered, 0.90) / 1e6,
        p99_ms=percentile(ordered, 0.99) / 1e6,
        max_ms=percentile(ordered, 1.0) / 1e6,
        errors=sum(count.kinds.values()),
        kinds=dict(count.kinds),
        answers=tuple(answers),
        warmup_seconds=start - begin,
        warmup_requests=len(warm.latencies),
        warmup_errors=sum(warm.kinds.values()),
        cpu_seconds=cpu,
    )


def _warm_up(clients: _Clients, load: Load) -> None:
    """Warm up until the rate is stable, within the bounds of `load`."""
    begin = time.perf_counter()
    rates: list[float] = []
    while True:
        now = time.perf_counter()
        left = load.warmup_max - (now - begin)
        if left <= 0 or (now - begin >= load.warmup and _stands_still(rates, load.stable)):
            return
        before = len(clients.count.latencies)
        clients.run_until(now + min(_WINDOW_SECONDS, left))
        rates.append((len(clients.count.latencies) - before) / (time.perf_counter() - now))


def _stands_still(rates: Sequence[float], tolerance: float) -> bool:
    if len(rates) < 2 or not rates[-1]:
        return False
    return abs(rates[-1] - rates[-2]) / rates[-1] < tolerance


# -- the program --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a load and print the result. Returns 1 if a response was not the expected one."""
    options = _parser().parse_args(arguments)
    headers = dict(_header(text) for text in options.header)
    parts = urlsplit(options.url)
    requests = [
        build_request(
            options.url, body.read_bytes(), headers, options.content_type or content_type_of(body.name)
        )
        for body in options.body
    ]
    load = Load(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 80,
        request=requests[0],
        more=tuple(requests[1:]),
        clients=options.clients,
        seconds=options.seconds,
        warmup=options.warmup,
        warmup_max=max(options.warmup, options.warmup_max),
        timeout=options.timeout,
    )
    result = run(load)
    if options.expect_sha256:
        result = _expecting(result, options.expect_sha256)
    json.dump(_finite(asdict(result)), sys.stdout)
    print()
    return int(bool(result.kinds.get("wrong answer")))


def _end_with(parent: int) -> None:
    """Exit when the parent process ends, because nobody needs the load then."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _expecting(result: Result, sha256: str) -> Result:
    """Count every response but the expected one as an error."""
    wrong = sum(answer.count for answer in result.answers if answer.sha256 != sha256)
    if not wrong:
        return result
    good = result.requests - wrong
    kinds = {**result.kinds, "wrong answer": wrong}
    return replace(
        result, requests=good, rps=good / result.seconds, errors=result.errors + wrong, kinds=kinds
    )


def _finite(content: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON lacks, by null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in content.items()}


def _header(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name.strip(), value.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m torchmar.measure.load", description=__doc__.splitlines()[0], fromfile_prefix_chars="@"
    )
    parser.add_argument("--url", required=True)
    parser.add_argument(
        "--body", type=Path, required=True, action="append", help="file to send; several times"
    )
    parser.add_argument("--content-type", default="", help="of all bodies; by default by each file's name")
    parser.add_argument("--header", action="append", default=[], help="'Name: value', any number of times")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, after the warm-up")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds at least")
    parser.add_argument("--warmup-max", type=float, default=0.0, help="seconds at most, until it is stable")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds a client waits for an answer")
    parser.add_argument("--expect-sha256", default="", help="of the only right answer's body")
    return parser


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(main())
