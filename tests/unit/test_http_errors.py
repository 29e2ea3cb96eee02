"""What goes wrong in a call, from a port where nothing listens to a proxy's HTML, becomes the right error."""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmar import errors
from torchmar.client import KeyFile, Server, StaticTokens, Timeouts, connect
from torchmar.client._answers import bad_answer
from torchmar.client._http import _unlike_the_token_api, path_of
from torchmar.errors import (
    AlreadyRegistered,
    ArchiveNotInStore,
    BadAnswer,
    ClientError,
    ConnectionFailed,
    HandlerFailed,
    HandlerRefused,
    InvalidRequest,
    IsDefaultVersion,
    ModelNotFound,
    NotAllowed,
    NotFound,
    OutOfResources,
    ServerFailed,
    TimedOut,
    Unavailable,
    WorkerDied,
)

QUICK = Timeouts(connect=1.0, read=0.3)
HEALTHY = b'{"status": "Healthy"}'


# -- a server that does what it is told ---------------------------------------------------------


@dataclass
class Heard:
    """Where a server listens, and the requests that it has read."""

    port: int
    requests: list[bytes] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def header(self, name: str) -> list[str]:
        """The values of a header, one for each request."""
        found = [re.search(rf"(?im)^{name}: (.*?)\r$", text.decode("latin-1")) for text in self.requests]
        return ["" if match is None else match[1] for match in found]


@contextmanager
def listening(talk: Callable[[socket.socket], None], tls: ssl.SSLContext | None = None) -> Iterator[Heard]:
    """A real server: reads each request whole, then does `talk`, then closes the connection.

    An answer after which the client asks again says `Connection: close`: without it the next request may go
    into the connection that is about to be closed.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    heard = Heard(listener.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            threads.append(threading.Thread(target=speak, args=(connection,), daemon=True))
            threads[-1].start()

    def speak(connection: socket.socket) -> None:
        try:
            with connection if tls is None else tls.wrap_socket(connection, server_side=True) as stream:
                heard.requests.append(read_request(stream))
                talk(stream)
        except OSError:  # the client has hung up
            connection.close()

    threads = [threading.Thread(target=serve, daemon=True)]
    threads[0].start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(timeout=10)
            assert not thread.is_alive()


def read_request(connection: socket.socket) -> bytes:
    text = b""
    while b"\r\n\r\n" not in text and not text.startswith(b"\x16\x03"):  # the hello of TLS
        block = connection.recv(65536)
        if not block:
            return text
        text += block
    head, _, body = text.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: (\d+)", head)
    while length is not None and len(body) < int(length[1]):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def sends(content: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(content)


def answers(status: int, body: bytes, content_type: str = "application/json", headers: str = "") -> bytes:
    reason = http.client.responses[status]
    lines = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"{lines}{headers}Connection: close\r\n\r\n".encode() + body


def client_of(address: str, **options: Any) -> Server:
    """A client that takes this one address for all three."""
    options = {"tokens": StaticTokens(management="m", inference="i"), "timeouts": QUICK, **options}
    return connect(inference=address, management=address, metrics=address, **options)


# -- no answer ----------------------------------------------------------------------------------


def test_answers_are_counted() -> None:
    """Those of all three addresses, by the first digit of their status: so one's own are known."""
    said = iter([answers(200, HEALTHY), answers(503, b"{}"), answers(200, b"")])
    with listening(lambda connection: connection.sendall(next(said))) as heard:
        server = client_of(heard.address)
        assert server.answers == {}
        assert server.inference.ping()
        with pytest.raises(ClientError):
            server.management.default_version("m")
        server.metrics.text()
        assert server.answers == {2: 2, 5: 1}


def test_nothing_listens() -> None:
    """The port is taken and refuses connections, so nothing else can come to listen there meanwhile."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with client_of(address) as client, pytest.raises(ConnectionFailed) as caught:
            client.inference.ping()
    assert f"GET {address}/ping: nothing listens there" in str(caught.value)
    assert "Connection refused" in str(caught.value)
    assert "is the server started?" in str(caught.value)


def test_a_name_that_nobody_knows() -> None:
    """It is not the server that is to be started."""
    with (
        client_of("http://nowhere.invalid:8080") as client,
        pytest.raises(ConnectionFailed, match="correct the host name in the address") as caught,
    ):
        client.inference.ping()
    assert "started" not in str(caught.value)


def test_a_connection_that_is_not_taken_in_time() -> None:
    """A listener whose queue is full drops what knocks: nothing was sent, so it may be tried again."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):  # nobody accepts these
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        client = stack.enter_context(
            client_of(f"http://127.0.0.1:{listener.getsockname()[1]}", timeouts=Timeouts(0.3, 5.0))
        )
        with pytest.raises(ConnectionFailed, match=r"no connection: .*timed out"):
            client.inference.ping()


