"""Rollback: the version before is the default again, on all that can be reached."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from torchmar.errors import ReleaseError, WorkersNotReady
from torchmar.release import Entry, history, reconcile, retire, rollback, status
from torchmar.release import _rollback as rollback_module

from .servers_in_memory import (
    QUICK,
    Fake,
    FleetOf,
    note_served,
    released,
    served_version,
    serving,
    unfinished,
    version,
    worker,
    write,
)


def test_a_rollback_that_was_interrupted_goes_on(fleet_of: FleetOf) -> None:
    """Killed after one of two servers: again goes to the same version on both."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    released(fleet, "1.0", "2.0")
    b.is_down = True
    with pytest.raises(ReleaseError, match=r"b did not go back to 1.0: .*\n  `torchmar rollback m` again"):
        rollback(fleet, "m")
    assert (a.default, history(fleet.journal("m")).served["a"].default) == ("1.0", "1.0")
    b.is_down = False
    assert rollback(fleet, "m").default == "1.0"
    assert (a.default, b.default) == ("1.0", "1.0")
    with pytest.raises(ReleaseError, match="--to"):
        rollback(fleet, "m")


def test_what_a_rollback_was_leaving_is_not_brought_back(fleet_of: FleetOf) -> None:
    """Killed between the switch and its note: neither `status` nor `reconcile` leads to the bad version."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    writer = write(fleet, kind="rollback", number="1.0", targets={"local": "1.0"})
    writer.write("begin", "local", "back")
    fake.default = "1.0"
    assert (
        status(fleet.folder, {"local": {"m": served_version("1.0")}})[0].to_do
        == "torchmar rollback m again: it was interrupted"
    )
    reconcile(fleet, "m")
    assert fake.default == "1.0"


def test_what_is_unfinished_is_to_be_finished(fleet_of: FleetOf) -> None:
    """Killed between the switch and its note; only where nothing is served, that is to be brought back."""
    fleet = fleet_of(serving("1.0", "1.0"))
    unfinished(fleet, "register", "default")
    assert "torchmar resume m" in status(fleet.folder, {"local": {"m": served_version("2.0")}})[0].to_do
    assert "torchmar reconcile m" in status(fleet.folder, {"local": {}})[0].to_do


@pytest.mark.parametrize("between", ["reconcile", "retire", "a release that failed"])
def test_what_was_left_is_no_way_back(fleet_of: FleetOf, between: str) -> None:
    """Back from 2.0, which was bad: whatever comes then, a rollback does not lead to it again."""
    fake = serving("0.9", "0.9")
    fleet = fleet_of(fake)
    released(fleet, "0.9", "1.0", "2.0")
    assert rollback(fleet, "m").default == "1.0"
    if between == "reconcile":
        reconcile(fleet, "m")
    elif between == "retire":
        retire(fleet, "m", "0.9", QUICK)
    else:
        unfinished(fleet, "register", "default", number="3.0")
        assert rollback(fleet, "m").outcome == "undone"
    with pytest.raises(ReleaseError, match="--to"):
        rollback(fleet, "m")
    assert fake.default == "1.0"
    assert history(fleet.journal("m")).defaults["local"] == ("0.9", "1.0")


def test_one_that_is_dead_keeps_no_other_from_being_put_back(fleet_of: FleetOf) -> None:
    """It is not even there to be asked; and the rest is undone when it is."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    unfinished(fleet, "register", "default")
    for fake in (a, b):
        fake.all["2.0"], fake.default = version("2.0"), "2.0"
    without = replace(fleet, hosts=fleet.hosts[:1], missing={"b": "no server runs in /srv/b"})
    with pytest.raises(ReleaseError, match="b could not be put back: no server runs in /srv/b"):
        rollback(without, "m")
    assert (a.default, list(a.all), b.default) == ("1.0", ["1.0"], "2.0")
    assert rollback(fleet, "m").outcome == "undone"
    assert (b.default, list(b.all)) == ("1.0", ["1.0"])


