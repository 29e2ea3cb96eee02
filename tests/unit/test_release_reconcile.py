"""Reconcile and retire: what is meant to be served is, and what is not is taken away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from torchmar.client import ModelVersion, Sample
from torchmar.errors import ReleaseError, TimedOut, WorkersNotReady
from torchmar.manage import journaled_change
from torchmar.release import PartlyReconciled, history, reconcile, resume, retire, status

from .servers_in_memory import (
    NAME,
    QUICK,
    Clock,
    Fake,
    FleetOf,
    released,
    served_version,
    serving,
    unfinished,
    version,
    worker,
    write,
)


def test_one_version_that_is_lost_keeps_no_other_from_being_served(fleet_of: FleetOf) -> None:
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.forget()
    fake.missing = ("m-2.0.mar",)
    with pytest.raises(ReleaseError, match=r"1.0: registered, 1 READY now\):\n  m 2.0: .*m-2.0.mar"):
        reconcile(fleet, "m")
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])
    fake.missing = ()
    assert reconcile(fleet, "m")[0].acts == (
        "2.0: registered, 1 READY now",
        "default set to 2.0, it was 1.0",
    )


def test_reconcile_makes_no_dead_version_the_default(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody went back to a version that answers; what is meant is told, and is done where none answers."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.all["2.0"], fake.default = version("2.0", workers=(worker(ready=False),)), "1.0"

    def never(*_: Any, **__: Any) -> None:
        raise WorkersNotReady("m 2.0: 0 of 1 workers are READY after 120 s")

    monkeypatch.setattr(fake, "wait_until_ready", never)
    with pytest.raises(ReleaseError, match=r"so 1.0, which has, stays .* `torchmar repair m --version 2.0`"):
        reconcile(fleet, "m")
    assert fake.default == "1.0"
    fake.all["1.0"] = version("1.0", workers=(worker(ready=False),))
    with pytest.raises(ReleaseError, match=r"default set to 2\.0, it was 1\.0"):
        reconcile(fleet, "m")
    assert fake.default == "2.0"


@pytest.mark.parametrize(("startup", "waits"), [(60, 120.0), (900, 900.0)])
def test_reconcile_waits_for_a_model_that_loads_for_long(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch, startup: int, waits: float
) -> None:
    """As long as its archive has TorchServe wait for it: startupTimeout."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0")
    fake.all["1.0"] = replace(version("1.0", workers=(worker(ready=False),)), startup_timeout=startup)
    waited: list[float] = []

    def wait(*_: Any, timeout: float, **__: Any) -> ModelVersion:
        waited.append(timeout)
        return version("1.0")

    monkeypatch.setattr(fake, "wait_until_ready", wait)
    reconcile(fleet, "m")
    assert waited == [waits]


def test_reconcile_waits_for_a_server_that_unpacks_for_long(fleet_of: FleetOf) -> None:
    """It was silent and goes on; and what it is to have is as it was."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0")
    asked: list[Any] = []
    fake.forget()

    def register(*_: Any, **more: Any) -> None:
        asked.append((more["batch_size"], more["response_timeout"]))
        raise TimedOut("POST /models: no answer within 30 s")

    def sleep(passing: float) -> None:
        cast("Clock", fleet.clock).sleep(passing)
        if fleet.clock() > 40:
            fake.all["1.0"], fake.default = version("1.0"), "1.0"

    fake.register = register  # type: ignore[method-assign]
    assert reconcile(replace(fleet, sleep=sleep), "m")[0].acts == ("1.0: registered, 1 READY now",)
    known = version("1.0")
    assert asked == [(known.batch_size, known.response_timeout)]


def test_reconcile_ends_no_worker(fleet_of: FleetOf) -> None:
    """Somebody gave it more since: what they have in hand would be lost."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0")
    fake.scale("m", 3, "1.0")
    assert reconcile(fleet, "m")[0].acts == ()
    assert len(fake.all["1.0"].workers) == 3


def test_a_journal_of_other_servers(fleet_of: FleetOf) -> None:
    released(fleet_of(serving("1.0", "1.0", name="a")), "1.0")
    with pytest.raises(ReleaseError, match="the journal speaks of a, and not of local: give --hosts"):
        reconcile(fleet_of(serving("1.0", "1.0")), "m")


