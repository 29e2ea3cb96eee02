"""A client in forked children: connections, locks and random numbers are each child's own."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from torchmar.client import Inference, NoTokens, Server, Timeouts, connect
from torchmar.client._fork import ForkLock
from torchmar.client._http import InferenceTransport

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

LIMIT = 20  # seconds, after which a child that waits for ever is ended


class Echo(BaseHTTPRequestHandler):
    """Answers with what it is sent, on connections that stay."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: else the second waits for the first one's receipt

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Path", self.path)
        self.send_header("Set-Cookie", "seen=1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def client(address: str) -> Iterator[Server]:
    """One that has been used, so that it has a connection to share."""
    with connect(inference=address, management=address) as server:
        server.inference.predict("echo", b"warm-up")
        yield server


def forked(act: Callable[[int], Any], children: int = 1) -> list[Any]:
    """What `act` returns in each of several children that run at the same time."""
    running = []
    for number in range(children):
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of 3.12, for forks beside threads: meant here
            pid = os.fork()
        if pid == 0:
            signal.alarm(LIMIT)
            try:
                os.write(writing, json.dumps(act(number)).encode())
            except BaseException as error:
                os.write(writing, json.dumps(f"{type(error).__name__}: {error}").encode())
            os._exit(0)
        os.close(writing)
        running.append((pid, reading))
    results = []
    for pid, reading in running:
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        os.waitpid(pid, 0)
        results.append(json.loads(told) if told else "it waited for ever")
    return results


@contextmanager
def held_by_a_thread(*locks: Any) -> Iterator[None]:
    """Another thread is in the middle of something while this one forks."""
    taken, over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock.held() if isinstance(lock, ForkLock) else lock)
            taken.set()
            over.wait(LIMIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(LIMIT)
    try:
        yield
    finally:
        over.set()
        thread.join()


def right_answers(inference: Inference, who: str, count: int = 50) -> int:
    """How many of `count` requests get what they have sent."""
    bodies = [f"{who} {number}".encode() for number in range(count)]
    return sum(inference.predict("echo", body).content == body for body in bodies)


def test_each_child_gets_its_own_answers(client: Server) -> None:
    """And so does the parent: they do not read from one connection."""
    assert forked(lambda number: right_answers(client.inference, f"child {number}"), 3) == [50, 50, 50]
    assert right_answers(client.inference, "parent") == 50


def test_children_of_children_too(client: Server) -> None:
    """Every generation makes connections of its own."""

    def child(number: int) -> list[Any]:
        mine = right_answers(client.inference, f"child {number}", 5)
        return [mine, forked(lambda own: right_answers(client.inference, f"grandchild {own}"), 2)]

    assert forked(child, 2) == [[5, [50, 50]]] * 2


def test_threads_of_a_child_that_begin_at_once(client: Server) -> None:
    """They agree upon one lock and one set of connections."""

    def child(_: int) -> list[int]:
        barrier = threading.Barrier(8)

        def ask(number: int) -> int:
            barrier.wait()
            return right_answers(client.inference, f"thread {number}", 20)

        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(ask, range(8)))

    assert forked(child) == [[20] * 8]


def test_a_lock_that_was_held_is_not_held_in_the_child(address: str) -> None:
    """Of the client: its counters, its fallbacks, its renewal of keys."""
    with connect(inference=address, split={"2.0": 1}) as client:
        transport = client.inference._transport
        locks = (transport._lock, transport._renewing, client.inference._lock)
        with held_by_a_thread(*locks):

            def child(_: int) -> Any:
                answers = right_answers(client.inference, "child", 3)
                with transport._renewing.held():
                    return [answers, client.answers[2], client.inference.fallbacks]

            assert forked(child) == [[3, 3, {}]]


def test_locks_of_the_connections_that_were_held(client: Server) -> None:
    """Of urllib3's pools, which are taken also when they are thrown away, and of the cookies."""
    transport = client.inference._transport
    session: Any = transport._session
    pools = session.get_adapter(transport.address).poolmanager.pools
    locks = [pools.lock, session.cookies._cookies_lock, *(p.pool.mutex for p in pools._container.values())]
    del pools  # the child throws them away

    def child(_: int) -> int:
        right = right_answers(client.inference, "child", 3)
        client.close()
        gc.collect()
        return right

    with held_by_a_thread(*locks):
        assert forked(child) == [3]


def test_a_child_that_closes_its_client_leaves_the_parents(client: Server) -> None:
    """The connections are closed in the child alone."""
    before = client.inference._transport._session
    assert forked(lambda _: client.close()) == [None]
    assert right_answers(client.inference, "parent", 3) == 3
    assert client.inference._transport._session is before


def test_answers_are_counted_on(client: Server) -> None:
    """A child begins with what its parent had counted."""
    client.inference.predict("echo", b"x")

    def child(_: int) -> int:
        client.inference.predict("echo", b"x")
        return client.answers[2]

    assert forked(child) == [3]
    assert client.answers == {2: 2}


def test_children_draw_their_own_numbers(address: str) -> None:
    """A canary's share is drawn anew in each child, and not the same requests in all."""
    with connect(inference=address, split={"2.0": 0.5}) as client:
        sides = forked(
            lambda _: [client.inference.predict("echo", b"x").version for _ in range(40)], children=3
        )
    assert len({tuple(side) for side in sides}) == 3
    assert all({"2.0", None} == set(side) for side in sides)


def test_a_session_of_the_callers_own(address: str) -> None:
    """What it was given stays: headers, settings of its adapters, attributes of a derived class."""

    class Own(requests.Session):
        asked = 0

        def request(self, *arguments: Any, **options: Any) -> requests.Response:
            self.asked += 1
            return super().request(*arguments, **options)

    session = Own()
    session.headers["X-Own"] = "yes"
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=3, max_retries=2))
    transport = InferenceTransport(address, session, NoTokens(), "inference", Timeouts())
    inference = Inference(transport)
    inference.predict("echo", b"x")
    pools: Any = session.get_adapter(address)

    def child(number: int) -> list[Any]:
        right = right_answers(inference, f"child {number}")
        own: Any = session.get_adapter(address)
        return [right, session.asked, session.headers["X-Own"], own._pool_maxsize, own.max_retries.total]

    assert forked(child, 3) == [[50, 51, "yes", 3, 2]] * 3
    assert session.get_adapter(address) is pools
    assert right_answers(inference, "parent", 3) == 3
