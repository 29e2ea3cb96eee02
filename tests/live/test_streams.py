"""Answers in parts over HTTP: what the frontend makes of a handler's messages, and who reads them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from torchmar import mar
from torchmar.errors import HandlerFailed, TimedOut, WorkerDied
from torchmar.release import release
from torchmar.worker import Request, Response, Worker

from ..unit.test_stream import SENDS_AS_TOLD, STREAMS
from .candidates import QUICK, candidate, fleet_of
from .servers import ROOT, Live, make_stranger, starter

LIMIT, SILENCE = 100_000, 2  # max_response_size in bytes, responseTimeout in seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """With a low limit, and models for batches of one and of two."""
    with ExitStack() as stack:
        live = starter(stack, tmp_path_factory)(settings={"max_response_size": str(LIMIT)})
        config = {"responseTimeout": SILENCE, "maxRetryTimeoutInSec": 60, "maxBatchDelay": 10_000}
        for count in (1, 2):
            make_stranger(live.store, f"told{count}", SENDS_AS_TOLD, config={**config, "batchSize": count})
            live.serve(f"told{count}-1.0.mar")
        yield live


@dataclass
class Answer:
    """What came over a connection, and when, in seconds since the request."""

    status: int
    headers: dict[str, str]
    parts: list[bytes]
    seconds: list[float]
    ended: bool

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


class Connection:
    """A client that sees chunks and ends of connections, which requests hides."""

    def __init__(self, live: Live, timeout: float = 20.0) -> None:
        url = urlsplit(live.inference.address)
        keys = json.loads((live.running.folder / "key_file.json").read_text())
        self._token = keys["inference"]["key"]
        assert url.port is not None
        self.socket = socket.create_connection((url.hostname, url.port), timeout)
        self._file = self.socket.makefile("rb")

    def send(self, model: str, body: bytes, content_type: str = "") -> None:
        head = f"POST /predictions/{model} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._token}\r\n"
        head += f"Content-Type: {content_type}\r\n" if content_type else ""
        self.socket.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def read(self) -> Answer:
        begun = time.monotonic()
        answer = Answer(0, {}, [], [], ended=False)
        try:
            answer.status = int(self._file.readline().split()[1])
            while line := self._file.readline().strip():
                name, _, value = line.decode().partition(": ")
                answer.headers[name.lower()] = value
            if "content-length" in answer.headers:
                answer.parts.append(self._file.read(int(answer.headers["content-length"])))
                answer.ended = True
            elif answer.headers.get("transfer-encoding") != "chunked":
                answer.ended = answer.status == 204
            else:
                while line := self._file.readline():
                    part = self._file.read(int(line, 16))
                    self._file.readline()
                    if not part:
                        answer.ended = True
                        break
                    answer.parts.append(part)
                    answer.seconds.append(time.monotonic() - begun)
        except (OSError, IndexError):
            pass
        return answer


def ask(
    live: Live, model: str, *bodies: bytes, content_type: str = "", timeout: float = 20.0
) -> list[Answer]:
    """So many requests at the same time."""

    def one(body: bytes) -> Answer:
        connection = Connection(live, timeout)
        connection.send(model, body, content_type)
        return connection.read()

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(one, bodies))


@contextmanager
def worker_dies(live: Live, model: str) -> Iterator[None]:
    """What is done here ends the model's worker; on the way out another one is READY, and stays.

    TorchServe may start a worker that died more than once: then the first of them is ended again.
    """
    [before] = live.management.describe(model).workers
    yield
    until = time.monotonic() + 150
    pid, since = before.pid, time.monotonic()
    while True:
        [now] = live.management.describe(model).workers
        if not now.ready or now.pid != pid:
            pid, since = now.pid, time.monotonic()
        if pid != before.pid and time.monotonic() - since > 2:
            return
        assert time.monotonic() < until, now
        time.sleep(0.05)


def seen(answers: list[Response] | list[Answer]) -> list[Any]:
    """What callers see, in any order: which of two requests is the first of a batch is chance."""
    found = []
    for one in answers:
        headers = {name.lower(): value for name, value in one.headers.items()}
        if isinstance(one, Response):
            whole, kind = not one.broken, one.content_type
        else:
            whole, kind = one.ended, headers.get("content-type", "")
        parts = [*one.parts] if "ts_stream_next" in headers else [one.body]
        own = [headers.get(name) for name in ("x-mine", "ts_stream_next")]
        found.append((one.status, kind, own, parts if parts != [b""] else [], whole))
    return sorted(found, key=repr)


AS_TOLD = {
    "in parts": "send({0: 'a'}); send({0: ''}); send({0: {'b': 1}}); send({0: b'c'}); answers[0] = ''",
    "at once": "answers[0] = 'x'",
    "a status, headers and a type": """
