"""Taking a version or a worker away, replacing dead ones: nothing that was asked is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks import prove_release
from torchmar.errors import ModelNotFound, ReleaseError, WorkerDied
from torchmar.workers import (
    WaitPolicy,
    drain,
    drain_and_unregister,
    find_dead,
    process_alive,
    repair,
    requests_to_version,
    scale,
    standby_of,
)

from .servers import Live, make_stranger, starter

# Sleeps, dies, or tells its version and process, as the request says.
OBEDIENT = """
import json, os, time

def handle(data, context):
    if data is None:
        return None
    order = bytes(data[0]["body"]).decode().split()
    if order[0] == "die":
        os._exit(7)
    time.sleep(float(order[1]))
    return [json.dumps([context.manifest["model"]["modelVersion"], os.getpid()])] * len(data)
"""
QUICK = b"sleep 0.02"


def make(store: Path, name: str, version: str, *, workers: int = 1) -> Path:
    """An archive with the obedient handler."""
    config = {"minWorkers": workers, "maxWorkers": workers, "responseTimeout": 10}
    return make_stranger(store, name, OBEDIENT, version=version, config=config)


def put(live: Live, name: str, *versions: str, workers: int = 1) -> None:
    """Serve these versions of the obedient handler, the first as the default."""
    for version in versions:
        live.management.register(make(live.store, name, version, workers=workers).name)
    for version in versions:
        live.management.wait_until_ready(name, version)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; a condition that never comes true fails the test."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


def pending(live: Live, name: str, version: str | None = None) -> int:
    return live.management.describe(name, version).queue.pending_requests


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The file's server, which loads from file URLs, too."""
    with ExitStack() as stack:
        yield starter(stack, tmp_path_factory)(settings={"allowed_urls": "file://.*"})


def ask(live: Live, name: str, body: bytes, version: str | None = None) -> list[object]:
    found = live.inference.predict(name, body, version=version).json()
    assert isinstance(found, list)
    return found


def test_retire_waits_for_what_is_in_hand_and_in_the_queue(server: Live) -> None:
    """Three slow answers of a single worker arrive, though it is retired at once; its archive stays."""
    put(server, "slow", "1.0", "2.0")
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, server, "slow", b"sleep 0.7") for _ in range(3)]
        # Two wait while the first is answered; at two of three that have arrived, one may be missing still.
        until(lambda: pending(server, "slow", "1.0") == 2)
        time.sleep(0.2)
        until(lambda: pending(server, "slow", "1.0") == 2)
        server.management.set_default("slow", "2.0")
        told = drain_and_unregister(server.clients, "slow", "1.0", WaitPolicy(longest=1.0))
        assert [answer.result()[0] for answer in answers] == ["1.0"] * 3
    assert told.pinned_seen
    with pytest.raises(ModelNotFound):
        server.management.describe("slow", "1.0")
    assert (server.store / "slow-1.0.mar").exists()


def test_an_archive_from_a_url_goes_with_its_version(server: Live, tmp_path: Path) -> None:
    """Pinned: TorchServe deletes its copy in the store, though never one that was put there; it is told."""
    put(server, "fetched", "1.0")
    path = make(tmp_path, "fetched", "2.0")
    server.management.register(path.as_uri())
    server.management.wait_until_ready("fetched", "2.0")
    assert (server.store / path.name).exists()
    assert drain_and_unregister(server.clients, "fetched", "2.0", WaitPolicy(longest=0)).archive_removed
    assert not (server.store / path.name).exists()


def test_pinned_clients_are_told(server: Live) -> None:
    """Who asks for the version by name is seen in the metrics as soon as it asks, and keeps the version."""
    put(server, "pinned", "1.0", "2.0")
    server.management.set_default("pinned", "2.0")
    ended = threading.Event()

    def asking() -> None:
        while not ended.is_set():
            ask(server, "pinned", b"sleep 0.3", "1.0")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asking)
        try:
            with pytest.raises(ReleaseError, match=r"requests a second to http://.*/predictions/pinned/1\.0"):
                drain(server.clients, "pinned", "1.0", WaitPolicy(longest=0.5, timeout=1))
        finally:
            ended.set()
    with ThreadPoolExecutor(1) as pool:
        before = requests_to_version(server.clients, "pinned", "1.0")
        slow = pool.submit(ask, server, "pinned", b"sleep 0.7", "1.0")
        until(lambda: requests_to_version(server.clients, "pinned", "1.0") == before + 1)
        assert not slow.done()
        assert drain(server.clients, "pinned", "1.0", WaitPolicy(longest=0.9)).pinned_seen
        assert slow.done()


