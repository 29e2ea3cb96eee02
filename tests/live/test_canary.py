"""Canaries and recording against a real TorchServe, and the real nginx."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from torchmar import pack
from torchmar.client import KeyFile, Prediction, connect
from torchmar.errors import HandlerRefused
from torchmar.mar import verify
from torchmar.measure.queues import Queues
from torchmar.measure.recorded import read_recorded
from torchmar.measure.replay import replay_recorded
from torchmar.release import release
from torchmar.routers import Logged
from torchmar.routers.nginx import Canary, described

from ..conftest import TINY
from .candidates import UNJUDGED, ask, candidate, fleet_of, told_by
from .nginx import Nginx, needs_nginx
from .servers import Live

PICTURE = (TINY / "golden" / "noise.png").read_bytes()
KEYS = [f"user-{number}" for number in range(300)]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


@pytest.fixture(scope="module")
def two(server: Live, tiny_onnx: Path, recordings: Path) -> Live:
    """Version 2.0, the default, which answers with three labels; 3.0 with one, which records its requests."""
    record = {"folder": str(recordings), "max_bytes_each": 5000, "fields": ["instances"]}
    archive = verify(server.store / server.put(tiny_onnx))
    section = archive.config["handler"]
    section = {**section, "params": {**section["params"], "topk": 1}, "record": record}
    config = {**archive.config, "handler": section}
    model = {**archive.manifest["model"], "modelVersion": "3.0"}
    changes = {
        "MAR-INF/MANIFEST.json": json.dumps({**archive.manifest, "model": model}).encode(),
        "model-config.yaml": yaml.safe_dump(config).encode(),
    }
    pack.variant(archive, server.store / "tiny-3.0.mar", changes)
    for version in ("2.0", "3.0"):
        server.management.register(f"tiny-{version}.mar", batch_size=1)
        server.management.wait_until_ready("tiny", version)
    return server


def version_of(labels: list[object]) -> str:
    return "3.0" if len(labels) == 1 else "2.0"


def test_split_in_the_client(two: Live) -> None:
    """Who has the candidate at a quarter has it at a half; the answer is the version's that it names."""
    assert two.running.key_file is not None
    sides: list[dict[str, str]] = []
    for share in (0.25, 0.5):
        with connect(
            inference=two.inference.address, key_file=two.running.key_file, split={"3.0": share}
        ) as clients:
            answers = {key: clients.inference.predict("tiny", PICTURE, key=key) for key in KEYS[:40]}
        assert all((a.version or "2.0") == version_of(a.json()) for a in answers.values())
        sides.append({key: version_of(answer.json()) for key, answer in answers.items()})
    quarter, half = ({key for key, version in side.items() if version == "3.0"} for side in sides)
    assert 0 < len(quarter) < len(half) < 40
    assert quarter < half


def test_a_candidate_without_a_worker_loses_nothing(two: Live) -> None:
    """Nor does one that is gone: the default answers instead."""
    two.management.scale("tiny", 0, "3.0")
    two.management.wait_until_ready("tiny", "3.0", workers=0)
    for version in ("3.0", "9.9"):
        with connect(
            inference=two.inference.address, key_file=two.running.key_file, split={version: 1}
        ) as clients:
            answer = clients.inference.predict("tiny", PICTURE)
            assert clients.inference.fallbacks == {version: 1}
        assert (answer.version, answer.instead_of, version_of(answer.json())) == (None, version, "2.0")
    two.management.scale("tiny", 1, "3.0")
    two.management.wait_until_ready("tiny", "3.0", workers=1)