def test_one_that_is_dead_and_was_not_touched_is_not_missed(fleet_of: FleetOf) -> None:
    """A release to one after another had not come to it yet."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    write(fleet).write("begin", "a", "register")
    without = replace(fleet, hosts=fleet.hosts[:1], missing={"b": "no server runs in /srv/b"})
    assert rollback(without, "m").outcome == "undone"


def test_one_that_is_dead_is_rolled_back_later(fleet_of: FleetOf) -> None:
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    released(fleet, "1.0", "2.0")
    without = replace(fleet, hosts=fleet.hosts[:1], missing={"b": "no server runs in /srv/b"})
    with pytest.raises(ReleaseError, match=r"b did not go back to 1\.0: no server runs in /srv/b"):
        rollback(without, "m")
    assert (a.default, b.default) == ("1.0", "2.0")
    assert rollback(fleet, "m").default == "1.0"
    assert b.default == "1.0"


def test_one_that_is_silent_delays_no_other(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call is answered only when the other one is back."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    released(fleet, "1.0", "2.0")
    is_back, set_default = threading.Event(), b.set_default

    def silent(*_: Any) -> None:
        assert is_back.wait(30)

    def told(name: str, number: str) -> None:
        set_default(name, number)
        is_back.set()

    monkeypatch.setattr(a, "set_default", silent)
    monkeypatch.setattr(b, "set_default", told)
    assert rollback(fleet, "m").outcome == "rolled back"


def test_one_that_was_added_since_is_left_as_it_is(fleet_of: FleetOf) -> None:
    """It has no version before; the others go back, and it is said."""
    a, b = serving("1.0", "1.0", name="a"), serving("2.0", "2.0", name="b")
    released(fleet_of(a), "1.0")
    released(fleet_of(a, b), "2.0")
    back = rollback(fleet_of(a, b), "m")
    assert (a.default, b.default) == ("1.0", "2.0")
    assert back.note == "b: nothing was the default before, so it is left as it is"


def test_one_that_was_added_since_and_is_dead_is_not_asked(fleet_of: FleetOf) -> None:
    """Nor is it an error that one which has gone back cannot tell its workers a moment later."""
    a, b = serving("1.0", "1.0", name="a"), Fake("b", is_down=True)
    released(fleet_of(a), "1.0", "2.0")
    assert rollback(fleet_of(a, b), "m").outcome == "rolled back"
    released(fleet_of(a), "3.0")

    def die(entry: Entry) -> None:
        a.is_down = entry.event == "finished"

    back = rollback(replace(fleet_of(a), on_entry=die), "m")
    assert (back.outcome, a.default) == ("rolled back", "1.0")
    assert back.note == "a: how many workers it has is unknown: a: nothing listens there"


def test_a_first_version_that_failed_is_no_way_back(fleet_of: FleetOf) -> None:
    """It was the default for as long as it was watched."""
    fake = Fake()
    fleet = fleet_of(fake)
    writer = write(fleet, number="1.0")
    for step in ("register", "default", "watch"):
        writer.write("begin", "local", step)
    fake.register("m-1.0.mar", initial_workers=1)
    note_served(writer, fleet.hosts[0])
    writer.write("failed", "local", "watch", reason="slow")
    assert rollback(fleet, "m").outcome == "undone"
    released(fleet, "1.1")
    with pytest.raises(ReleaseError, match="the journal knows no earlier default version on local"):
        rollback(fleet, "m")
    released(fleet, "1.2")
    assert rollback(fleet, "m").default == "1.1"


def test_a_rollback_after_retire(fleet_of: FleetOf) -> None:
    """The archive is in the store still, and the journal knows how it was served."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    retire(fleet, "m", "1.0", QUICK)
    assert list(fake.all) == ["2.0"]
    assert rollback(fleet, "m").default == "1.0"
    assert fake.default == "1.0"


@pytest.mark.parametrize("raised", [BrokenPipeError, SystemExit])
def test_nobody_who_reads_keeps_no_server_from_going_back(fleet_of: FleetOf, raised: type) -> None:
    """`torchmar rollback m --hosts h | head -1`: what is told cannot be written, and all go back."""
    fakes = [serving("1.0", "1.0", name=name) for name in "abc"]
    fleet = fleet_of(*fakes)
    released(fleet, "1.0", "2.0")

    def tell(_entry: Any) -> None:
        raise raised

    assert rollback(replace(fleet, on_entry=tell), "m").outcome == "rolled back"
    assert {one.default for one in fakes} == {"1.0"}