def test_a_server_that_stays_silent() -> None:
    """It has the request, and what it does with it is not known: that is no failed connection."""
    over = threading.Event()

    def say_nothing(_connection: socket.socket) -> None:
        over.wait(10)

    with listening(say_nothing) as heard, client_of(heard.address) as client:
        try:
            with pytest.raises(TimedOut, match=r"no answer within 0\.3 s") as caught:
                client.inference.predict("tiny", b"picture")
            with pytest.raises(TimedOut, match=r"no answer within 0\.1 s"):
                client.inference.predict("tiny", b"picture", timeout=0.1)
        finally:
            over.set()
    assert not isinstance(caught.value, ConnectionFailed)
    assert len(heard.requests) == 2


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="before a byte"),
        pytest.param(b"HTTP/1.1 2", id="in the status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + HEALTHY[:9], id="in the body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n" + HEALTHY[:9], id="in a chunk"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n" + HEALTHY[:9] + b"\r\n",
            id="between chunks",
        ),
    ],
)
def test_a_connection_that_ends_in_the_middle(sent: bytes) -> None:
    """Half an answer is none: the server may have done what it was asked."""
    with (
        listening(sends(sent)) as heard,
        client_of(heard.address) as client,
        pytest.raises(TimedOut, match="the connection broke before an answer came"),
    ):
        client.inference.predict("tiny", b"picture")
    assert len(heard.requests) == 1  # it was not sent twice


def test_an_answer_that_stops_in_the_middle() -> None:
    """The read timeout holds for every part of an answer."""
    over = threading.Event()

    def stall(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + HEALTHY[:9])
        over.wait(10)

    with listening(stall) as heard, client_of(heard.address) as client:
        try:
            with pytest.raises(TimedOut):
                client.inference.ping()
        finally:
            over.set()


def test_the_time_of_an_answer_is_that_of_all_of_it() -> None:
    """A handler may send it in parts: the first says nothing of how long the others take."""

    def in_parts(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n" + HEALTHY[:9])
        time.sleep(0.2)
        connection.sendall(HEALTHY[9:21])

    with listening(in_parts) as heard, client_of(heard.address) as client:
        assert client.inference.predict("tiny", b"picture").seconds > 0.19


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:99999", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "unix:/tmp/sock"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ClientError) as caught, client_of(address) as client:
        client.inference.ping()
    assert address.rstrip("/") in str(caught.value)


def test_something_that_does_not_speak_http() -> None:
    with (
        listening(sends(b"SSH-2.0-OpenSSH_9.2\r\n")) as heard,
        client_of(heard.address) as client,
        pytest.raises(ClientError, match=heard.address),
    ):
        client.inference.ping()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://someone:secret@127.0.0.1:9", "leave it out"),
        ("http://someone@127.0.0.1:9", "leave it out"),
        ("http://127.0.0.1:9/?a=b", "expected an address"),
        ("http://127.0.0.1:9/#a", "expected an address"),
        ("http://127.0.0.1:9?", "expected an address"),
        ("http://127.0.0.1:9/#", "expected an address"),
        ("http://127.0.0.1:9 ", "expected an address"),
        ("http://127.0.0.1:0", "expected an address"),
        ("http://a\nb:9", "expected an address"),
        ("", "expected an address"),
    ],
)
def test_an_address_that_would_be_misread(address: str, says: str) -> None:
    """A user in it would be sent instead of the token. It is refused at once, and no password is shown."""
    with pytest.raises(ClientError, match=says) as caught:
        connect(inference=address)
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()


NONSENSE = [0, -1, float("nan"), float("inf"), 1e300, "5", None]


@pytest.mark.parametrize("seconds", NONSENSE)
def test_a_timeout_that_no_socket_can_wait(seconds: Any) -> None:
    """Refused before a call, in one sentence."""
    makes: list[Callable[[], Timeouts]] = [lambda: Timeouts(connect=seconds), lambda: Timeouts(read=seconds)]
    for make in makes:
        with pytest.raises(ClientError, match="expected seconds, more than 0"):
            make()
    if seconds is None:
        return
    with (
        client_of("http://127.0.0.1:9") as client,
        pytest.raises(ClientError, match="expected seconds, more than 0"),
    ):
        client.inference.predict("m", b"", timeout=seconds)


