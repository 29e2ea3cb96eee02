"""The server in memory of the unit tests is a TorchServe: the same acts come to the same there and here."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from torchmar.client import ModelVersion, Server, total
from torchmar.errors import (
    AlreadyRegistered,
    ArchiveNotInStore,
    BadAnswer,
    IsDefaultVersion,
    ModelNotFound,
    NoWorker,
    WorkersNotReady,
)

from ..fake_server import NAME, Fake, as_server
from .servers import Live, make_stranger

HANDLER = """
def handle(data, context):
    return None if data is None else [context.manifest["model"]["modelVersion"]] * len(data)
"""
# What a version in memory has.
CONFIG = {
    "batchSize": 8,
    "maxBatchDelay": 500,
    "responseTimeout": 10,
    "startupTimeout": 60,
    "jobQueueSize": 100,
}
_names = (f"m{number}" for number in itertools.count())


class Site:
    """A server and a model that it does not know yet. Its archive 2.5 wants two workers."""

    def __init__(self, server: Server, model: str) -> None:
        self.server = server
        self.model = model
        self.management = server.management

    def register(self, number: str, workers: int = 0) -> None:
        self.management.register(f"{self.model}-{number}.mar", initial_workers=workers)

    def served(self) -> tuple[str, list[str]]:
        """The default version, and all of them; in what order they come means nothing in TorchServe."""
        versions = [one.version for one in self.management.versions(self.model)]
        return self.management.default_version(self.model), sorted(versions)

    def ready(self, number: str, workers: int) -> ModelVersion:
        return self.management.wait_until_ready(self.model, number, workers=workers)

    def predict(self, number: str | None = None) -> bytes:
        return self.server.inference.predict(self.model, b"x", version=number).content

    def counted(self, name: str, number: str = "default") -> float:
        asked = {"model_name": self.model, "model_version": number}
        return total(self.server.metrics.samples(), name, asked)


@pytest.fixture(params=["fake", "live"])
def site(request: pytest.FixtureRequest) -> Site:
    model = next(_names)
    if request.param == "fake":
        return Site(as_server(Fake(model=model, min_workers={"2.5": 2})), model)
    live: Live = request.getfixturevalue("server")
    for number in ("1.0", "2.0", "2.5"):
        config = {**CONFIG, **({"minWorkers": 2, "maxWorkers": 2} if number == "2.5" else {})}
        make_stranger(live.store, model, HANDLER, version=number, config=config)
    return Site(live.clients, model)


def until(condition: Callable[[], bool]) -> None:
    """Wait for it; a condition that never comes true fails the test."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline


ACTS: dict[str, Callable[[Site, str], object]] = {
    "describe": lambda site, number: site.management.describe(site.model, number),
    "scale": lambda site, number: site.management.scale(site.model, 1, number),
    "set-default": lambda site, number: site.management.set_default(site.model, number),
    "unregister": lambda site, number: site.management.unregister(site.model, number),
    "predict": lambda site, number: site.predict(number),
    "take-away": lambda site, number: site.management.take_away(site.model, number),
    "ready": lambda site, number: site.ready(number, 1),
}


def refused(kind: type[BadAnswer], act: Callable[[], object]) -> int:
    """The status of what was refused so."""
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    return caught.value.status


@pytest.mark.parametrize("act", ACTS)
def test_nothing_is_done_to_a_version_that_is_not_there(site: Site, act: str) -> None:
    """Neither where the model is not known, nor where it has others."""
    assert refused(ModelNotFound, lambda: ACTS[act](site, "9.9")) == 404
    site.register("1.0")
    assert refused(ModelNotFound, lambda: ACTS[act](site, "9.9")) == 404
    assert site.served() == ("1.0", ["1.0"])


def test_a_model_that_nobody_has_registered(site: Site) -> None:
    assert site.model not in [one.name for one in site.management.models()]
    for act in (
        site.served,
        site.predict,
        lambda: site.management.describe(site.model),
        lambda: site.management.versions(site.model),
        lambda: site.management.scale(site.model, 1),
        lambda: site.management.unregister(site.model),
    ):
        assert refused(ModelNotFound, act) == 404


