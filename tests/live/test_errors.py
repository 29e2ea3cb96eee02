"""Each branch of the error tree, from a real server that gives cause for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from torchmar.client import StaticTokens, Timeouts, connect
from torchmar.errors import (
    AlreadyRegistered,
    ArchiveNotInStore,
    ConnectionFailed,
    HandlerFailed,
    HandlerRefused,
    InvalidRequest,
    IsDefaultVersion,
    ModelNotFound,
    NotAllowed,
    NoWorker,
    OutOfResources,
    QueueFull,
    ServerFailed,
    TimedOut,
    Unavailable,
    WorkerDied,
    WorkerFailedToLoad,
    WorkersNotReady,
)
from torchmar.server import port_is_free

from .servers import Live, StartServer, make_stranger

ECHO = "def handle(data, context):\n    return None if data is None else ['ok'] * len(data)\n"

# Does what the request says.
OBEDIENT = """
import os, time

def handle(data, context):
    if data is None:
        return None
    order = bytes(data[0]["body"]).decode()
    if order == "raise":
        raise ValueError("as told")
    if order == "memory":
        raise MemoryError
    if order == "full":
        context.set_response_status(507, "Full", 0)
        return ['{"error": "the disk is full"}']
    if order.startswith("predict"):
        from ts.utils.util import PredictionException
        raise PredictionException("no such language", int(order.split()[1]))
    if order == "die":
        os._exit(7)
    if order.startswith("sleep"):
        time.sleep(float(order.split()[1]))
    return ["ok"] * len(data)
"""


@pytest.fixture(scope="module")
def obedient(server: Live) -> Live:
    """The file's server with a model that does what a request says."""
    config = {"minWorkers": 1, "maxWorkers": 1, "responseTimeout": 5, "jobQueueSize": 1}
    server.serve(server.stranger("obedient", OBEDIENT, config={**config, "maxRetryTimeoutInSec": 60}))
    return server


@pytest.fixture
def connected(server: Live) -> Iterator[Live]:
    """The file's server, with nothing of the test left registered."""
    yield server
    for entry in server.management.models():
        if entry.name != "obedient":
            versions = sorted(server.management.versions(entry.name), key=lambda v: v.version)
            default = server.management.default_version(entry.name)
            for version in sorted(versions, key=lambda v: v.version == default):
                server.management.unregister(entry.name, version.version)


# -- the management API -------------------------------------------------------------------------


def test_wrong_token_is_not_allowed(server: Live) -> None:
    """On the management and on the inference address."""
    config = server.running.config
    wrong = StaticTokens(management="wrong", inference="wrong")
    with connect(management=config.management, inference=config.inference, tokens=wrong) as clients:
        with pytest.raises(NotAllowed, match=r"key_file\.json"):
            list(clients.management.models())
        with pytest.raises(NotAllowed):
            clients.inference.ping()


def test_no_token_is_not_allowed(server: Live) -> None:
    """The hardened configuration asks everyone for a token."""
    config = server.running.config
    with connect(management=config.management) as clients, pytest.raises(NotAllowed):
        clients.management.describe("anything")


def test_archive_that_is_not_in_the_store(server: Live) -> None:
    """Told apart from a model that is not registered."""
    with pytest.raises(ArchiveNotInStore, match=r"nowhere-1\.0\.mar"):
        server.management.register("nowhere-1.0.mar")


@pytest.mark.parametrize(
    "url", ["http://example.com/x.mar", "https://example.com/x.mar", "file:///tmp/x.mar", "../x.mar"]
)
def test_foreign_urls_are_not_allowed(server: Live, url: str) -> None:
    """The hardened configuration loads from the model store alone; nothing is fetched."""
    with pytest.raises(NotAllowed, match="model store"):
        server.management.register(url)


def test_registered_twice(connected: Live) -> None:
    """The second time it is there already."""
    archive = connected.stranger("twice", ECHO)
    connected.serve(archive)
    with pytest.raises(AlreadyRegistered):
        connected.management.register(archive)


def test_no_such_model_or_version(connected: Live) -> None:
    """For describing, predicting, scaling, setting the default and unregistering."""
    connected.serve(connected.stranger("single", ECHO))
    management, inference = connected.management, connected.inference
    for model, version in (("absent", None), ("single", "9")):
        with pytest.raises(ModelNotFound):
            management.describe(model, version)
        with pytest.raises(ModelNotFound):
            inference.predict(model, b"x", version=version)
        with pytest.raises(ModelNotFound):
            management.scale(model, 1, version)
        with pytest.raises(ModelNotFound):
            management.set_default(model, version or "1.0")
        with pytest.raises(ModelNotFound):
            management.unregister(model, version)