def test_recorded_requests_are_replayed_to_both(two: Live, recordings: Path) -> None:
    """What a real server was asked is in the file, less what it was told not to keep; then both are asked."""
    for file in recordings.iterdir():
        file.unlink()
    key = {"Authorization": f"Bearer {KeyFile(two.running.key_file or '').token('inference')}"}
    url = f"{two.inference.address}/predictions/tiny/3.0"
    two.inference.predict("tiny", PICTURE, version="3.0", content_type="image/png")
    requests.post(url, headers=key, files={"data": ("noise.png", PICTURE)}, timeout=30)
    with pytest.raises(HandlerRefused):
        two.inference.predict("tiny", {"instances": [{"b64": "AAAA"}], "user": "private"}, version="3.0")
    with pytest.raises(HandlerRefused):
        two.inference.predict("tiny", b"x" * 5001, version="3.0")

    (file,) = recordings.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    found = read_recorded([recordings / "tiny-3.0-*.jsonl"], "tiny")
    assert [(request.body, request.content_type) for request in found] == [
        (PICTURE, "image/png"),
        (PICTURE, "application/octet-stream"),
        (b'{"instances":[{"b64":"AAAA"}]}', "application/json"),
    ]
    queues = Queues(two.clients, "tiny", ["2.0", "3.0"])
    shadow = replay_recorded(queues, "2.0", "3.0", found, timeout=30.0)
    for samples in (shadow.default, shadow.candidate):
        assert [sample.status for sample in samples] == [200, 200, 400]
        assert b"damaged" in samples[2].body or b"not a JPEG" in samples[2].body


# -- nginx --------------------------------------------------------------------------------------


@pytest.fixture
def nginx(two: Live, tmp_path: Path) -> Iterator[Nginx]:
    upstream = two.inference.address.removeprefix("http://")
    canary = Canary("tiny", "3.0", 5, "2.0", (upstream,), tmp_path / "unset.log")
    running = Nginx(tmp_path, canary)
    try:
        yield running
    finally:
        running.stop()


class Load:
    """Three clients of nginx: which version has answered how often, and what failed."""

    def __init__(self, address: str, server: Live, version: Callable[[Prediction], str]) -> None:
        self.answered = Counter[str]()
        self.failed: list[str] = []
        self._address, self._server, self._version = address, server, version
        self._over = threading.Event()

    @contextmanager
    def of(self, model: str, data: Any, *, keys: int) -> Iterator[None]:
        """While the block runs; each client takes its `keys` in turn."""
        clients = [threading.Thread(target=self._ask, args=(model, data, n, keys)) for n in range(3)]
        for client in clients:
            client.start()
        try:
            yield
        finally:
            self._over.set()
            for client in clients:
                client.join(timeout=30)

    def _ask(self, model: str, data: Any, number: int, keys: int) -> None:
        with connect(inference=self._address, key_file=self._server.running.key_file) as clients:
            for asked in itertools.count():
                if self._over.is_set():
                    return
                try:
                    answer = clients.inference.predict(model, data, key=f"load-{number}-{asked % keys}")
                    self.answered[self._version(answer)] += 1
                except Exception as error:
                    self.failed.append(str(error))


def logged(nginx: Nginx, done: Callable[[Mapping[str | None, Logged]], bool]) -> Mapping[str | None, Logged]:
    """What the log says of `tiny`, as soon as all is there: nginx answers first, and writes then."""
    deadline = time.monotonic() + 10
    while True:
        traffic = dict(nginx.log.read())
        if done(traffic) or time.monotonic() > deadline:
            return traffic


def all_of(traffic: Mapping[str | None, Logged]) -> int:
    return sum(found.requests for found in traffic.values())


@needs_nginx
def test_canary_in_nginx(two: Live, nginx: Nginx) -> None:
    """Each step has its share, keys stay, the log says the same, and no request fails while it reloads."""
    load = Load(nginx.address, two, lambda answer: version_of(answer.json()))
    with (
        load.of("tiny", PICTURE, keys=1),
        connect(inference=nginx.address, key_file=two.running.key_file) as clients,
    ):

        def candidates(keys: list[str]) -> set[str]:
            answers = {key: clients.inference.predict("tiny", PICTURE, key=key).json() for key in keys}
            return {key for key, answer in answers.items() if version_of(answer) == "3.0"}

        at_5 = candidates(KEYS)
        nginx.step(25)
        at_25 = candidates(KEYS)
        assert candidates(KEYS[:100]) == at_25 & set(KEYS[:100])
        nginx.step(0)
        assert candidates(KEYS[:30]) == set()
        nginx.step(100)
        assert candidates(KEYS[:30]) == set(KEYS[:30])
        # Pinned requests and the rest of the address pass through as they are.
        assert version_of(clients.inference.predict("tiny", PICTURE, version="2.0").json()) == "2.0"
        assert clients.inference.ping()
    # Of 300 keys 5 % are 15 and 25 % are 75, give or take four standard deviations.
    assert abs(len(at_5) - 15) < 15
    assert abs(len(at_25) - 75) < 30
    assert at_5 < at_25
    assert load.failed == []
    assert load.answered.total() > 50

    expected = load.answered.total() + 2 * 300 + 160
    traffic = logged(nginx, lambda traffic: all_of(traffic) >= expected)
    assert set(traffic) == {"2.0", "3.0"}
    assert all_of(traffic) == expected
    for found in traffic.values():
        assert found.errors == 0
        assert len(found.seconds) == found.requests
        assert 0 < sum(found.seconds) / len(found.seconds) < 5


