"""The gate against a real server: under the load of others, and after every worker was warmed up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchmar import mar
from torchmar.client import connect
from torchmar.errors import ClientError
from torchmar.measure.replay import warm_up
from torchmar.release import observe, release

from .candidates import QUICK, candidate, fleet_of, host_of
from .servers import Live

CLIENTS = 8


# Beside eight clients a processor is seldom free: the slowest of a hundred answers say little of a version.
OPTIONS = {
    "failed": QUICK,
    "promoted": replace(QUICK, max_slowdown=4.0),
}


@contextmanager
def load(live: Live, model: str, **asked: Any) -> Iterator[list[str]]:
    """So many clients that ask for the default version without a pause; how they failed.

    They are others than the release's own, whose answers it knows to be no traffic.
    """
    stop, failed = threading.Event(), []
    others = connect(inference=live.inference.address, key_file=live.running.key_file)

    def go_on() -> None:
        while not stop.is_set():
            try:
                others.inference.predict(model, {"key": "a", **asked})
            except ClientError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=go_on) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield failed
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        others.close()


@pytest.mark.parametrize(("seconds", "outcome"), [(0.06, "failed"), (0.02, "promoted")])
def test_under_load(server: Live, tmp_path: Path, seconds: float, outcome: str) -> None:
    """Golden requests to the default wait behind eight clients, which hides nothing: three times slower is
    seen, and about as fast passes.
    """
    name = f"loaded_{outcome}"
    fleet = fleet_of(server, tmp_path / "releases")
    first = mar.verify(candidate(tmp_path, name, "1.0", seconds=0.02))
    assert release(fleet, first, QUICK).outcome == "promoted"
    second = mar.verify(candidate(tmp_path, name, "2.0", seconds=seconds))
    with load(server, name) as failed:
        result = release(fleet, second, OPTIONS[outcome])
    assert (result.outcome, failed) == (outcome, []), result.reason
    assert ("p50" in result.reason) is (outcome == "failed")
    waited = [sample.waited for sample in result.samples["local"][0]]
    assert min(one for one in waited if one is not None) > seconds, "the load was there"


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("asked.get('real') and 1 / 0", "requests failed"),
        ("asked.get('real') and time.sleep(0.05)", "ms before"),
    ],
)
def test_what_only_real_requests_meet_is_seen_by_the_watch(
    server: Live, tmp_path: Path, act: str, said: str
) -> None:
    """The golden requests are answered as ever; the old version comes back."""
    name = f"real_{said.split(maxsplit=1)[0]}"
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, name, "1.0")), QUICK).outcome == "promoted"
    second = mar.verify(candidate(tmp_path, name, "2.0", act=act))
    options = replace(QUICK, gate_seconds=2.0, promote_inconclusive=True, watch=3.0)
    with load(server, name, real=True):
        result = release(fleet, second, options)
    assert result.outcome == "failed"
    assert "did not pass the watch" in result.reason
    assert said in result.reason
    assert result.is_put_back
    assert [one.version for one in observe(server.clients, name).versions] == ["1.0"]


def test_what_waited_for_an_unknown_time_is_not_judged(server: Live, tmp_path: Path) -> None:
    """Without metrics it is not known what the default takes: not promoted."""
    name = "blind"
    fleet = fleet_of(server, tmp_path / "releases")
    archives = [mar.verify(candidate(tmp_path, name, v, seconds=0.02)) for v in ("1.0", "2.0")]
    assert release(fleet, archives[0], QUICK).outcome == "promoted"
    running = server.running
    with (
        connect(
            inference=running.config.inference,
            management=running.config.management,
            key_file=running.key_file,
        ) as clients,
        load(server, name) as failed,
    ):
        host = replace(host_of(server), server=clients)
        result = release(replace(fleet, hosts=(host,)), archives[1], replace(QUICK, gate_seconds=2.0))
    assert (result.outcome, failed) == ("inconclusive", []), result.reason
    assert "met real traffic" in result.reason
    assert observe(server.clients, name).default == "1.0"


def test_batches_that_real_traffic_is_in(server: Live, tmp_path: Path) -> None:
    """Nothing tells what one request takes there: not promoted, and why is told."""
    fleet = fleet_of(server, tmp_path / "releases")
    config = {"batchSize": 2, "maxBatchDelay": 2}
    archives = [
        mar.verify(candidate(tmp_path, "shared", number, seconds=0.02, config=config))
        for number in ("1.0", "2.0")
    ]
    assert release(fleet, archives[0], QUICK).outcome == "promoted"
    with load(server, "shared") as failed:
        result = release(fleet, archives[1], replace(QUICK, gate_seconds=2.0))
    assert (result.outcome, failed) == ("inconclusive", []), result.reason
    assert "met real traffic" in result.reason


def test_batches_are_judged_where_nobody_else_asks(server: Live, tmp_path: Path) -> None:
    """Each request is alone in its batch: all of their times are known, the wait for the batch included."""
    fleet = fleet_of(server, tmp_path / "releases")
    config = {"batchSize": 8, "maxBatchDelay": 5}
    for number in ("1.0", "2.0"):
        archive = mar.verify(candidate(tmp_path, "batched", number, config=config))
        result = release(fleet, archive, QUICK)
        assert result.outcome == "promoted", result.reason
    samples = [sample for both in result.samples["local"] for sample in both]
    assert all(sample.waited is not None for sample in samples)


@pytest.mark.parametrize(("workers", "batch"), [(3, 1), (4, 8)])
def test_every_worker_is_warmed_up(server: Live, tmp_path: Path, workers: int, batch: int) -> None:
    """Each of them has answered, also where one of them takes several requests at once."""
    name, pids = f"warm_{batch}", tmp_path / "pids"
    act = f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n')"
    config = {"minWorkers": workers, "maxWorkers": workers, "batchSize": batch, "maxBatchDelay": 50}
    path = candidate(tmp_path, name, "1.0", seconds=0.0, act=act, config=config)
    server.serve(server.put(path))
    sent = warm_up(server.clients, name, "1.0", mar.golden_requests(mar.read(path)), 10.0)
    assert all(sample.ok for sample in sent)
    listed = {worker.pid for worker in server.management.describe(name).workers}
    assert {int(line) for line in pids.read_text().split()} == listed
    assert len(listed) == workers
