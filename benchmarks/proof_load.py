"""Sends a load that accounts for every request: whether it was answered, and by which version.

Closed-loop clients run in their own process, as in torchmar.measure.load; but each request has an id, and its
result is kept. `count` combines the results with the handler's record (benchmarks.proof_archive) and with the
times at which the default version changed: the monotonic clock of Linux is the same in all processes.
"""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from torchmar.errors import TorchmarError
from torchmar.measure.load import Reply, build_request, parse_reply

_RETRY_SECONDS = 0.05  # after a failed connection, to spare a server that is gone


@dataclass(frozen=True)
class Record:
    """Holds the result of one request; times are seconds of the monotonic clock.

    `answered` is the time at which the result was known. `status` is 0 if no whole answer came. `right` says
    that the answer had the id of the request; `version` gave it.
    """

    id: str
    sent: float
    answered: float
    status: int = 0
    right: bool = False
    version: str = ""
    error: str = ""


def client_of(record: Record) -> str:
    """Return the client that sent a request."""
    return record.id.partition("-")[0]


@dataclass(frozen=True)
class Switch:
    """Says that the default became `version` between `begin` and `end`, seconds as in Record."""

    version: str
    begin: float
    end: float


def count(records: Sequence[Record], executed: Iterable[str], defaults: Sequence[Switch]) -> dict[str, int]:
    """Count the requests, and those that went wrong, by kind.

    `executed` holds the id of a request as often as it was executed. `defaults` are all switches in their
    order; the first sets the initial default. failed: answered wrongly, or without being executed. lost:
    never answered. duplicated: executed more than once. misversioned: answered by a version that was not the
    default at any moment between sending and answer.
    """
    times = Counter(executed)
    right = [record for record in records if record.right]
    return {
        "requests": len(records),
        "failed": sum(bool(r.status) and not (r.right and times[r.id]) for r in records),
        "lost": sum(not r.status for r in records),
        "duplicated": sum(times[r.id] > 1 for r in records),
        "misversioned": sum(not _was_default(record, defaults) for record in right),
    }


def _was_default(record: Record, defaults: Sequence[Switch]) -> bool:
    ends = [switch.end for switch in defaults[1:]] + [math.inf]
    return any(
        switch.version == record.version and switch.begin <= record.answered and record.sent <= end
        for switch, end in zip(defaults, ends, strict=True)
    )


@dataclass(frozen=True)
class Order:
    """Describes a load: `clients` that wait `timeout` seconds for an answer."""

    url: str
    headers: Mapping[str, str] = field(repr=False)  # one is a token
    clients: int = 8
    timeout: float = 10.0


class ProofLoad:
    """Sends the load from `start` to `stop`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start sending."""
        command = [sys.executable, "-m", "benchmarks.proof_load"]
        root = Path(__file__).resolve().parent.parent
        # The order goes over a pipe: arguments are shown to everyone by `ps`, and one of them is a token.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(self._order)) + "\n")
        self._process.stdin.flush()

    def stop(self) -> list[Record]:
        """Stop sending, wait for the last answers, and return the records of all requests.

        Raises TorchmarError if the load has died, or a client has sent nothing: then nothing is proved.
        """
        assert self._process is not None
        lines, _ = self._process.communicate(timeout=self._order.timeout + 60)
        if self._process.returncode:
            raise TorchmarError(
                f"the load has ended with exit code {self._process.returncode}: nothing is proved"
            )
        records = [Record(**json.loads(line)) for line in lines.splitlines()]
        sent = {client_of(record) for record in records}
        if len(sent) != self._order.clients:
            raise TorchmarError(
                f"{len(sent)} of {self._order.clients} clients sent requests: nothing is proved"
            )
        return records

    def kill(self) -> None:
        """End the load without its records."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


# -- the process --------------------------------------------------------------------------------


class _Client:
    """Sends one request at a time over one connection, which is kept alive."""

    def __init__(self, order: Order, number: int) -> None:
        self._order = order
        self._number = number
        self._socket: socket.socket | None = None
        self.records: list[Record] = []

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self.records.append(self._one(f"{self._number}-{len(self.records)}"))
            if not self.records[-1].status:
                ended.wait(_RETRY_SECONDS)
        self._close()

    def _one(self, request: str) -> Record:
        body = json.dumps({"id": request}).encode()
        wire = build_request(self._order.url, body, self._order.headers)
        sent = time.monotonic()
        try:
            reply = self._exchange(wire)
        except (OSError, ValueError) as error:
            self._close()
            return Record(request, sent, time.monotonic(), error=f"{type(error).__name__}: {error}")
        record = Record(request, sent, time.monotonic(), reply.status)
        if not reply.reusable:
            self._close()
        return _read(record, reply.body)

    def _exchange(self, wire: bytes) -> Reply:
        """Send a request; return its reply. Raises OSError, ValueError, or TimeoutError after the timeout."""
        until = time.monotonic() + self._order.timeout
        if self._socket is None:
            parts = urlsplit(self._order.url)
            address = (parts.hostname or "127.0.0.1", parts.port or 80)
            self._socket = socket.create_connection(address, self._order.timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(wire)
        received = bytearray()
        while True:
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            part = self._socket.recv(65536)
            received += part
            reply = parse_reply(received, ended=not part)
            if reply is not None:
                return reply
            if not part:
                raise ConnectionError("closed without an answer")

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _read(record: Record, body: bytes) -> Record:
    try:
        content = json.loads(body)
        right = record.status == 200 and content["id"] == record.id
        version = str(content["version"])
    except (ValueError, TypeError, KeyError):
        right, version = False, ""
    error = "" if right else _what(record, body)
    return Record(record.id, record.sent, record.answered, record.status, right, version, error)


def _what(record: Record, body: bytes) -> str:
    if record.status == 200:
        # TorchServe answered a request twice: every later answer on this connection is one behind.
        return "the answer to another request"
    return f"status {record.status}: {body[:200].decode('utf-8', 'replace')}"


def main() -> int:
    """Read an order from standard input, send until the input ends, and print all records."""
    order = Order(**json.loads(sys.stdin.readline()))
    ended = threading.Event()
    clients = [_Client(order, number) for number in range(order.clients)]
    threads = [threading.Thread(target=client.run, args=(ended,)) for client in clients]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    for client in clients:
        for record in client.records:
            sys.stdout.write(json.dumps(asdict(record)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