def test_default_version_cannot_be_unregistered(connected: Live) -> None:
    """While there are others."""
    connected.management.register(connected.stranger("pair", ECHO), initial_workers=0)
    connected.management.register(connected.stranger("pair", ECHO, version="2.0"), initial_workers=0)
    with pytest.raises(IsDefaultVersion):
        connected.management.unregister("pair", "1.0")


def test_model_api_that_is_switched_off(start_server: StartServer) -> None:
    """Without enable_model_api the server answers 405, and the error says which setting it is."""
    live = start_server(settings={"enable_model_api": "false"})
    with pytest.raises(NotAllowed, match="enable_model_api=true"):
        live.management.register("any.mar")


def test_file_that_is_no_archive(server: Live) -> None:
    """A text file named .mar is refused with an error of the tree."""
    (server.store / "text-1.0.mar").write_text("not a zip")
    with pytest.raises((InvalidRequest, ServerFailed, ArchiveNotInStore)):
        server.management.register("text-1.0.mar")


# -- workers that do not load -------------------------------------------------------------------


def test_death_is_seen_without_the_log(connected: Live) -> None:
    """From afar there is only the API: another process under the same worker id tells it."""
    config = connected.running.config
    archive = connected.stranger("far", "import nothing_here\n", config={"maxRetryTimeoutInSec": 60})
    key_file = connected.running.key_file
    with connect(management=config.management, key_file=key_file) as clients:
        clients.management.register(archive, initial_workers=1)
        with pytest.raises(WorkerFailedToLoad) as caught:
            clients.management.wait_until_ready("far", timeout=60)
    assert caught.value.reason == ""


def test_worker_that_takes_too_long_to_load(connected: Live) -> None:
    """Not ready is not dead: it is told so after the timeout."""
    slow = "import time\ndef handle(data, context):\n    time.sleep(30 if data is None else 0)\n"
    connected.management.register(connected.stranger("slow", slow), initial_workers=1)
    with pytest.raises(WorkersNotReady, match="0 of 1 workers are READY") as caught:
        connected.management.wait_until_ready("slow", workers=1, timeout=1)
    assert not isinstance(caught.value, WorkerFailedToLoad)


# -- the inference API --------------------------------------------------------------------------


def test_version_without_workers(connected: Live) -> None:
    """NoWorker, and without a management client its parent."""
    connected.management.register(connected.stranger("idle", ECHO), initial_workers=0)
    with pytest.raises(NoWorker, match="torchmar scale idle 1"):
        connected.inference.predict("idle", b"x")
    config, key_file = connected.running.config, connected.running.key_file
    with connect(inference=config.inference, management=config.management, key_file=key_file) as clients:
        clients.inference._management = None
        with pytest.raises(Unavailable) as caught:
            clients.inference.predict("idle", b"x")
    assert type(caught.value) is Unavailable


def test_full_queue(obedient: Live) -> None:
    """One in the worker, one in the queue of one: of three at once, at least one finds it full."""

    def ask(_: int) -> str:
        try:
            return obedient.inference.predict("obedient", b"sleep 1").content.decode()
        except QueueFull as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(ask, range(3)))
    assert "ok" in outcomes
    assert any("its queue of 1 requests is full" in outcome for outcome in outcomes)


def test_handler_that_raises(obedient: Live) -> None:
    """HandlerFailed points to the log, because TorchServe gives no reason."""
    with pytest.raises(HandlerFailed, match=r"model_log\.log"):
        obedient.inference.predict("obedient", b"raise")


def test_handler_that_runs_out_of_memory(obedient: Live) -> None:
    """507."""
    with pytest.raises(OutOfResources):
        obedient.inference.predict("obedient", b"memory")


def test_handler_that_answers_507_itself(obedient: Live) -> None:
    """Its own words; TorchServe's 507 has others."""
    with pytest.raises(HandlerFailed) as caught:
        obedient.inference.predict("obedient", b"full")
    assert (caught.value.status, caught.value.reason) == (507, "the disk is full")


@pytest.mark.parametrize(
    ("status", "error"),
    [(422, HandlerRefused), (404, HandlerRefused), (503, HandlerFailed), (507, HandlerFailed)],
)
def test_handler_that_raises_torchserves_own_exception(
    obedient: Live, status: int, error: type[HandlerRefused | HandlerFailed]
) -> None:
    """PredictionException carries a reason and a status, which TorchServe puts into its own form."""
    with pytest.raises(error) as caught:
        obedient.inference.predict("obedient", f"predict {status}".encode())
    assert type(caught.value) is error
    assert (caught.value.status, caught.value.reason) == (status, "no such language")