def test_an_archive_that_is_not_in_the_store(site: Site) -> None:
    assert refused(ArchiveNotInStore, lambda: site.management.register("nothing-1.0.mar")) == 404


def test_the_first_that_is_registered_is_the_default(site: Site) -> None:
    """And stays it, whatever comes after."""
    site.register("2.0")
    assert site.served() == ("2.0", ["2.0"])
    site.register("1.0")
    assert site.served() == ("2.0", ["1.0", "2.0"])
    [entry] = [one for one in site.management.models() if one.name == site.model]
    assert entry.archive == f"{site.model}-2.0.mar"


def test_what_is_registered_already_is_not_registered_again(site: Site) -> None:
    site.register("1.0")
    site.management.scale(site.model, 0, "1.0")
    assert refused(AlreadyRegistered, lambda: site.register("1.0", 1)) == 409
    assert site.management.describe(site.model, "1.0").min_workers == 0


def test_what_is_described_is_what_the_archive_says(site: Site) -> None:
    """All of it, and of both versions: the fields that differ are those of processes."""
    site.register("1.0")
    expected = Fake(model=site.model)
    expected.register(f"{site.model}-1.0.mar", initial_workers=0)
    [described] = site.management.versions(site.model)
    assert replace(described, raw={}) == expected.describe(site.model, "1.0")
    assert site.management.describe(site.model) == described


def test_a_call_settles_the_batches_and_an_archive_the_timeouts(site: Site) -> None:
    """Where both say something."""
    site.management.register(
        f"{site.model}-1.0.mar",
        initial_workers=0,
        batch_size=3,
        max_batch_delay=12,
        response_timeout=7,
        startup_timeout=33,
    )
    found = site.management.describe(site.model)
    assert (found.batch_size, found.max_batch_delay) == (3, 12)
    assert (found.response_timeout, found.startup_timeout) == (10, 60)


def test_the_default_can_be_any_version_and_the_same_again(site: Site) -> None:
    """TorchServe does not look whether it has workers."""
    site.register("1.0")
    site.register("2.0")
    for number in ("2.0", "2.0", "1.0"):
        site.management.set_default(site.model, number)
        assert site.served() == (number, ["1.0", "2.0"])
        assert site.management.describe(site.model).version == number


def test_the_default_is_not_unregistered_while_there_are_others(site: Site) -> None:
    """Said by its number, or by none; every other can be."""
    site.register("1.0")
    site.register("2.0")
    for act in (
        lambda: site.management.unregister(site.model, "1.0"),
        lambda: site.management.unregister(site.model),
        lambda: site.management.take_away(site.model, "1.0"),
    ):
        assert refused(IsDefaultVersion, act) == 403
    assert site.served() == ("1.0", ["1.0", "2.0"])
    site.management.unregister(site.model, "2.0")
    site.management.wait_until_gone(site.model, "2.0")
    assert site.served() == ("1.0", ["1.0"])
    assert refused(ModelNotFound, lambda: site.management.unregister(site.model, "2.0")) == 404


@pytest.mark.parametrize("number", ["1.0", None])
def test_when_all_are_gone_the_next_is_the_default(site: Site, number: str | None) -> None:
    site.register("1.0")
    site.management.unregister(site.model, number)
    site.management.wait_until_gone(site.model, "1.0")
    assert site.model not in [one.name for one in site.management.models()]
    assert refused(ModelNotFound, lambda: site.management.describe(site.model)) == 404
    site.register("2.0")
    assert site.served() == ("2.0", ["2.0"])


def test_what_was_taken_away_can_come_back(site: Site) -> None:
    site.register("1.0")
    site.register("2.0")
    site.management.take_away(site.model, "2.0")
    site.register("2.0")
    assert site.served() == ("1.0", ["1.0", "2.0"])


