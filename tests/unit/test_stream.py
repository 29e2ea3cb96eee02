"""Answers in parts: handlers/worker/stream.py, and what torchmar.worker makes of a handler that sends any."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torchmar.errors import CannotTell
from torchmar.handler_code import handlers
from torchmar.worker import Request, Response, Worker, check_archive, check_unpacked
from torchmar.worker._context import RequestState, WorkerContext

from .strangers import Folder, pack

send_parts = handlers("worker.stream").send_parts

# Runs the body of the first request: Python that may send parts of all, and set `answers`.
SENDS_AS_TOLD = """
import os
from ts.handler_utils.utils import send_intermediate_predict_response
def handle(data, context):
    if data is None:
        return
    def send(parts, code=200):
        ids = {index: context.request_ids[index] for index in parts}
        send_intermediate_predict_response(parts, ids, "a part", code, context)
    scope = {"context": context, "send": send, "answers": ["end"] * len(data), "os": os}
    exec(bytes(data[0]["body"]).decode(), scope)
    return scope["answers"]
"""


@pytest.fixture
def told(folder: Folder) -> Iterator[Callable[..., list[Response]]]:
    """Has the stock function send what some code says, for a batch of so many."""
    with Worker.load(folder(SENDS_AS_TOLD), max_response_size=1000) as worker:

        def order(code: str, count: int = 1) -> list[Response]:
            return worker.predict([Request.body(code.encode())] * count)

        yield order


Told = Callable[..., list[Response]]


def test_an_answer_in_parts(told: Told) -> None:
    """Text, JSON and bytes. Status, headers and type are those of the first; empty ones are not seen."""
    code = """
context.set_response_content_type(0, "text/plain")
context.set_response_status(201, "Made", 0)
send({0: "a"}); send({0: ""})
context.set_response_status(500, "", 0)
send({0: {"b": 1}})
answers = [b"c"]
"""
    [response] = told(code)
    assert (response.status, response.phrase, response.content_type) == (201, "Made", "text/plain")
    assert response.headers["ts_stream_next"] == "true"
    assert response.parts == (b"a", b'{\n  "b": 1\n}', b"c")
    assert response.body == b"".join(response.parts)
    assert not response.broken
    assert told("pass")[0].parts == ()


def test_requests_of_one_batch_have_their_own_parts(told: Told) -> None:
    """One in parts, one at once and one refused."""
    code = "send({0: 'a'}); send({0: 'b'}); context.set_response_status(400, 'no', 2)"
    answers = told(code, 3)
    assert [(one.status, one.parts, one.body) for one in answers] == [
        (200, (b"a", b"b", b"end"), b"abend"),
        (200, (), b"end"),
        (400, (), b"end"),
    ]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ValueError", "503"),
        ("raise MemoryError", "507"),
        ("answers = []", "503"),
        ("answers = 'x'", "503"),
        ("answers = [object()] * 2", "503"),
        ("send({0: object()})", "503"),
        ("send({0: 'b'}, code=500)", "500"),
        ("send({0: 'x' * 1001})", "500"),
        ("send({0: 'b', 1: 'x' * 1001})", "500"),
        ("raise SystemExit", "500"),
        ("context.cl_socket.sendall(b'\\xff' * 100)", "500"),
        ("context.request_ids[0] = 'other'; send({0: 'b'})", "500"),
    ],
)
def test_what_ends_a_batch_cuts_off_what_has_begun(told: Told, code: str, why: str) -> None:
    """Its status went out already; who has got nothing yet gets the error."""
    begun, other = told(f"send({{0: 'a'}})\n{code}", 2)
    assert (begun.status, begun.parts) == (200, (b"a",))
    assert why in begun.broken
    assert (other.status, other.parts, other.broken) == (int(why), (), "")
    assert told("send({0: 'a'})")[0].body == b"aend"  # the next batch is answered again


def test_parts_behind_an_error_are_lost(told: Told) -> None:
    """The frontend closes the connection after such a status."""
    [response] = told("context.set_response_status(400, 'no', 0); send({0: 'a'})")
    assert (response.status, response.body) == (400, b"")
    assert "sends no parts" in response.broken


def test_who_is_left_out_of_the_end_waits_on(told: Told) -> None:
    """A handler that takes out a request that it has not ended."""
    first, other = told("send({0: 'a', 1: 'b'}); del context.request_ids[1]", 2)
    assert (first.body, first.broken) == (b"aend", "")
    assert "waits on" in other.broken


def test_batches_that_go_on_cannot_be_told(folder: Folder) -> None:
    """Neither right nor wrong: the check says what it does not know."""
    golden = {"MAR-INF/golden/a": "context.stopping_criteria = {0: lambda _: True}"}
    golden["MAR-INF/golden/answers.json"] = json.dumps({"a": {"answer": "x"}})
    path = folder(SENDS_AS_TOLD, files=golden)
    with Worker.load(path) as worker, pytest.raises(CannotTell, match="stopping_criteria"):
        worker.predict([Request.body(golden["MAR-INF/golden/a"].encode())])
    check = check_archive(pack(path))
    assert check.ok
    assert any("not known: ask a server" in caveat for caveat in check.caveats)


def test_the_check_compares_the_joined_text(folder: Folder) -> None:
    """A golden answer that came in parts; one that broke off is wrong, whatever came of it."""
    golden = {
        "MAR-INF/golden/whole": "send({0: 'a '}); send({0: 'b '})",
        "MAR-INF/golden/broken": BREAKS_OFF,
        "MAR-INF/golden/answers.json": json.dumps(
            {"whole": {"answer": "a b end"}, "broken": {"answer": "a"}}
        ),
    }
    check = check_archive(pack(folder(SENDS_AS_TOLD, files=golden)))
    assert {one.name: one.ok for one in check.golden} == {"whole": True, "broken": False}
    assert "ValueError: no more; answered with a part of an answer, 'a', which broke off" in check.reason


BREAKS_OFF = "send({0: 'a'}); raise ValueError('no more')"


def test_a_request_that_is_given_must_be_answered_to_its_end(folder: Folder, tmp_path: Path) -> None:
    """The status of an answer that broke off was 200."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.write_text("send({0: 'a'})")
    broken.write_text(BREAKS_OFF)
    archive = pack(folder(SENDS_AS_TOLD))
    assert check_archive(archive, requests=[whole]).ok
    check = check_archive(archive, requests=[whole, broken])
    assert [one.ok for one in check.requests] == [True, False]
    assert "ValueError: no more; answered with a part of an answer, 'a', which broke off" in check.reason