def test_worker_that_dies(obedient: Live) -> None:
    """With the request in hand; it is restarted and answers again."""
    with pytest.raises(WorkerDied):
        obedient.inference.predict("obedient", b"die")
    obedient.management.wait_until_ready("obedient", workers=1)
    assert obedient.inference.predict("obedient", b"x").content == b"ok"


def test_worker_that_does_not_reply_in_time(obedient: Live) -> None:
    """After responseTimeout TorchServe kills it."""
    with pytest.raises(WorkerDied):
        obedient.inference.predict("obedient", b"sleep 20")
    obedient.management.wait_until_ready("obedient", workers=1)


def test_caller_that_does_not_wait(obedient: Live) -> None:
    """Never answered is not answered badly: TimedOut after the caller's own timeout."""
    with pytest.raises(TimedOut):
        obedient.inference.predict("obedient", b"sleep 2", timeout=0.3)


def test_handler_that_refuses(tiny: Live) -> None:
    """Its own status and its own words."""
    with pytest.raises(HandlerRefused) as caught:
        tiny.inference.predict("tiny", b"no picture")
    assert caught.value.status == 400
    assert caught.value.reason.startswith("not a JPEG, PNG or WebP picture")


def test_body_beyond_max_request_size(tiny: Live) -> None:
    """TorchServe's own limit: 413 or a closed connection, never a hang."""
    with pytest.raises((InvalidRequest, HandlerRefused, TimedOut)):
        tiny.inference.predict("tiny", b"x" * 6_600_000)


def test_server_that_is_gone(start_server: StartServer) -> None:
    """ConnectionFailed: it did nothing, trying again is safe."""
    from torchmar.server import stop

    live = start_server()
    stop(live.running)
    clients = connect(inference=live.inference.address, timeouts=Timeouts(connect=2))
    with clients, pytest.raises(ConnectionFailed, match="nothing listens"):
        clients.inference.ping()
    assert all(port_is_free(port) for port in live.running.config.ports().values())


def test_healthy_is_not_ready(connected: Live) -> None:
    """Pinned: /ping says Healthy while the only worker of a model crashes again and again."""
    archive = connected.stranger("sick", "import nothing_here\n", config={"maxRetryTimeoutInSec": 300})
    connected.management.register(archive, initial_workers=1)
    with pytest.raises(WorkerFailedToLoad):
        connected.management.wait_until_ready("sick", timeout=60)
    assert connected.inference.ping()


def test_unregistering_drops_what_waits(connected: Live) -> None:
    """Pinned: requests in the queue of an unregistered version are never answered."""
    sleepy = "import time\ndef handle(data, context):\n    time.sleep(1 if data else 0)\n    return ['ok']\n"
    connected.serve(connected.stranger("dropped", sleepy))
    outcomes: list[str] = []

    def ask() -> None:
        try:
            connected.inference.predict("dropped", b"x", timeout=4)
            outcomes.append("answered")
        except (TimedOut, WorkerDied) as error:
            outcomes.append(type(error).__name__)

    callers = [threading.Thread(target=ask) for _ in range(3)]
    for caller in callers:
        caller.start()
    deadline = time.monotonic() + 10
    while connected.management.describe("dropped").queue.pending_requests < 2:
        assert time.monotonic() < deadline
    connected.management.unregister("dropped", "1.0")
    for caller in callers:
        caller.join()
    assert "TimedOut" in outcomes


def test_make_stranger_is_what_the_archiver_makes(tmp_path: Path) -> None:
    """The helper of these tests gives the files that torch-model-archiver gives."""
    ours = make_stranger(tmp_path, "same", ECHO, plain=True)
    (tmp_path / "same_handler.py").write_text(ECHO)
    (tmp_path / "model-config.yaml").write_text("{}")
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "same"]
    command += ["--version", "1.0", "--handler", str(tmp_path / "same_handler.py"), "--force"]
    command += ["--config-file", str(tmp_path / "model-config.yaml"), "--export-path", str(tmp_path)]
    (tmp_path / "tmp").mkdir()
    subprocess.run(command, check=True, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")})
    with zipfile.ZipFile(ours) as one, zipfile.ZipFile(tmp_path / "same.mar") as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