MISUNDERSTOOD: list[tuple[str, Callable[[Any], Any]]] = [
    ("file name", lambda client: client.management.register("")),
    ("file name", lambda client: client.management.register(" \n")),
    ("file name", lambda client: client.management.register(None)),
    ("Give it another name", lambda client: client.management.register("a.mar", name="tokenizer")),
    ("Give it another name", lambda client: client.management.register("a.mar", name="")),
    ("Give it another name", lambda client: client.management.register("a.mar", name="a/b")),
    ("Give it another name", lambda client: client.management.register("a.mar", name="a\x1b[2J")),
    ("at least 0", lambda client: client.management.register("a.mar", initial_workers=-1)),
    ("at least 1", lambda client: client.management.register("a.mar", batch_size=0)),
    ("at least 0", lambda client: client.management.register("a.mar", max_batch_delay=-1)),
    ("at least 1", lambda client: client.management.register("a.mar", response_timeout=0)),
    ("at least 1", lambda client: client.management.register("a.mar", startup_timeout=-5)),
    ("at least 0", lambda client: client.management.scale("m", -1)),
    ("whole number", lambda client: client.management.scale("m", 1.5)),
    ("whole number", lambda client: client.management.scale("m", True)),
    ("whole number", lambda client: client.management.scale("m", 2**31)),
    ("at least 1", lambda client: client.management.models(page_size=0)),
    ("at least 1", lambda client: client.management.models(page_size=-1)),
    ("at least 0", lambda client: client.management.wait_until_ready("m", workers=-1)),
    ("expected seconds", lambda client: client.management.wait_until_ready("m", timeout=float("nan"))),
    ("expected seconds", lambda client: client.management.wait_until_gone("m", "1", timeout=float("nan"))),
]


@pytest.mark.parametrize(("says", "call"), MISUNDERSTOOD, ids=map(str, range(len(MISUNDERSTOOD))))
def test_what_torchserve_would_misunderstand_is_refused(says: str, call: Callable[[Server], Any]) -> None:
    """It takes its defaults for what it cannot read, and says nothing. So nothing is sent."""
    with listening(sends(answers(200, b"[]"))) as heard, client_of(heard.address) as client:
        with pytest.raises(ClientError, match=says) as caught:
            call(client)
        assert str(caught.value).isprintable()
    assert heard.requests == []


def test_a_version_called_all_is_told_from_all_versions() -> None:
    """TorchServe describes every version when it is asked for it."""
    one = {
        "modelName": "m",
        "modelVersion": "1.0",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 1,
    }
    both = json.dumps([one, {**one, "modelVersion": "all"}]).encode()
    with listening(sends(answers(200, both))) as heard, client_of(heard.address) as client:
        assert client.management.describe("m", "all").version == "all"
        assert [version.version for version in client.management.versions("m")] == ["1.0", "all"]
    with (
        listening(sends(answers(200, json.dumps([one]).encode()))) as heard,
        client_of(heard.address) as client,
        pytest.raises(ModelNotFound),
    ):
        client.management.describe("m", "all")


@pytest.mark.parametrize("end", [{}, {"nextPageToken": "1"}])
def test_models_come_page_by_page(end: dict[str, str]) -> None:
    """The next page is asked for as the last one says; one that names itself again is the last."""
    one = {"modelName": "a", "modelUrl": "a.mar"}
    pages = iter([{"models": [one], "nextPageToken": "1"}, {"models": [{**one, "modelName": "b"}], **end}])

    def talk(connection: socket.socket) -> None:
        connection.sendall(answers(200, json.dumps(next(pages)).encode()))

    with listening(talk) as heard, client_of(heard.address) as client:
        assert [entry.name for entry in client.management.models(page_size=1)] == ["a", "b"]
    asked = [text.split(b" ")[1] for text in heard.requests]
    assert asked == [b"/models?limit=1", b"/models?limit=1&next_page_token=1"]


# -- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a server with a certificate of `authority` for 127.0.0.1 uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_an_untrusted_certificate_ends_it_before_the_token_is_sent(tls: ssl.SSLContext) -> None:
    with (
        listening(sends(answers(200, HEALTHY)), tls) as heard,
        client_of(f"https://127.0.0.1:{heard.port}") as client,
        pytest.raises(ConnectionFailed, match="certificate verify failed"),
    ):
        client.inference.ping()
    assert heard.requests == []