@needs_nginx
def test_nginx_passes_errors_and_sizes_on(two: Live, nginx: Nginx) -> None:
    """The handler's own 400 and the server's 400 without a token arrive; a body up to the limit does, too."""
    with connect(inference=nginx.address, key_file=two.running.key_file) as clients:
        for body in (b"no picture", b"x" * 6_000_001):
            with pytest.raises(HandlerRefused) as refused:
                clients.inference.predict("tiny", body)
            assert refused.value.status == (400 if len(body) < 100 else 413)
    url = f"{nginx.address}/predictions/tiny"
    assert "InvalidKeyException" in requests.post(url, data=PICTURE, timeout=30).text
    nginx.canary = replace(nginx.canary, default=None, upstreams=("127.0.0.1:9", *nginx.canary.upstreams))
    nginx.step(0)
    with connect(inference=nginx.address, key_file=two.running.key_file) as clients:
        answers = [clients.inference.predict("tiny", PICTURE) for _ in range(4)]
    assert {version_of(answer.json()) for answer in answers} == {"2.0"}  # though the other server is down
    traffic = logged(nginx, lambda traffic: None in traffic and traffic[None].requests >= 4)
    assert traffic[None].requests == 4
    assert traffic[None].errors == 0


@needs_nginx
@pytest.mark.parametrize("good", [True, False])
def test_a_release_by_canary(server: Live, tmp_path: Path, *, good: bool) -> None:
    """Each step is judged by the real traffic: a candidate that the gate let pass fails there, and goes back.

    Callers are answered all the time, by one version or the other.
    """
    name = "stepped" if good else "stumbles"
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, verify(candidate(tmp_path, name, "1.0")), UNJUDGED).outcome == "promoted"
    upstream = server.inference.address.removeprefix("http://")
    both = (upstream, "127.0.0.1:9")  # which is down, and stays an upstream of nginx
    running = Nginx(tmp_path, Canary(name, "2.0", 0, None, both, tmp_path / "unset.log"))
    options = replace(
        UNJUDGED,
        promote_inconclusive=False,
        samples=24,
        # At 100 % it is compared with what the default did before, when the machine may have been idler.
        max_slowdown=20.0 if good else 2.5,
        canary=(20, 100),
        canary_seconds=1.0,
        nginx=str(running.file),
        nginx_reload=running.reload_command,
        nginx_listen=running.canary.listen,
        access_log=str(running.canary.access_log),
    )
    # Golden requests are short; what callers ask takes the bad candidate long.
    act = "pass" if good else "asked.get('sleep') is not None and time.sleep(0.1)"
    load = Load(running.address, server, lambda answer: told_by(answer.json())["version"])
    try:
        with load.of(name, {"key": "a", "sleep": 0}, keys=50):
            result = release(fleet, verify(candidate(tmp_path, name, "2.0", act=act)), options)
    finally:
        running.stop()
    assert load.failed == []
    assert load.answered["1.0"] > 20
    assert load.answered["2.0"] > 5
    if good:
        assert result.outcome == "promoted", result.reason
    else:
        assert result.outcome == "failed", result.reason
        assert "canary 20" in result.reason
    assert ask(server, name)["version"] == ("2.0" if good else "1.0")
    text = running.file.read_text()
    assert "0 % of" in text, "all to the default version again"
    left = described(text)
    assert left is not None
    assert left.upstreams == both
