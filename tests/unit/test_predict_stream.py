"""Answers in parts in the client: each as it comes, what breaks off, and what ends a connection."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from torchmar.client import KeyFile, StreamedPrediction, connect
from torchmar.errors import ClientError, HandlerFailed, HandlerRefused, TimedOut

from .test_http_errors import answers, client_of, listening, sends

HEAD = (
    b"HTTP/1.1 200 OK\r\nts_stream_next: true\r\nx-request-id: id7\r\ncontent-type: text/plain\r\n"
    b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
)
END = b"0\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def stream(*parts: bytes) -> bytes:
    return HEAD + b"".join(map(chunk, parts)) + END


def told(reason: str, request_id: str = "id7") -> bytes:
    return b"\n" + json.dumps({"error": reason, "request_id": request_id}).encode() + b"\n"


def test_each_part_is_there_before_the_next_is_sent() -> None:
    """The server waits with each until the client has the one before; times are known at the end."""
    seen = threading.Semaphore(0)

    def talk(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        for part in (b"a", b"bc"):
            connection.sendall(chunk(part))
            assert seen.acquire(timeout=5)
        connection.sendall(END)

    with listening(talk) as heard, client_of(heard.address) as client:
        with client.inference.predict_stream("m", b"x", version="2.0") as answer:
            assert (answer.status, answer.content_type, answer.request_id) == (200, "text/plain", "id7")
            assert (answer.in_parts, answer.version, answer.seconds) == (True, "2.0", None)
            found = []
            for part in answer:
                found.append(part)
                seen.release()
        assert found == [b"a", b"bc"]
        assert answer.first_seconds is not None
        assert answer.seconds is not None
        assert 0 < answer.first_seconds <= answer.seconds
    assert b"POST /predictions/m/2.0 " in heard.requests[0]
    assert heard.header("Authorization") == ["Bearer i"]


def test_predict_joins_the_parts() -> None:
    """And knows when the first was there; of an answer at once it does not."""
    said = iter([stream(b"a", b"b"), answers(200, b"ab"), stream()])
    with listening(lambda c: c.sendall(next(said))) as heard, client_of(heard.address) as client:
        streamed, whole, empty = (client.inference.predict("m", b"x") for _ in range(3))
    assert (streamed.content, whole.content, empty.content) == (b"ab", b"ab", b"")
    assert streamed.first_seconds is not None
    assert whole.first_seconds is None


def test_an_answer_at_once_is_one_part() -> None:
    """Of any model; so nobody needs to know beforehand."""
    with listening(sends(answers(200, b"whole"))) as heard, client_of(heard.address) as client:
        answer = client.inference.predict_stream("m", b"x")
        assert list(answer) == [b"whole"]
        assert not answer.in_parts
        assert answer.first_seconds is not None


def test_errors_before_the_first_part_are_those_of_predict() -> None:
    """Raised by the call, and not only when it is read."""
    with listening(sends(answers(422, b'{"error": "no text"}'))) as heard, client_of(heard.address) as client:
        with pytest.raises(HandlerRefused, match="no text"):
            client.inference.predict_stream("m", b"x")
        with pytest.raises(ClientError, match="the timeout: found 0"):
            client.inference.predict_stream("m", b"x", timeout=0)


def read(content: bytes, then: Callable[[], object] = lambda: None) -> tuple[list[bytes], BaseException]:
    """What came of an answer, and why it ended."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(content)
        then()

    found: list[bytes] = []
    with listening(talk) as heard, client_of(heard.address) as client:
        answer: StreamedPrediction = client.inference.predict_stream("m", b"x")
        with pytest.raises(ClientError) as caught:
            found.extend(answer)
    assert answer.seconds is None
    return found, caught.value


@pytest.mark.parametrize("rest", [b"", b"5\r\nab", b"x\r\n"])
def test_an_answer_that_breaks_off(rest: bytes) -> None:
    """Whatever came is the caller's; then it is told, and where the reason is."""
    parts, error = read(HEAD + chunk(b"a") + rest)
    assert parts == [b"a"]
    assert isinstance(error, TimedOut)
    assert "broke off after 1 part: its worker died, took longer than responseTimeout" in str(error)