context.set_response_status(201, "Made", 0)
context.set_response_header(0, "X-Mine", "a")
context.set_response_content_type(0, "text/plain")
send({0: "a"})
context.set_response_status(500, "", 0)
context.set_response_header(0, "X-Mine", "b")
""",
    "as large as may be, together larger": f"for n in range(3): send({{0: b'x' * {LIMIT}}})",
    "no body": "context.set_response_status(204, '', 0); send({0: 'a'})",
    "an error's status": "context.set_response_status(400, 'no', 0); send({0: 'a'})",
    "an exception": "send({0: 'a'}); raise ValueError",
    "an exception before": "raise ValueError",
    "no memory": "send({0: 'a'}); raise MemoryError",
    "as many answers as none": "send({0: 'a'}); answers.clear()",
    "a header that none can have": "context.set_response_header(0, 'X Mine', 'yes'); send({0: 'a'})",
    "no last part": "send({0: 'a'}); answers[0] = object()",
}
OF_TWO = {
    "both": "send({0: 'a', 1: 'b'}); send({1: 'c'}); send({0: 'd'})",
    "one, and one at once": "send({0: 'a'}); answers[1] = 'whole'",
    "one, and one refused": "send({0: 'a'}); context.set_response_status(400, 'no', 1)",
    "an exception": "send({0: 'a'}); raise ValueError",
    "one ends earlier": """
from ts.protocol.otf_message_handler import create_predict_response
send({0: "a", 1: "A"})
context.stopping_criteria = {0: lambda _: False, 1: lambda _: True}
ids = dict(context.request_ids)
context.cl_socket.sendall(create_predict_response({0: "b", 1: "B"}, ids, "", 200, context))
context.stopping_criteria = None
del context.request_ids[1]
""",
}
DIES = {
    "too large": f"send({{0: 'a'}}); send({{0: b'x' * {LIMIT + 1}}})",
    "a phrase of two lines": "send({0: 'a'}); context.set_response_status(200, 'a\\nb', 0); send({0: 'b'})",
    "it exits": "send({0: 'a'}); import time; time.sleep(1.5); os._exit(3)",
}


@pytest.mark.parametrize("which", [*AS_TOLD, *(f"two: {name}" for name in OF_TWO), *DIES])
def test_callers_get_the_same_here_and_there(server: Live, which: str) -> None:
    """Parts, statuses, headers, and whether a connection was closed before the end of its answer."""
    code = {**AS_TOLD, **{f"two: {name}": told for name, told in OF_TWO.items()}, **DIES}[which]
    model = "told2" if which.startswith("two") else "told1"
    bodies = [code.encode()] * int(model[-1])
    [before] = server.management.describe(model).workers
    with worker_dies(server, model) if which in DIES else nullcontext():
        there = seen(ask(server, model, *bodies))
    if which == "it exits":  # it would take this process along
        assert there == [(200, "", [None, "true"], [b"a"], False)]
    else:
        with Worker.load(server.store / f"{model}-1.0.mar", max_response_size=LIMIT) as worker:
            assert seen(worker.predict([Request.body(body) for body in bodies])) == there
    assert (server.management.describe(model).workers[0].pid == before.pid) is (which not in DIES)


def test_who_is_left_out_of_the_last_message_waits_on(server: Live) -> None:
    """As the twin says: the frontend has forgotten the request."""
    code = b"send({0: 'a', 1: 'b'}); del context.request_ids[1]"
    answers = ask(server, "told2", code, code, timeout=1.0)
    assert sorted(answer.ended for answer in answers) == [False, True]


def test_nothing_may_follow_another_code(server: Live) -> None:
    """What does is taken for an answer to the next batch, and its worker is ended."""
    [answer] = ask(server, "told1", b"send({0: 'a'}); send({0: 'b'}, code=500)")
    assert (answer.body, answer.ended) == (b"a", False)
    with worker_dies(server, "told1"), pytest.raises(WorkerDied):
        server.inference.predict("told1", b"import time; time.sleep(1)")


def test_time_counts_from_part_to_part(server: Live) -> None:
    """A part is there when it is sent; an empty one keeps the worker, and responseTimeout ends silence."""
    pause = 0.6 * SILENCE
    code = f"import time\nfor part in ('a', '', 'b'):\n    send({{0: part}}); time.sleep({pause})"
    [answer] = ask(server, "told1", code.encode())
    assert (answer.body, answer.ended) == (b"abend", True)
    assert [round(seconds / pause) for seconds in answer.seconds] == [0, 2, 3]
    client = server.inference.predict_stream("told1", b"send({0: 'a'}); import time; time.sleep(60)")
    found: list[bytes] = []
    longer = "broke off after 1 part: its worker died, took longer than responseTimeout"
    with worker_dies(server, "told1"), pytest.raises(TimedOut, match=longer):
        found.extend(client)
    assert found == [b"a"]


def test_a_handler_goes_on_for_a_client_that_is_gone(server: Live, tmp_path: Path) -> None:
    """It is told nothing; the next request waits until it is through."""
    file = tmp_path / "through"
    code = "import pathlib, time\nfor n in range(10): send({0: 'a'}); time.sleep(0.05)\n"
    code += f"pathlib.Path({str(file)!r}).touch()"
    with server.inference.predict_stream("told1", code.encode()) as answer:
        assert next(iter(answer)) == b"a"
    assert not file.exists()
    assert server.inference.predict("told1", b"answers[0] = 'next'").content == b"next"
    assert file.exists()


def test_a_worker_that_dies_spoils_what_has_ended_before(server: Live) -> None:
    """The frontend sends its error to all of the batch, also to who has got the end: on a connection that is
    kept it comes unasked, and then the connection is closed.
    """
    code = OF_TWO["one ends earlier"] + "\nimport time; time.sleep(1.5); os._exit(3)"
    connections = [Connection(server), Connection(server)]
    with worker_dies(server, "told2"), ThreadPoolExecutor(2) as pool:
        for connection in connections:
            connection.send("told2", code.encode())
        answers = list(pool.map(Connection.read, connections))
    assert sorted(answer.ended for answer in answers) == [False, True]
    [ended] = [one for one, answer in zip(connections, answers, strict=True) if answer.ended]
    unasked = ended.read()
    assert (unasked.status, json.loads(unasked.body)["message"]) == (500, "Worker died.")


# -- handlers/worker/stream.py -------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams(server: Live) -> Live:
    """Batches of three whose answers come in parts as they are told to."""
    files = {
        path.relative_to(ROOT).as_posix(): path.read_bytes() for path in (ROOT / "handlers").rglob("*.py")
    }
    config = {"batchSize": 3, "maxBatchDelay": 10_000, "responseTimeout": SILENCE}
    make_stranger(server.store, "streams", STREAMS, config=config, files=files)
    server.serve("streams-1.0.mar")
    return server


def test_requests_of_one_batch_end_when_their_own_parts_end(streams: Live) -> None:
    """A long one, one that fails in the middle and one that is over at once: neither harms the others."""
    programs = [["a", {"wait": 1}, "b", {"wait": 1}, "c"], ["x", None], ["1"]]
    bodies = [json.dumps(program).encode() for program in programs]
    long, failing, short = ask(streams, "streams", *bodies, content_type="application/json")
    assert (long.parts, long.ended) == ([b"a", b"b", b"c"], True)
    assert (short.parts, short.ended) == ([b"1"], True)
    assert failing.parts[0] == b"x"
    told = json.loads(failing.parts[1])
    assert told["request_id"] == failing.headers["x-request-id"]
    with Worker.load(streams.store / "streams-1.0.mar") as worker:
        here = worker.predict([Request.body(body, "application/json") for body in bodies])
    assert [response.parts[0] for response in here] == [b"a", b"x", b"1"]
    assert [len(response.parts) for response in here] == [3, 2, 1]


def test_the_short_are_not_kept_by_the_long(streams: Live) -> None:
    """Their answer is over while the long one's is not."""
    bodies = [["a", {"wait": 0.2}, "b", {"wait": 1.5}, "c"], ["1"], ["2"]]
    ends = []

    def one(program: list[Any]) -> None:
        with streams.inference.predict_stream("streams", program) as answer:
            assert list(answer)
        assert answer.seconds is not None
        ends.append((answer.seconds, len(program)))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(one, bodies))
    short, other, long = sorted(ends)
    assert [short[1], other[1], long[1]] == [1, 1, 5]
    assert other[0] + 1.0 < long[0]