def test_a_certificate_is_trusted_by_ca_file_and_not_by_the_environment(
    tls: ssl.SSLContext, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REQUESTS_CA_BUNDLE is for the world outside."""
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    wrong = tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(str(wrong))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wrong))
    with (
        listening(sends(answers(200, HEALTHY)), tls) as heard,
        client_of(f"https://127.0.0.1:{heard.port}", ca_file=ca_file) as client,
    ):
        assert client.inference.ping()


def test_tls_that_ends_after_the_request(tls: ssl.SSLContext, authority: trustme.CA, tmp_path: Path) -> None:
    """The server has read it, and may have done it: that is no failed connection."""
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with (
        listening(sends(b""), tls) as heard,
        client_of(f"https://127.0.0.1:{heard.port}", ca_file=ca_file) as client,
        pytest.raises(TimedOut, match="the connection broke before an answer came"),
    ):
        client.inference.predict("tiny", b"picture")
    assert len(heard.requests) == 1


def test_https_where_the_server_speaks_http() -> None:
    with (
        listening(sends(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as heard,
        client_of(f"https://127.0.0.1:{heard.port}") as client,
        pytest.raises(ConnectionFailed, match="say http:// in its address"),
    ):
        client.inference.ping()


@pytest.mark.parametrize(
    "content", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
def test_a_ca_file_of_garbage_is_named(tls: ssl.SSLContext, tmp_path: Path, content: str) -> None:
    """What it holds is found out when it is used."""
    ca_file = tmp_path / "mine.pem"
    ca_file.write_text(content, encoding="utf-8")
    with (
        listening(sends(answers(200, HEALTHY)), tls) as heard,
        client_of(f"https://127.0.0.1:{heard.port}", ca_file=ca_file) as client,
        pytest.raises(ConnectionFailed) as caught,
    ):
        client.inference.ping()
    assert f"{ca_file} holds none: expected a PEM file, with -----BEGIN CERT" in str(caught.value)
    assert heard.requests == []


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(
            answers(403, b'{"status": "This TorchServe instance only accepts HTTPS requests"}'),
            id="TorchServe",
        ),
        pytest.param(
            answers(400, b"<h1>The plain HTTP request was sent to HTTPS port</h1>", "text/html"), id="nginx"
        ),
        pytest.param(b"\x15\x03\x03\x00\x02\x02\x46", id="an alert of TLS"),
    ],
)
def test_http_where_the_server_speaks_https(said: bytes) -> None:
    """It did nothing: that is no answer, and no handler's refusal."""
    with listening(sends(said)) as heard, client_of(heard.address) as client:
        for call in (client.inference.ping, lambda: client.management.unregister("m", "1.0")):
            with pytest.raises(ConnectionFailed, match="speaks https there: say https://"):
                call()


@pytest.mark.parametrize("name", ["missing.pem", "", "x" * 300])
def test_a_ca_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    """An empty name would have everybody trusted."""
    ca_file = str(tmp_path / name) if name else ""
    with pytest.raises(ClientError, match=rf"{name}: no such file"):
        client_of("https://127.0.0.1:9", ca_file=ca_file)


def test_a_ca_file_without_certificates(tls: ssl.SSLContext, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    with (
        listening(sends(answers(200, HEALTHY)), tls) as heard,
        client_of(f"https://127.0.0.1:{heard.port}", ca_file=tmp_path / "empty.pem") as client,
        pytest.raises(ConnectionFailed, match="no certificate"),
    ):
        client.inference.ping()
    assert heard.requests == []


# -- answers that are not TorchServe's ----------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"<html><body>It works!</body></html>", b"", b'{"status": "Hea', b"[" * 100_000]
)
def test_an_answer_that_is_not_json(body: bytes) -> None:
    """As of another program on that port."""
    with listening(sends(answers(200, body, "text/html"))) as heard, client_of(heard.address) as client:
        with pytest.raises(ClientError, match=r"/ping: answered 200 .* not JSON: .*is this TorchServe\?"):
            client.inference.ping()
        with pytest.raises(ClientError, match=r"is this TorchServe\?"):
            client.management.describe("tiny")


@pytest.mark.parametrize("body", ["{}", "[]", "null", '{"models": 1}', '[{"modelName": "tiny"}]', '["tiny"]'])
def test_json_that_is_not_torchserves(body: str) -> None:
    """The management address of something else that speaks JSON."""
    with listening(sends(answers(200, body.encode()))) as heard, client_of(heard.address) as client:
        with pytest.raises(ClientError):
            client.management.describe("tiny")
        with pytest.raises(ClientError):
            list(client.management.models())
        assert not client.inference.ping()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_is_not_followed(status: int) -> None:
    """The token would go along, to wherever the answer says."""
    with listening(sends(answers(200, HEALTHY))) as elsewhere:
        redirect = answers(status, b"", headers=f"Location: {elsewhere.address}/ping\r\n")
        with listening(sends(redirect)) as heard, client_of(heard.address) as client:
            for call in (
                client.inference.ping,
                lambda: client.inference.predict("tiny", b"picture"),
                lambda: client.management.set_default("tiny", "1.0"),
            ):
                with pytest.raises(BadAnswer) as caught:
                    call()
                assert caught.value.status == status
                assert f"{elsewhere.address}/ping" in str(caught.value)
    assert heard.header("authorization") == ["Bearer i", "Bearer i", "Bearer m"]
    assert elsewhere.requests == []


# -- the environment ----------------------------------------------------------------------------


def test_proxies_and_netrc_of_the_environment_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would be handed the token, a .netrc entry would replace it."""
    (tmp_path / ".netrc").write_text("default login someone password else\n", encoding="utf-8")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with listening(sends(answers(502, b"proxy"))) as proxy, listening(sends(answers(200, HEALTHY))) as heard:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.address)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert requests.utils.get_netrc_auth(heard.address) == ("someone", "else")  # it would have been read
        with client_of(heard.address) as client:
            assert client.inference.ping()
            assert client.metrics.text() == HEALTHY.decode()
    assert proxy.requests == []
    assert heard.header("authorization") == ["Bearer i", ""]


@pytest.mark.parametrize("token", ["secret\n", " secret", "secrét\u2713"])
def test_a_token_that_cannot_be_sent_is_not_shown(token: str) -> None:
    """As of a file that was read with its line end."""
    with (
        client_of("http://127.0.0.1:9", tokens=StaticTokens(inference=token)) as client,
        pytest.raises(ClientError) as caught,
    ):
        client.inference.ping()
    assert "token" in str(caught.value)
    assert "secr" not in str(caught.value)


# -- tokens that are refused --------------------------------------------------------------------

INVALID_KEY = {
    "code": 400,
    "type": "InvalidKeyException",
    "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
}


def test_a_refused_token_is_tried_again_only_if_there_is_another(tmp_path: Path) -> None:
    """The server was restarted: its key file has a new key, and the first call after it works."""
    key_file = tmp_path / "key_file.json"

    def write(key: str) -> None:
        key_file.write_text(json.dumps({"inference": {"key": key}}), encoding="utf-8")

    def refuse_the_old(connection: socket.socket) -> None:
        if heard.header("authorization")[-1] == "Bearer new":
            connection.sendall(answers(200, HEALTHY))
        else:
            write(on_refusal)
            connection.sendall(answers(400, json.dumps(INVALID_KEY).encode()))

    write("old")
    with listening(refuse_the_old) as heard, client_of(heard.address, tokens=KeyFile(key_file)) as client:
        on_refusal = "old"
        with pytest.raises(NotAllowed, match=r"key_file\.json"):
            client.inference.ping()
        assert heard.header("authorization") == ["Bearer old"]
        on_refusal = "new"
        assert client.inference.ping()
    assert heard.header("authorization") == ["Bearer old", "Bearer old", "Bearer new"]


# -- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (("models",), "/models"),
        (("models", "tiny", "1.0"), "/models/tiny/1.0"),
        (("models", "a b"), "/models/a%20b"),
        (("models", "a?b#c%d&e"), "/models/a%3Fb%23c%25d%26e"),
        (("models", "größe"), "/models/gr%C3%B6%C3%9Fe"),
        (("models", "..."), "/models/..."),
    ],
)
def test_every_part_of_a_path_is_quoted(parts: tuple[str, ...], path: str) -> None:
    assert path_of(*parts) == path


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "/token", "x" * 5000, "\ud800", None, 1])
def test_parts_that_would_change_the_path_are_refused(part: Any) -> None:
    """DELETE /models/tiny/ would remove the default version; with .. or / it would be another resource."""
    with pytest.raises(ClientError, match="cannot be a model's name or version") as caught:
        path_of("models", part)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    with listening(sends(answers(200, b"[]"))) as heard, client_of(heard.address) as client:
        for call in (client.management.unregister, client.management.set_default, client.management.describe):
            with pytest.raises(ClientError):
                call("tiny", part if part is not None else "")
            with pytest.raises(ClientError):
                call(part, "1.0")
        with pytest.raises(ClientError):
            client.inference.predict(part, b"")
    assert heard.requests == []


def test_a_path_to_a_model_is_none_to_the_token_api() -> None:
    """TorchServe would want another key for it. It looks at the text, and decodes later."""
    said = answers(200, b"[]")
    with listening(sends(said)) as heard, client_of(heard.address) as client:
        assert _unlike_the_token_api(requests.Request("GET", "http://token/token").prepare()).url == (
            "http://token/%74oken"
        )
        client.management.versions("tokenizer")
        client.management.unregister("mine", "token")
        client.management.unregister("mytoken", "tiktoken")
        client.inference.predict("token", b"/token", version="tokens")
    lines = [request.split(b" HTTP/")[0] for request in heard.requests]
    assert lines == [
        b"GET /models/%74okenizer/all",
        b"DELETE /models/mine/%74oken",
        b"DELETE /models/mytoken/tiktoken",
        b"POST /predictions/%74oken/%74okens",
    ]


def test_a_quoted_path_arrives_as_it_is() -> None:
    """Nothing on the way normalises it."""
    with listening(sends(answers(200, b"[]"))) as heard, client_of(heard.address) as client:
        client.inference.predict("a%2F..b", b"", version="1 0")
    assert heard.requests[0].startswith(b"POST /predictions/a%252F..b/1%200 HTTP/1.1\r\n")


# -- bad answers --------------------------------------------------------------------------------


def response(status: int, body: bytes, content_type: str = "application/json") -> requests.Response:
    """An answer, as it is once its body has been read."""
    made = requests.Response()
    made.status_code = status
    made.headers["content-type"] = content_type
    made.encoding = requests.utils.get_encoding_from_headers(made.headers)
    made._content = body
    return made


# Taken from TorchServe 0.12: (code, type, message).
RECORDED = [
    (400, "InvalidKeyException", INVALID_KEY["message"], NotAllowed),
    (400, "BadRequestException", "Parameter url is required.", InvalidRequest),
    (400, "DownloadArchiveException", "Failed to download archive from: http://x/y.mar", InvalidRequest),
    (403, "InvalidModelVersionException", "Cannot remove default version for model x", IsDefaultVersion),
    (404, "ModelNotFoundException", "Model not found: x", ModelNotFound),
    (404, "ModelNotFoundException", "Model not found: allowed", ModelNotFound),
    (404, "ModelNotFoundException", "Model not found: not found at", ModelNotFound),
    (404, "ModelNotFoundException", "Model not found at: x.mar", ArchiveNotInStore),
    (404, "ModelNotFoundException", "Model not found at: allowed.mar", ArchiveNotInStore),
    (
        404,
        "ModelNotFoundException",
        "Given URL http://x/y.mar does not match any allowed URL(s)",
        NotAllowed,
    ),
    (404, "ModelNotFoundException", "Relative path is not allowed in url: ../x.mar", NotAllowed),
    (
        404,
        "ModelVersionNotFoundException",
        "Model version: 9 does not exist for model: x",
        ModelNotFound,
    ),
    (
        404,
        "ResourceNotFoundException",
        "Requested resource is not found, please refer to API document.",
        NotFound,
    ),
    (
        405,
        "MethodNotAllowedException",
        "Requested method is not allowed, please refer to API document.",
        NotAllowed,
    ),
    (
        409,
        "ConflictStatusException",
        "Model version 1.0 is already registered for model x",
        AlreadyRegistered,
    ),
    (500, "InternalServerException", "Worker died.", WorkerDied),
    (500, "InternalServerException", "Failed to start workers for model x version: 1.0", ServerFailed),
    (500, "NullPointerException", None, ServerFailed),
    (503, "InternalServerException", "Prediction failed", HandlerFailed),
    (503, "InternalServerException", "Invalid model predict output", HandlerFailed),
    (503, "InternalServerException", "number of batch response mismatched", HandlerFailed),
    (507, "InternalServerException", "Out of resources", OutOfResources),
    # As PredictionException has it, with the handler's own words and status.
    (507, "InternalServerException", "the disk is full", HandlerFailed),
    (503, "InternalServerException", "warming up", HandlerFailed),
    (422, "InternalServerException", "no such language", HandlerRefused),
    (404, "ModelNotFoundException", "Relative path is not allowed in url: a..b.mar", NotAllowed),
    (507, "InternalServerException", "Worker died.", WorkerDied),
    (
        503,
        "ServiceUnavailableException",
        'Model "x" Version 1.0 has no worker to serve inference request. Please use scale workers API '
        "to add workers. If this is a sequence inference, please check if it is closed, or expired; "
        "or exceeds maxSequenceJobQueueSize",
        Unavailable,
    ),
]


@pytest.mark.parametrize(
    ("code", "kind", "message", "expected"), RECORDED, ids=[f"{row[0]} {row[2]}"[:40] for row in RECORDED]
)
def test_torchserves_own_errors(code: int, kind: str, message: str | None, expected: type[BadAnswer]) -> None:
    """Each of its answers is exactly the class that the tree of errors has for it."""
    body = json.dumps({"code": code, "type": kind, "message": message}, indent=2)
    error = bad_answer(response(code, body.encode()), "GET http://127.0.0.1:8081/models/x")
    assert type(error) is expected
    assert (error.status, error.body) == (code, body)
    assert str(error).startswith("GET http://127.0.0.1:8081/models/x: ")


@pytest.mark.parametrize(
    ("kind", "message", "remedy"),
    [
        ("InvalidKeyException", INVALID_KEY["message"], "key_file.json in the folder the server was started"),
        ("MethodNotAllowedException", "…", "enable_model_api=true"),
        ("ModelNotFoundException", "Given URL http://x does not match any allowed URL(s)", "model store"),
        ("InternalServerException", "Worker died.", "model_log.log"),
        ("InternalServerException", "Prediction failed", "model_log.log"),
    ],
)
def test_what_torchserve_leaves_unsaid_is_added(kind: str, message: str, remedy: str) -> None:
    body = json.dumps({"code": 400, "type": kind, "message": message}).encode()
    assert remedy in str(bad_answer(response(400, body), "GET x"))


@pytest.mark.parametrize(
    ("status", "body", "content_type", "expected", "reason"),
    [
        (400, '{"error": "no picture"}', "application/json", HandlerRefused, "no picture"),
        (413, '{"error": "too large"}', "application/json", HandlerRefused, "too large"),
        (501, '{"error": "no explanations"}', "application/json", HandlerRefused, "no explanations"),
        (422, '{"detail": [1]}', "application/json", HandlerRefused, '{"detail": [1]}'),
        (400, '{"error": {"code": 3}}', "application/json", HandlerRefused, '{"error": {"code": 3}}'),
        (418, "a teapot", "text/plain", HandlerRefused, "a teapot"),
        (500, '{"error": "broken"}', "application/json", ServerFailed, "broken"),
        (502, "Bad Gateway", "text/plain", ServerFailed, "Bad Gateway"),
        (504, "<html>nginx</html>", "text/html", ServerFailed, "<html>nginx</html>"),
    ],
)
def test_answers_of_handlers_and_of_proxies(
    status: int, body: str, content_type: str, expected: type[BadAnswer], reason: str
) -> None:
    """What is not in TorchServe's form is told with the reason that came with it."""
    error = bad_answer(response(status, body.encode(), content_type), "POST x")
    assert type(error) is expected
    assert str(error) == f"POST x: {status}: {reason}"
    if isinstance(error, HandlerRefused):
        assert error.reason == reason


@pytest.mark.parametrize("status", [500, 503, 507])
@pytest.mark.parametrize(("body", "reason"), [('{"error": "no room"}', "no room"), ("no room", "no room")])
def test_a_handlers_own_failure(status: int, body: str, reason: str) -> None:
    """TorchServe numbers what passes through it; a proxy in its place does not, and 507 is not its own."""
    answer = response(status, body.encode())
    answer.headers["x-request-id"] = "6a7b"
    error = bad_answer(answer, "POST x")
    assert isinstance(error, HandlerFailed)
    assert (error.status, error.reason, str(error)) == (status, reason, f"POST x: {status}: no room")


def test_nothing_that_a_server_says_breaks_a_line() -> None:
    """A name can hold a line end or an escape, and so can a reason, which the caller can read as it was."""
    nasty = "a\nb\x1b[31m\x9b\u2028\r" + "x" * 2000
    own = {"code": 404, "type": "ModelNotFoundException", "message": f"Model not found: {nasty}"}
    for body in (own, {"error": nasty}, {**own, "type": "Other"}, {**own, "type": "InternalServerException"}):
        for status in (400, 404, 500, 507):
            error = bad_answer(response(status, json.dumps(body).encode()), "GET x")
            assert str(error).isprintable()
            assert len(str(error)) < 700
    refused = bad_answer(response(400, json.dumps({"error": nasty}).encode()), "GET x")
    assert isinstance(refused, HandlerRefused)
    assert refused.reason == nasty


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe"], ids=["UTF-8", "UTF-16"])
def test_a_byte_order_mark_is_no_part_of_an_answer(mark: bytes) -> None:
    """As a proxy or a handler on Windows may write one."""

    def marked(text: str) -> bytes:
        return mark + text.encode("utf-16-le" if mark == b"\xff\xfe" else "utf-8")

    content_type = "application/json; charset=utf-8"
    with (
        listening(sends(answers(200, marked('{"status": "Healthy"}'), content_type))) as heard,
        client_of(heard.address) as client,
    ):
        assert client.inference.ping()
        assert client.inference.predict("m", b"").json() == {"status": "Healthy"}
    error = bad_answer(response(400, marked('{"error": "no picture"}'), content_type), "POST x")
    assert isinstance(error, HandlerRefused)
    assert error.reason == "no picture"


def test_an_answer_without_a_body_is_told_by_its_status() -> None:
    """Netty's 413 for a request over max_request_size comes bare."""
    with (
        listening(sends(answers(413, b""))) as heard,
        client_of(heard.address) as client,
        pytest.raises(HandlerRefused, match=r"413: .*Too Large"),
    ):
        client.inference.predict("tiny", b"picture")


def test_a_long_body_is_kept_in_part_only() -> None:
    error = bad_answer(response(502, b"x" * 100_000, "text/plain"), "POST x")
    assert len(error.body) == 4096
    assert len(str(error)) < 600


@pytest.mark.parametrize("data", [None, 5, io.BytesIO(b"x"), iter([b"x"])])
def test_what_is_no_input_is_a_type_error(data: Any) -> None:
    """A stream, too: it could not be sent again after a token was renewed."""
    with (
        client_of("http://127.0.0.1:9") as client,
        pytest.raises(TypeError, match="takes bytes, a text, a Path"),
    ):
        client.inference.predict("m", data)


def test_an_unhealthy_server_is_no_error_of_ping() -> None:
    body = b'{\n  "status": "Unhealthy"\n}\n'
    with listening(sends(answers(500, body))) as heard, client_of(heard.address) as client:
        assert not client.inference.ping()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KINDS = st.sampled_from(sorted({row[1] for row in RECORDED})) | JSON
TORCHSERVES = st.fixed_dictionaries({"code": JSON, "type": KINDS}, optional={"message": JSON})
BODIES = st.binary() | (JSON | TORCHSERVES).map(lambda content: json.dumps(content).encode())
CONTENT_TYPES = st.sampled_from(["application/json", "text/plain", "text/html; charset=nonsense", ""])


@settings(max_examples=150)
@given(status=st.integers(400, 599), body=BODIES, content_type=CONTENT_TYPES)
def test_no_answer_at_all_breaks_bad_answer(status: int, body: bytes, content_type: str) -> None:
    """Whatever comes, there is an error for it that can be shown."""
    error = bad_answer(response(status, body, content_type), "GET http://x/")
    assert isinstance(error, BadAnswer)
    assert error.status == status
    assert str(error).startswith("GET http://x/: ")


def test_a_body_nested_beyond_all_measure_does_not_break_bad_answer() -> None:
    error = bad_answer(response(400, b'{"error":' * 100_000), "GET x")
    assert type(error) is HandlerRefused


# -- the tree -----------------------------------------------------------------------------------


def drawn_tree() -> dict[str, str]:
    """Each class drawn in torchmar.errors' docstring, and the parent it is drawn under."""
    found: dict[str, str] = {}
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"(?P<indent>    [│ ]*)(?:[├└]── )?(?P<name>[A-Z]\w+)(?:  |$)", line)
        if match is None:
            continue
        depth = (match.end("name") - len(match["name"]) - 4) // 4
        branch[depth:] = [match["name"]]
        found[match["name"]] = branch[depth - 1] if depth else "Exception"
    return found


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    classes = {
        name: item.__bases__[0].__name__
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, Exception)
    }
    assert len(classes) > 30
    assert drawn_tree() == classes


def test_every_class_says_what_it_means() -> None:
    assert all(getattr(errors, name).__doc__ for name in drawn_tree())