def test_the_next_part_does_not_come() -> None:
    """The timeout is for each part."""
    over = threading.Event()
    try:
        parts, error = read(HEAD + chunk(b"a") + chunk(b"b"), lambda: over.wait(0.8))
    finally:
        over.set()
    assert parts == [b"a", b"b"]
    assert isinstance(error, TimedOut)
    assert "broke off after 2 parts: no more came within 0.3 s" in str(error)


@pytest.mark.parametrize("last", [[told("no memory")], [b"b" + told("no memory")]], ids=["alone", "joined"])
def test_a_handler_that_ends_its_answer_with_an_error(last: list[bytes]) -> None:
    """Its line is no part of the text, also where a proxy has joined it with the part before."""
    parts, error = read(stream(b"a", *last))
    assert b"".join(parts) == (b"ab" if last[0].startswith(b"b") else b"a")
    assert isinstance(error, HandlerFailed)
    assert (error.status, error.reason) == (500, "no memory")


@pytest.mark.parametrize(
    "line",
    [
        told("id7", "id8"),
        b'\n{"error": 1, "request_id": "id7"}\n',
        b'\n["id7"]}\n',
        b'{"request_id": "id7"}\n',
    ],
)
def test_what_a_model_says_is_no_error(line: bytes) -> None:
    """Only a line with the request's own number and a reason is."""
    with listening(sends(stream(b"a", line))) as heard, client_of(heard.address) as client:
        assert client.inference.predict("m", b"x").content == b"a" + line


def test_who_reads_no_further_closes_the_connection() -> None:
    """The server sees it at once, and the next request has another connection."""
    closed: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        connection.sendall(HEAD + chunk(b"a"))
        connection.settimeout(5)
        closed.append(connection.recv(1))

    with listening(talk) as heard, client_of(heard.address) as client:
        with client.inference.predict_stream("m", b"x") as answer:
            assert next(iter(answer)) == b"a"
        for part in client.inference.predict_stream("m", b"x"):
            assert part == b"a"
            break
        del part
    assert len(heard.requests) == 2
    assert closed == [b"", b""]


def test_over_tls(tmp_path: Path) -> None:
    """Parts come as they do without."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with listening(sends(stream(b"a", b"b")), context) as heard:
        address = heard.address.replace("http:", "https:")
        with client_of(address, ca_file=tmp_path / "ca.pem") as client:
            assert list(client.inference.predict_stream("m", b"x")) == [b"a", b"b"]


def test_a_refused_token_is_renewed_before_the_first_part(tmp_path: Path) -> None:
    """Asked once more, with the key that is in the file by then."""
    file = tmp_path / "key_file.json"

    def write(key: str) -> None:
        file.write_text(json.dumps({"inference": {"key": key}}))

    refusal = answers(401, b'{"code": 401, "type": "InvalidKeyException", "message": "no"}')

    def talk(connection: socket.socket) -> None:
        if heard.header("Authorization")[-1] == "Bearer old":
            write("new")
            connection.sendall(refusal)
        else:
            connection.sendall(stream(b"a", b"b"))

    write("old")
    with listening(talk) as heard, client_of(heard.address, tokens=KeyFile(file)) as client:
        assert list(client.inference.predict_stream("m", b"x")) == [b"a", b"b"]
    assert heard.header("Authorization") == ["Bearer old", "Bearer new"]


def test_a_split_falls_back_before_the_first_part() -> None:
    """A candidate that is gone loses no request; what has begun is not asked again."""
    gone = answers(404, b'{"code": 404, "type": "ModelVersionNotFoundException", "message": "gone"}')
    said = iter([gone, stream(b"a"), HEAD + chunk(b"a")])
    with (
        listening(lambda c: c.sendall(next(said))) as heard,
        connect(inference=heard.address, split={"2.0": 1.0}) as client,
    ):
        answer = client.inference.predict_stream("m", b"x")
        assert (list(answer), answer.version, answer.instead_of) == ([b"a"], None, "2.0")
        with pytest.raises(TimedOut):
            list(client.inference.predict_stream("m", b"x"))
    assert [text.split(b" ")[1] for text in heard.requests] == [
        b"/predictions/m/2.0",
        b"/predictions/m",
        b"/predictions/m/2.0",
    ]