def test_no_golden_answer_is_made_of_one_that_broke_off(folder: Folder) -> None:
    """Recording says that it broke off and why, and not that it would be answered otherwise each time."""
    path = folder(SENDS_AS_TOLD, files={"MAR-INF/golden/broken": BREAKS_OFF})
    check = check_unpacked(path, path, record=True)
    assert not check.ok
    assert "golden request broken: expected an answer, found " in check.reason
    assert "ValueError: no more; answered with a part of an answer, 'a', which broke off" in check.reason


def test_a_batch_handlers_stream_that_tells_why_it_broke_off(folder: Folder, tmp_path: Path) -> None:
    """Its last line is no part of the model's answer: `verify --request` must not take it for one."""
    package = {str(path): path.read_text() for path in Path("handlers").rglob("*.py")}
    request = tmp_path / "broken.json"
    request.write_text(json.dumps(["a", None]))
    check = check_archive(pack(folder(STREAMS, files=package)), requests=[request])
    assert not check.ok
    assert "ValueError: told to fail; answered with a part of an answer, 'a', which broke off" in check.reason


# -- handlers/worker/stream.py -------------------------------------------------------------------------

# Each body is a list of parts; None raises, and "refuse" raises with a status.
STREAMS = (Path(__file__).parent / "streams.py").read_text()


@pytest.fixture
def streams(folder: Folder) -> Iterator[Callable[..., list[Response]]]:
    """Answers each of several programs in parts."""
    package = {str(path): path.read_text() for path in Path("handlers").rglob("*.py")}
    with Worker.load(folder(STREAMS, files=package)) as worker:

        def ask(*programs: list[Any]) -> list[Response]:
            return worker.predict([Request.json(program) for program in programs])

        yield ask


def test_requests_of_different_lengths_and_one_that_fails(streams: Told) -> None:
    """Neither harms the other: the failed one ends with a line that says so, and its caller knows it by."""
    long, failing, short = streams(["a", "b", "c", "d"], ["x", None, "y"], ["1"])
    assert (long.parts, long.broken) == ((b"a", b"b", b"c", b"d"), "")
    assert (short.parts, short.broken) == ((b"1",), "")
    assert (failing.status, failing.broken, failing.parts[0]) == (200, "", b"x")
    [last] = failing.parts[1:]
    assert last.startswith(b"\n")
    assert last.endswith(b"\n")
    assert json.loads(last).keys() == {"error", "request_id"}
    assert "model_log.log" in json.loads(last)["error"]