def test_to_retire_goes_on_where_it_was_interrupted(fleet_of: FleetOf) -> None:
    """Killed after the first of two servers, and before that was journaled."""
    a, b = (serving("2.0", "1.0", "2.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    released(fleet, "2.0")
    write(fleet, kind="retire", number="1.0")
    del a.all["1.0"]
    retire(fleet, "m", "1.0", QUICK)
    assert (list(a.all), list(b.all)) == (["2.0"], ["2.0"])
    assert all(one.get("1.0") is None for one in history(fleet.journal("m")).served.values())
    with pytest.raises(ReleaseError, match="not registered"):
        retire(fleet, "m", "1.0", QUICK)


def test_only_those_that_serve_it_retire_a_version(fleet_of: FleetOf) -> None:
    """A server that was added later never had it."""
    a, b = serving("2.0", "1.0", "2.0", name="a"), serving("2.0", "2.0", name="b")
    fleet = fleet_of(a, b)
    released(fleet, "2.0")
    assert [one.host for one in retire(fleet, "m", "1.0", QUICK)] == ["a"]
    assert list(a.all) == ["2.0"]


def test_what_cannot_be_seen_is_not_retired_unless_told(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without metrics somebody might ask for it by its number, and lose what he asks for."""
    fake = serving("2.0", "1.0", "2.0")
    monkeypatch.setattr(Fake, "text", lambda _: "")
    fleet = fleet_of(fake)
    with pytest.raises(ReleaseError, match="--pinned-unseen"):
        retire(fleet, "m", "1.0", QUICK)
    assert "1.0" in fake.all
    [done] = retire(fleet, "m", "1.0", replace(QUICK, pinned_unseen=True))
    assert (done.pinned_seen, list(fake.all)) == (False, ["2.0"])


def test_what_was_refused_for_its_clients_is_not_called_interrupted(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = fleet_of(serving("2.0", "1.0", "2.0"))
    released(fleet, "2.0")
    counted = iter(range(10**6))
    pinned = {"model_name": "m", "model_version": "1.0"}
    monkeypatch.setattr(Fake, "samples", lambda _: [Sample(NAME, pinned, next(counted))])
    with pytest.raises(ReleaseError, match="clients still ask for it by name"):
        retire(fleet, "m", "1.0", QUICK)
    serves = {"local": {"m": served_version("2.0")}}
    assert [(one.outcome, one.to_do) for one in status(fleet.folder, serves)] == [("failed", "")]
    write(fleet, kind="retire", number="1.0")
    assert status(fleet.folder, serves)[0].to_do.startswith("torchmar retire m 1.0 again")


def test_what_another_server_serves_stays_in_the_store_of_both(fleet_of: FleetOf, tmp_path: Path) -> None:
    a, b = serving("3.0", "1.0", "3.0", name="a"), serving("3.0", "2.0", "3.0", name="b")
    fleet = fleet_of(a, b)
    fleet = replace(fleet, hosts=tuple(replace(host, store=tmp_path) for host in fleet.hosts))
    for number in ("1.0", "2.0", "3.0"):
        write(fleet, number=number).write("finished", outcome="promoted")
        (tmp_path / f"m-{number}.mar").touch()
    assert [one.removed for one in retire(fleet, "m", "1.0", QUICK, keep=1)] == [("m-1.0.mar",)]
    assert (tmp_path / "m-2.0.mar").exists()


def test_what_failed_is_not_among_the_archives_to_keep(fleet_of: FleetOf, tmp_path: Path) -> None:
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    fleet = replace(fleet, hosts=(replace(fleet.hosts[0], store=tmp_path),))
    released(fleet, "0.9", "1.0", "2.0")
    for number in ("3.0", "4.0"):
        write(fleet, number=number).write("finished", outcome="failed")
    for number in ("0.9", "1.0", "2.0"):
        (tmp_path / f"m-{number}.mar").touch()
    retire(fleet, "m", "0.9", QUICK)
    [done] = retire(fleet, "m", "1.0", QUICK, keep=2)
    assert done.removed == ("m-0.9.mar",)
    assert (tmp_path / "m-1.0.mar").exists()


@pytest.mark.parametrize(("listed", "brought"), [(2, 2), (0, 0)])
def test_workers_that_were_starting_again_are_meant(fleet_of: FleetOf, listed: int, brought: int) -> None:
    """All of them had died just when it was noted what is served; it was never scaled to none."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    fake.all["1.0"] = version("1.0", workers=(worker(1), worker(2)))
    released(fleet, "2.0")
    fake.all["1.0"] = version("1.0", workers=tuple(worker(number, ready=False) for number in range(listed)))
    with journaled_change(fleet, "m", "scale"):
        pass
    fake.forget()
    reconcile(fleet, "m")
    assert len(fake.all["1.0"].workers) == brought


def test_what_can_be_reached_is_brought_back(fleet_of: FleetOf) -> None:
    """One server is off: the others are served, and it is told."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    released(fleet_of(a, b), "1.0")
    a.forget()
    fleet = replace(fleet_of(a), missing={"b": "nothing was started in /srv/b", "c": "not asked for"})
    with pytest.raises(PartlyReconciled, match=r"^b: nothing was started in /srv/b$") as raised:
        reconcile(fleet, "m")
    assert [one.host for one in raised.value.done] == ["a"]
    assert a.default == "1.0"
    unfinished(fleet_of(a, b), "register")
    with pytest.raises(ReleaseError, match=r"without all of .*\n  b: nothing was started .*\n.*undoes"):
        resume(fleet, "m")
