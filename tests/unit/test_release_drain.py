"""Draining by a scripted server and a clock that only `sleep` moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from torchmar.client import ModelVersion, Server
from torchmar.errors import ClientError, ModelNotFound, ReleaseError
from torchmar.workers import WaitPolicy, drain, drain_and_unregister, find_dead

from .. import fake_server
from ..fake_server import NAME, as_server, version, worker


class Fake(fake_server.Fake):
    """A server with the versions 1.0 and 2.0, the default; what it says is a function of the time."""

    def __init__(
        self,
        described: Callable[[float], ModelVersion] = lambda _: version(),
        asked: Callable[[float], float | None] = lambda _: 0.0,
        default: Callable[[float], str] = lambda _: "2.0",
    ) -> None:
        super().__init__("local", "2.0", {number: version(number) for number in ("1.0", "2.0")})
        self.described, self.asked, self.default_at = described, asked, default

    @property
    def server(self) -> Server:
        return as_server(self)

    @property
    def now(self) -> float:
        return self.clock.now

    def describe(self, name: str, version: str | None = None, *, customized: bool = False) -> ModelVersion:
        super().describe(name, version, customized=customized)
        return self.described(self.now)

    def default_version(self, name: str) -> str:
        return self.default_at(self.now)

    def text(self) -> str:
        asked = self.asked(self.now)
        if asked is None:
            return ""
        self.requests = Counter({"1.0": int(asked), "default": int(self.now * 1000)})
        others = f'{NAME}{{model_name="other",model_version="1.0",hostname="h",}} {self.now * 1000}\n'
        return super().text() + others

    def pace(self, **changes: Any) -> WaitPolicy:
        return WaitPolicy(**{"clock": self.clock, "sleep": self.clock.sleep, **changes})


def test_waits_as_long_as_the_server_itself_would() -> None:
    """Unless told: the response timeout, and the time for which a batch is held open before."""
    fake = Fake()
    found = drain(fake.server, "m", "1.0", fake.pace())
    assert (found.longest, found.pinned_seen, found.archive_removed) == (10.5, True, False)
    assert 10.5 <= found.seconds < 11
    assert found.seconds == fake.now


def test_waits_less_where_the_longest_answer_is_known() -> None:
    """And yet looks several times, however short it is."""
    fake = Fake()
    assert 2 <= drain(fake.server, "m", "1.0", fake.pace(longest=2)).seconds < 2.5
    fake = Fake()
    assert 0.4 <= drain(fake.server, "m", "1.0", fake.pace(longest=0)).seconds < 1


def test_the_time_counts_from_the_last_that_was_seen() -> None:
    """A queue that was not empty at 3 s, and a client that asked by name at 5 s: 2 s after that."""
    fake = Fake(
        described=lambda now: version(pending=1 if now < 3 else 0), asked=lambda now: 7.0 if now < 5 else 8.0
    )
    assert 7 <= drain(fake.server, "m", "1.0", fake.pace(longest=2)).seconds < 7.5


def test_the_default_version_is_refused() -> None:
    """At once, or as soon as somebody makes it the default again."""
    for since in (0.0, 3.0):
        fake = Fake(default=lambda now, since=since: "1.0" if now >= since else "2.0")  # type: ignore[misc]
        with pytest.raises(ReleaseError, match="is the default version"):
            drain(fake.server, "m", "1.0", fake.pace())
        assert since <= fake.now < since + 0.5


def test_pinned_traffic_is_told_with_its_rate() -> None:
    """Who goes on asking for the version by name keeps it from being drained."""
    fake = Fake(asked=lambda now: 100 + now * 20)
    with pytest.raises(
        ReleaseError, match=r"20 requests a second to http://127\.0\.0\.1:8080/predictions/m/1\.0"
    ):
        drain(fake.server, "m", "1.0", fake.pace(timeout=5))
    assert 5 <= fake.now < 6


def test_a_queue_that_does_not_empty_is_told() -> None:
    """With the reason, as far as it can be told."""
    fake = Fake(described=lambda _: version(pending=3))
    with pytest.raises(ReleaseError, match="3 requests still wait in its queue"):
        drain(fake.server, "m", "1.0", fake.pace(timeout=5))
    fake = Fake(described=lambda _: version(pending=3, workers=(worker(ready=False),)))
    with pytest.raises(ReleaseError, match="no READY worker"):
        drain(fake.server, "m", "1.0", fake.pace(timeout=5))


def test_who_has_no_worker_has_nothing_in_hand() -> None:
    """There is nothing to wait for but a few looks at the queue."""
    for workers in ((), (worker(ready=False),)):
        fake = Fake(described=lambda _, workers=workers: version(workers=workers))  # type: ignore[misc]
        assert drain(fake.server, "m", "1.0", fake.pace()).seconds < 1


@pytest.mark.parametrize("silent", ["no address", "no metric"])
def test_metrics_that_do_not_tell(silent: str) -> None:
    """The result says that pinned traffic could not be seen; the time is waited all the same."""
    fake = Fake(asked=lambda _: None)
    if silent == "no address":
        fake.text = lambda: (_ for _ in ()).throw(ClientError("not given"))  # type: ignore[method-assign]
    found = drain(fake.server, "m", "1.0", fake.pace())
    assert not found.pinned_seen
    assert found.seconds >= 10.5


def test_retire_drains_then_unregisters() -> None:
    """In that order, and each step is told before it is taken."""
    fake = Fake()
    told = drain_and_unregister(
        fake.server, "m", "1.0", fake.pace(on_step=lambda name: fake.acts.append(f"[{name}]"))
    )
    assert told.seconds >= 10.5
    assert fake.acts == ["[drain]", "[unregister]", "unregister 1.0"]
    assert list(fake.all) == ["2.0"]


def test_nothing_is_unregistered_that_was_not_drained() -> None:
    """A version that is still asked for stays."""
    fake = Fake(asked=lambda now: now * 20)
    with pytest.raises(ReleaseError):
        drain_and_unregister(fake.server, "m", "1.0", fake.pace(timeout=1))
    assert fake.acts == []


def test_an_archive_that_goes_with_its_version_is_told() -> None:
    """TorchServe deletes what was registered by a URL."""
    fake = Fake(
        described=lambda _: ModelVersion(**{**vars(version()), "archive": "https://example.com/m.mar"})
    )
    assert drain(fake.server, "m", "1.0", fake.pace(longest=0)).archive_removed


def test_a_version_that_is_not_there() -> None:
    """Is the client's error."""

    def gone(_: float) -> ModelVersion:
        raise ModelNotFound("m 1.0: not registered", status=404)

    with pytest.raises(ModelNotFound):
        drain(Fake(described=gone).server, "m", "1.0")


def test_find_dead() -> None:
    """Who is not READY, and has no process where that can be told."""
    workers = (
        worker(0, pid=1),
        worker(1, ready=False, pid=2),
        worker(2, ready=False, pid=3),
        worker(3, ready=False, pid=-1),
    )
    described = version(workers=workers)
    assert [w.id for w in find_dead(described)] == ["9001", "9002", "9003"]
    assert [w.id for w in find_dead(described, lambda pid: pid == 2)] == ["9002", "9003"]