def test_what_fails_before_its_first_part_has_a_status(streams: Told) -> None:
    """500, or what the exception says; one with no parts at all is empty."""
    failing, refused, empty, good = streams([None], ["refuse"], [], ["a", "b"])
    assert (failing.status, refused.status, empty.status) == (500, 422, 200)
    assert refused.json() == {"error": "not so"}
    assert (refused.parts, empty.body) == ((), b"")
    assert good.body == b"ab"


def test_a_refusal_in_the_middle_tells_its_reason(streams: Told) -> None:
    """In the last line; the status is sent."""
    [response] = streams(["a", "refuse"])
    assert (response.status, json.loads(response.parts[-1])["error"]) == (200, "not so")


def test_what_is_no_part_fails_alone(streams: Told) -> None:
    """A number: the other request goes on."""
    wrong, good = streams([5], ["a", "b"])
    assert (wrong.status, good.body) == (500, b"ab")


def test_the_only_request_and_none_at_all(streams: Told) -> None:
    """Nothing to wait for, and nothing to do."""
    [only] = streams(["a", "", "ü"])
    assert only.body == "aü".encode()
    assert streams() == []


class Socket:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))


def context_of(count: int) -> tuple[WorkerContext, Socket]:
    """A context as a handler has it in the middle of a batch."""
    context = WorkerContext("m", Path(), None, count, None, {})
    context.request_processor = [RequestState({}) for _ in range(count)]
    context.request_ids = {index: f"id{index}" for index in range(count)}
    context.cl_socket = socket = Socket()
    return context, socket


def test_its_messages_are_those_of_the_stock_function() -> None:
    """Byte for byte, where one request goes on."""
    from ts.protocol.otf_message_handler import create_predict_response

    context, socket = context_of(1)
    context.set_response_content_type(0, "text/plain")
    context.set_response_header(0, "X-Ü", "ü")
    context.set_response_status(202, "phrase", 0)
    assert send_parts(context, {0: iter(["ü", b"b"])}, 1) == [b""]
    same = [
        create_predict_response([part], {0: "id0"}, "Intermediate Prediction success", 200, context, True)
        for part in ("ü", b"b")
    ]
    assert socket.sent == [bytes(message) for message in same]


def test_a_part_that_is_too_long_is_sent_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frontend would end the worker, and callers see one text in any case."""
    monkeypatch.setattr(handlers("worker.stream"), "max_response_size", lambda: 4)
    context, socket = context_of(1)
    send_parts(context, {0: iter(["0123456789"])}, 1)
    assert len(socket.sent) == 3
    assert [message.split(b"true")[-1][4:-4] for message in socket.sent] == [b"0123", b"4567", b"89"]


def test_answers_that_are_there_are_sent_with_the_first_part() -> None:
    """A refused request does not wait for its neighbours, and is not answered again by what is returned."""
    context, socket = context_of(3)
    context.set_response_status(400, "no", 1)
    pieces = iter(["a", "b"])
    assert send_parts(context, {0: pieces}, 3, answered={1: "refused"}) == [b"", b"", b""]
    assert b"refused" in socket.sent[0]
    assert b"id1" not in socket.sent[1]
    assert context.request_ids == {0: "id0", 2: "id2"}
    assert send_parts(context, {}, 3, answered={2: "late"}) == [b"", b"", "late"]


def test_of_several_processes_of_a_worker_the_first_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in TorchServe's own function."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    context, socket = context_of(1)
    send_parts(context, {0: iter(["a"])}, 1)
    assert socket.sent == []


def test_an_end_is_sent_at_once() -> None:
    """Beside an empty part of a request that goes on, and not when its next part is there at last."""
    context, socket = context_of(2)

    def long() -> Iterator[str]:
        yield "b"
        assert len(socket.sent) == 3
        assert b"id0" in socket.sent[2]
        yield "c"

    assert send_parts(context, {0: iter(["a"]), 1: long()}, 2) == [b"", b""]
    assert [message.count(b"ts_stream_next") for message in socket.sent] == [1, 1, 2, 1]
    assert context.request_ids == {1: "id1"}


def test_an_end_waits_for_a_request_that_has_not_begun() -> None:
    """An empty part would fix its status, and it may yet be refused."""
    context, socket = context_of(2)

    def refused() -> Iterator[str]:
        if context.get_response_status(1) == (200, None):
            raise ValueError
        yield ""

    assert send_parts(context, {0: iter([]), 1: refused()}, 2)[0] == b""
    assert socket.sent == []
    assert context.get_response_status(1)[0] == 500