def test_a_default_that_was_set_past_the_journal_is_asked_about(fleet_of: FleetOf) -> None:
    """By curl: whether it is that one or the one that the journal knows which is bad, nobody knows here."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    released(fleet, "1.0", "2.0")
    b.all["3.0"], b.default = version("3.0"), "3.0"
    before = fleet.journal("m").entries()
    with pytest.raises(ReleaseError, match=r"3.0 is the default of b, .* 2.0\n.*`--to 1.0` or `--to 2.0`"):
        rollback(fleet, "m")
    assert fleet.journal("m").entries() == before
    assert a.default == "2.0"
    assert rollback(fleet, "m", "2.0").default == "2.0"
    assert (a.default, b.default) == ("2.0", "2.0")


def test_one_that_does_not_say_what_its_default_is_delays_no_other(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    fleet = fleet_of(a, b)
    released(fleet, "1.0", "2.0")
    monkeypatch.setattr(rollback_module, "_LOOK_PATIENCE", 0.01)
    went_back = threading.Event()
    default_version, told = b.default_version, a.set_default

    def silent(name: str) -> str:
        assert went_back.wait(10)
        return default_version(name)

    def tell(name: str, number: str) -> None:
        told(name, number)
        went_back.set()

    monkeypatch.setattr(b, "default_version", silent)
    monkeypatch.setattr(a, "set_default", tell)
    assert rollback(fleet, "m").default == "1.0"
    assert (a.default, b.default) == ("1.0", "1.0")


def test_the_defaults_of_servers_that_differ_are_all_told(fleet_of: FleetOf) -> None:
    a, b = serving("1.0", "1.0", name="a"), serving("1.1", "1.1", name="b")
    fleet = fleet_of(a, b)
    write(fleet, kind="set-default")
    released(fleet, "2.0")
    assert rollback(fleet, "m").default == "1.0 on a, 1.1 on b"


def test_a_rollback_that_was_told_where_to_go_goes_on(fleet_of: FleetOf) -> None:
    """Also to a server of which the journal has never said what it serves."""
    a, b = (serving("2.0", "1.0", "2.0", name=name) for name in "ab")
    released(fleet_of(a), "2.0")
    b.is_down = True
    with pytest.raises(ReleaseError, match=r"b did not go back to 1\.0"):
        rollback(fleet_of(a, b), "m", "1.0")
    b.is_down = False
    assert rollback(fleet_of(a, b), "m").default == "1.0"
    assert (a.default, b.default) == ("1.0", "1.0")


def test_a_rollback_of_other_servers_is_not_done_here(fleet_of: FleetOf) -> None:
    """It was interrupted, and the same server has another name by its address."""
    fake = serving("1.0", "1.0", name="a")
    released(fleet_of(fake), "1.0", "2.0")
    fake.is_down = True
    with pytest.raises(ReleaseError, match="a did not go back"):
        rollback(fleet_of(fake), "m")
    other = replace(fake, name="http://a:8081", is_down=False)
    with pytest.raises(ReleaseError, match=r"a rollback of a was interrupted, .* and not of http://a:8081"):
        rollback(fleet_of(other), "m")
    assert other.default == "2.0"


def test_a_standby_is_no_default_of_somebody_else(fleet_of: FleetOf) -> None:
    """A scaling was killed while it answered."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.all["2.0-standby"], fake.default = version("2.0-standby"), "2.0-standby"
    assert rollback(fleet, "m").default == "1.0"


def test_what_cannot_start_does_not_become_the_default(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while all workers of the default are restarting: a moment later they answer again."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    for number in ("1.0", "2.0"):
        fake.all[number] = version(number, workers=(worker(ready=False),))

    def never(*_: object, **__: object) -> None:
        raise WorkersNotReady("m 1.0: 0 of 1 workers are READY after 120 s")

    monkeypatch.setattr(fake, "wait_until_ready", never)
    with pytest.raises(ReleaseError, match="0 of 1 workers are READY"):
        rollback(fleet, "m")
    assert fake.default == "2.0"
