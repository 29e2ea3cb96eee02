"""Keys that expire: many clients of one key file renew them, and lose no call by it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from torchmar.client import KeyFile, Server, StaticTokens, connect
from torchmar.errors import NotAllowed

INVALID = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}
LATER = datetime(2999, 1, 1, tzinfo=timezone.utc)


class Keys:
    """A server with TorchServe's rules: a renewal voids the key of before, and writes the file in place."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.address = ""
        self.number = 0
        self.renewals = 0
        self.lock = threading.Lock()
        self.renew()
        self.renewals = 0

    @property
    def key(self) -> str:
        return f"key-{self.number}"

    def renew(self) -> None:
        with self.lock:
            self.number += 1
            self.renewals += 1
            entry = {"key": self.key, "expiration time": "2998-01-01T00:00:00Z"}
            content = {"management": entry, "inference": entry, "API": {"key": "api"}}
            self.file.write_text(json.dumps(content), encoding="utf-8")

    def void(self) -> None:
        """As at its expiry: the file still tells the key, and the server refuses it."""
        self.number += 1

    def answer(self, path: str, token: str) -> tuple[int, Any]:
        if "/token" in path:  # anywhere in the text
            if token != "Bearer api":
                return 400, INVALID
            self.renew()
            return 200, ""
        if token != f"Bearer {self.key}":
            return 400, INVALID
        return 200, [] if path.startswith("/models") else {"status": "Healthy"}


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    """The server at `keys.address`."""
    found = Keys(tmp_path / "key_file.json")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = found.answer(self.path, self.headers["Authorization"] or "")
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        found.address = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()


def client_of(keys: Keys, **options: Any) -> Server:
    address = keys.address
    tokens: dict[str, Any] = {} if "tokens" in options else {"key_file": keys.file}
    return connect(inference=address, management=address, **tokens, **options)


def test_threads_of_one_client_renew_once(keys: Keys) -> None:
    """All of them are refused at once; the first renews, and the others find the new key."""
    keys.void()
    all_of_them = threading.Barrier(8)

    def wait(_: float) -> None:
        with suppress(threading.BrokenBarrierError):  # they do not come all at once
            all_of_them.wait(0.3)

    with client_of(keys) as client, ThreadPoolExecutor(8) as pool:
        client.inference._transport._sleep = wait
        assert all(pool.map(lambda _: client.inference.ping(), range(8)))
    assert keys.renewals == 1


def test_many_clients_at_an_expiry_lose_no_call(keys: Keys) -> None:
    """Each may take the others' key once; who is refused looks again, as often as there is another key."""
    with ExitStack() as stack:
        clients = [stack.enter_context(client_of(keys)) for _ in range(8)]
        pool = stack.enter_context(ThreadPoolExecutor(8))
        for _ in range(4):
            keys.void()
            assert all(pool.map(lambda client: client.inference.ping(), clients))
    assert keys.renewals < 4 * 8


def test_a_key_that_was_renewed_meanwhile_is_not_renewed_again(keys: Keys) -> None:
    """Each client waits for a moment of its own, and looks into the file again."""
    keys.void()
    with client_of(keys) as one, client_of(keys) as other:
        waits = []

        def wait(seconds: float) -> None:
            waits.append(seconds)
            assert other.inference.ping()

        one.inference._transport._sleep = wait
        assert one.inference.ping()
    assert keys.renewals == 1
    assert 0 <= waits[0] < 1


def test_a_key_that_is_taken_again_and_again(keys: Keys) -> None:
    """Somebody else renews between the file and the call: refused, looked up, and tried again."""
    with client_of(keys) as client:
        send = client.inference._transport._send
        thefts = iter(range(3))

        def late(*arguments: Any, **options: Any) -> Any:
            if next(thefts, None) is not None:
                keys.renew()
            return send(*arguments, **options)

        client.inference._transport._send = late  # type: ignore[method-assign]
        assert client.inference.ping()
    assert keys.renewals == 3


def test_a_clock_that_is_ahead_renews_once(keys: Keys) -> None:
    """To it each new key looks expired; two such clients would take each other's with every call."""
    ahead = [client_of(keys, tokens=KeyFile(keys.file, now=lambda: LATER)) for _ in range(2)]
    for _ in range(5):
        for client in ahead:
            assert client.inference.ping()
    assert keys.renewals <= 2
    for client in ahead:
        client.close()


def test_an_api_key_that_is_none_renews_nothing(keys: Keys) -> None:
    """The refusal is told."""
    wrong = StaticTokens(inference="old", management="old", api="wrong")
    with (
        client_of(keys, tokens=wrong) as client,
        pytest.raises(NotAllowed, match="missing, wrong or expired"),
    ):
        client.inference.ping()
    assert keys.renewals == 0


def test_a_copy_without_the_key_that_renews(keys: Keys, tmp_path: Path) -> None:
    """As a CI job has it that may not renew: what has expired is told, and where another comes from."""
    copy = tmp_path / "copy.json"
    entry = {"key": "old", "expiration time": "2000-01-01T00:00:00Z"}
    copy.write_text(json.dumps({"management": entry, "inference": entry}), encoding="utf-8")
    with (
        client_of(keys, tokens=KeyFile(copy)) as client,
        pytest.raises(NotAllowed, match=r"has expired, .*fetch it again.*token_expiration_min"),
    ):
        client.inference.ping()
    assert keys.renewals == 0


def test_addresses_that_are_exchanged(keys: Keys) -> None:
    """Each API takes no key but its own, so that can be told from a key that is wrong."""
    named = {"inference": "inference", "management": keys.key}
    with client_of(keys, tokens=StaticTokens(**named)) as client:
        with pytest.raises(NotAllowed, match=f"inference address: {keys.address} is its management address"):
            client.inference.ping()
        client.management.versions("m")
    swapped = StaticTokens(inference=keys.key, management="management")
    with (
        client_of(keys, tokens=swapped) as client,
        pytest.raises(NotAllowed, match=f"management address: {keys.address} is its inference address"),
    ):
        client.management.versions("m")


def test_a_model_called_tokenizer_renews_nothing(keys: Keys) -> None:
    """What is asked of it is no call to the token API, whose key no client would have for it."""
    with client_of(keys) as client:
        assert client.management.versions("tokenizer") == []
        client.management.unregister("m", "tokens")
        client.management.unregister("mytoken", "1.0")
    assert keys.renewals == 0


def test_a_key_file_with_a_byte_order_mark(keys: Keys) -> None:
    """As a copy that was saved on Windows has one."""
    keys.file.write_bytes(b"\xef\xbb\xbf" + keys.file.read_bytes())
    assert KeyFile(keys.file).token("inference") == keys.key
    with client_of(keys) as client:
        assert client.inference.ping()
    assert keys.renewals == 0