def test_dead_workers_are_replaced_while_requests_go_on(server: Live) -> None:
    """Pinned: TorchServe lists them and starts them no more. After `repair` all are READY; none was lost."""
    put(server, "mortal", "1.0", workers=2)
    with pytest.raises(WorkerDied):
        ask(server, "mortal", b"die")
    until(lambda: len(find_dead(server.management.describe("mortal"), process_alive)) == 1)
    server.management.scale("mortal", 2)
    assert server.management.describe("mortal").ready_workers == 1
    versions, ended = [], threading.Event()

    def asking() -> None:
        while not ended.is_set():
            versions.append(ask(server, "mortal", QUICK)[0])

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(asking) for _ in range(4)]
        try:
            told = repair(server.clients, server.store, "mortal", pace=WaitPolicy(0.5), alive=process_alive)
        finally:
            ended.set()
        for client in clients:
            client.result()  # raises what a client met
    assert (len(told.replaced), told.workers) == (1, 2)
    assert set(versions) == {"1.0", standby_of("1.0")}
    _assert_whole(server, "mortal", "1.0", workers=2)


def test_what_waits_for_a_dead_worker_is_answered(server: Live) -> None:
    """With no worker left the queue is taken over by a new one; repair again does nothing."""
    put(server, "lonely", "1.0")
    with pytest.raises(WorkerDied):
        ask(server, "lonely", b"die")
    until(lambda: len(find_dead(server.management.describe("lonely"), process_alive)) == 1)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, server, "lonely", QUICK) for _ in range(2)]
        until(lambda: pending(server, "lonely") == 2)
        told = repair(server.clients, server.store, "lonely", pace=WaitPolicy(0.5), alive=process_alive)
        assert [answer.result()[0] for answer in waiting] == ["1.0"] * 2
    assert len(told.replaced) == 1
    _assert_whole(server, "lonely", "1.0", workers=1)
    assert repair(server.clients, server.store, "lonely", alive=process_alive).replaced == ()


def test_what_the_newest_worker_has_in_hand_is_executed_once(server: Live) -> None:
    """TorchServe would kill it and run its request again in the other worker; scaled down so, both answer."""
    put(server, "narrow", "1.0", workers=2)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, server, "narrow", b"sleep 1") for _ in range(2)]
        until(
            lambda: (
                requests_to_version(server.clients, "narrow", "default") == 2
                and not pending(server, "narrow")
            )
        )
        described = scale(server.clients, server.store, "narrow", 1, WaitPolicy(longest=1.2))
        found = [answer.result() for answer in answers]
    assert described.ready_workers == 1
    assert [version for version, _ in found] == ["1.0"] * 2
    assert len({pid for _, pid in found}) == 2
    _assert_whole(server, "narrow", "1.0", workers=1)


def test_the_default_version_is_put_back_where_scaling_fails(server: Live, tiny_onnx: Path) -> None:
    """An archive of ours, with golden requests; no worker at all, and no archive, are refused."""
    server.serve(server.put(tiny_onnx), "2.0")
    assert scale(server.clients, server.store, "tiny", 2).ready_workers == 2
    steps: list[str] = []

    def on_step(name: str) -> None:
        steps.append(name)
        if name == "scale":
            assert server.management.default_version("tiny") == standby_of("2.0")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scale(server.clients, server.store, "tiny", 1, WaitPolicy(longest=0.2, on_step=on_step))
    made = ["make-standby", "register-standby", "default-to-standby", "drain", "scale"]
    gone = ["default-back", "drain-standby", "unregister-standby", "remove-standby"]
    assert steps == made + gone
    _assert_whole(server, "tiny", "2.0", workers=2)
    with pytest.raises(ReleaseError, match="without a worker"):
        scale(server.clients, server.store, "tiny", 0)
    (server.store / tiny_onnx.name).unlink()
    with pytest.raises(ReleaseError, match="which is not in"):
        scale(server.clients, server.store, "tiny", 1)


def test_a_cycle_loses_nothing(tmp_path: Path) -> None:
    """`scripts/prove-release`: each request under release, rollback, retire and scaling is accounted for."""
    file = tmp_path / "proof.json"
    assert prove_release.main(["--cycles", "1", "--longest", "0.5", "--json", str(file)]) == 0
    told = json.loads(file.read_text())
    assert told["requests"] > 100
    assert [told[key] for key in ("failed", "lost", "duplicated", "misversioned")] == [0] * 4
    assert 0 < told["rollback_s"] < told["release_s"]


def _assert_whole(live: Live, name: str, version: str, *, workers: int) -> None:
    """One version alone, the default, with this many workers, all READY; nothing of a standby."""
    [described] = live.management.versions(name)
    assert (described.version, described.ready_workers, len(described.workers)) == (version, workers, workers)
    assert not list(live.store.glob("*standby*"))
    assert live.management.default_version(name) == version