def test_the_newest_workers_end_and_others_start_beside_those_that_are_there(site: Site) -> None:
    """What was asked for is described at once, READY or not; and 0 are as good as any."""
    site.register("1.0", 1)
    [first] = site.ready("1.0", 1).workers
    site.management.scale(site.model, 2, "1.0")
    described = site.management.describe(site.model, "1.0")
    assert (described.min_workers, described.max_workers) == (2, 2)
    both = site.ready("1.0", 2)
    assert [both.workers[0].id, both.workers[0].pid] == [first.id, first.pid]
    assert len({(one.id, one.pid) for one in both.workers}) == both.ready_workers == 2
    assert len({one.pid for one in both.workers}) == 2
    site.management.scale(site.model, 1)  # the default one
    assert [one.id for one in site.ready("1.0", 1).workers] == [first.id]
    site.management.scale(site.model, 0, "1.0")
    idle = site.ready("1.0", 0)
    assert (idle.workers, idle.min_workers, idle.max_workers) == ((), 0, 0)
    with pytest.raises(WorkersNotReady):
        site.management.wait_until_ready(site.model, "1.0", workers=1, timeout=0)


def test_the_workers_of_an_archive_win_over_those_of_the_call(site: Site) -> None:
    """Until it is scaled: so many are brought up as are wanted."""
    site.register("2.5", 1)
    assert site.management.describe(site.model).min_workers == 2
    assert site.management.bring_up(f"{site.model}-2.5.mar", site.model, "2.5", 1).ready_workers == 1


def test_nobody_answers_for_a_version_without_workers(site: Site) -> None:
    """Each version answers for itself, and the default for who names none; who asked is counted."""
    site.register("1.0", 1)
    site.register("2.0")
    site.ready("1.0", 1)
    assert (site.predict(), site.predict("1.0")) == (b"1.0", b"1.0")
    assert refused(NoWorker, lambda: site.predict("2.0")) == 503
    assert refused(ModelNotFound, lambda: site.predict("9.9")) == 404
    site.management.set_default(site.model, "2.0")
    assert refused(NoWorker, site.predict) == 503
    described = site.management.describe(site.model)
    assert (described.queue.pending_requests, described.queue.remaining_capacity) == (0, 100)
    expected = {"1.0": 1, "2.0": 1, "default": 2, "9.9": 0}
    until(lambda: {number: site.counted(NAME, number) for number in expected} == expected)
    times = ("ts_queue_latency_microseconds", "ts_inference_latency_microseconds")
    until(lambda: all(site.counted(name, number) > 0 for name in times for number in ("1.0", "default")))
    assert [site.counted(name, "2.0") for name in times] == [0, 0]


def test_what_is_counted_outlives_the_version(site: Site) -> None:
    """A version that comes back counts on from where it was."""
    site.register("1.0")
    assert NAME in site.server.metrics.text()
    assert site.counted(NAME, "1.0") == 0
    refused(NoWorker, lambda: site.predict("1.0"))
    site.management.take_away(site.model, "1.0")
    site.register("1.0")
    refused(NoWorker, lambda: site.predict("1.0"))
    until(lambda: site.counted(NAME, "1.0") == 2)


def test_the_answers_to_a_client_are_counted_at_both_ends(site: Site) -> None:
    """All of a server's answers are to us here."""
    site.register("1.0", 1)
    site.ready("1.0", 1)

    def answers() -> list[float]:
        own = site.server.answers
        samples = site.server.metrics.samples()
        return [total(samples, f"Requests{kind}XX") - own[kind] for kind in (4, 5)]

    assert site.predict() == b"1.0"
    before = answers()
    refused(ModelNotFound, lambda: site.predict("9.9"))
    site.management.scale(site.model, 0)
    site.ready("1.0", 0)
    refused(NoWorker, site.predict)
    until(lambda: answers() == before)


def test_it_says_that_it_is_healthy(site: Site) -> None:
    assert site.server.inference.ping()
