"""The load that accounts for every request: what it calls failed, lost, duplicated or misversioned."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks import prove_release
from benchmarks.proof_load import Order, ProofLoad, Record, Switch, count
from torchmar.errors import TorchmarError

# 1.0 from the beginning; at some moment between 10 and 11 the default became 2.0, between 20 and 21 1.0
# again.
DEFAULTS = [Switch("1.0", -math.inf, -math.inf), Switch("2.0", 10, 11), Switch("1.0", 20, 21)]
GOOD = Record("a", sent=1.0, answered=1.1, status=200, right=True, version="1.0")


def counted(record: Record, executed: list[str] | None = None) -> dict[str, int]:
    found = count([record], [record.id] if executed is None else executed, DEFAULTS)
    assert found.pop("requests") == 1
    return {key: value for key, value in found.items() if value}


def test_a_right_answer_counts_as_nothing_else() -> None:
    """A request that was executed once and answered by the default is in order."""
    assert counted(GOOD) == {}


def test_failed() -> None:
    """An error, a wrong answer, and an answer for what nobody executed."""
    assert counted(replace(GOOD, status=503, right=False)) == {"failed": 1}
    assert counted(replace(GOOD, right=False)) == {"failed": 1}
    assert counted(GOOD, []) == {"failed": 1}


def test_lost() -> None:
    """No answer, whether it was executed or not."""
    silent = replace(GOOD, status=0, right=False, version="")
    assert counted(silent) == {"lost": 1}
    assert counted(silent, []) == {"lost": 1}


def test_duplicated() -> None:
    """Executed twice, even if the client saw one right answer; what others executed does not count."""
    assert counted(GOOD, ["a", "b", "b", "a"]) == {"duplicated": 1}


@pytest.mark.parametrize(
    ("version", "sent", "answered", "right"),
    [
        ("1.0", 1.0, 9.0, True),
        ("1.0", 10.9, 12.0, True),  # the switch may not have happened when it was sent
        ("1.0", 11.1, 12.0, False),
        ("1.0", 12.0, 20.1, True),  # the switch back may have happened before it was answered
        ("1.0", 12.0, 19.9, False),
        ("2.0", 9.0, 9.9, False),
        ("2.0", 9.0, 10.1, True),
        ("2.0", 20.9, 30.0, True),
        ("2.0", 21.1, 30.0, False),
        ("3.0", 1.0, 30.0, False),
    ],
)
def test_misversioned(version: str, sent: float, answered: float, right: bool) -> None:
    """Only a version that was the default at some moment between sending and answer may answer."""
    found = counted(replace(GOOD, version=version, sent=sent, answered=answered))
    assert found == ({} if right else {"misversioned": 1})


class Answering(BaseHTTPRequestHandler):
    """Answers each client's request 1 with an error, its request 2 with silence, and all others rightly."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = body["id"].split("-")[1]
        if kind == "2":
            time.sleep(1.0)
            self.close_connection = True
            return
        content = json.dumps({"id": body["id"], "version": "1.0"}).encode()
        self.send_response(500 if kind == "1" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/predictions/proof"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_load_records_what_came_of_each_request(url: str) -> None:
    """In a process of its own: every client goes on after an error and after silence, and all is told."""
    load = ProofLoad(Order(url, {}, clients=2, timeout=0.3))
    begin = time.monotonic()
    load.start()
    time.sleep(1.5)  # a load lasts as long as it is let
    records = load.stop()
    assert len({record.id for record in records}) == len(records) > 6
    by_kind = {kind: [r for r in records if r.id.endswith(f"-{kind}")] for kind in "012"}
    assert [(r.status, r.right, r.version) for r in by_kind["0"]] == [(200, True, "1.0")] * 2
    assert [(r.status, r.right) for r in by_kind["1"]] == [(500, False)] * 2
    assert [r.status for r in by_kind["2"]] == [0, 0]
    assert all(0.2 < r.answered - r.sent < 0.9 for r in by_kind["2"])
    assert all(begin <= r.sent <= r.answered <= time.monotonic() for r in records)
    found = count(records, [r.id for r in records], DEFAULTS[:1])
    assert found == {"requests": len(records), "failed": 2, "lost": 2, "duplicated": 0, "misversioned": 0}


def test_a_load_that_died_proves_nothing() -> None:
    """Neither of its process nor of its clients: 0 requests, of which none was lost, is no proof."""
    dead = ProofLoad(Order("http://127.0.0.1:1/predictions/m", {}))
    dead.start()
    assert dead._process is not None
    dead._process.terminate()
    with pytest.raises(TorchmarError, match="exit code -15: nothing is proved"):
        dead.stop()
    idle = ProofLoad(Order("http://[:1/", {}, clients=2))  # an address at which each client's thread ends
    idle.start()
    with pytest.raises(TorchmarError, match="0 of 2 clients sent requests"):
        idle.stop()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cycles", "0"], "at least 1, or nothing is proved"),
        (["--json", "/nowhere/counts.json"], "--json /nowhere/counts.json: cannot be written"),
    ],
)
def test_what_cannot_be_proved_is_said_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a server is started and minutes are spent; and never by a traceback."""
    with pytest.raises((SystemExit, TorchmarError)) as refused:
        prove_release.main(arguments)
    assert said in capsys.readouterr().err + str(refused.value)