def test_a_client_knows_why_there_is_no_more(streams: Live) -> None:
    """By the line with the request's number; what fails at once has a status. Three fill a batch."""

    def outcome(program: list[Any]) -> Any:
        try:
            return streams.inference.predict("streams", program).content
        except HandlerFailed as error:
            return error.status, "model_log.log" in error.reason

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(outcome, (["a", None], [None], ["a", "b"])))
    assert found == [(500, True), (500, True), b"ab"]


# -- the gate -----------------------------------------------------------------------------------

SEND = "from ts.handler_utils.utils import send_intermediate_predict_response as send"
FIRST = "send({len(answers): ' '}, {len(answers): context.request_ids[len(answers)]}, '', 200, context)"


def test_a_first_part_that_comes_later_is_seen_by_the_gate(server: Live, tmp_path: Path) -> None:
    """The whole takes as long, and callers stare at nothing for most of it: the version stays as it was."""
    fleet = fleet_of(server, tmp_path / "releases")
    early, late = (f"{FIRST}; time.sleep(0.06)", f"time.sleep(0.06); {FIRST}")
    first, second, third = (
        mar.verify(candidate(tmp_path, "writer", version, seconds=0.0, prelude=SEND, act=act))
        for version, act in (("1.0", early), ("2.0", late), ("3.0", early))
    )
    options = replace(QUICK, samples=60)
    assert release(fleet, first, options).outcome == "promoted"
    refused = release(fleet, second, options)
    assert (refused.outcome, "p50 to first part" in refused.reason) == ("failed", True), refused.reason
    assert "p50: " not in refused.reason
    again = release(fleet, third, options)
    assert again.outcome == "promoted", again.reason
