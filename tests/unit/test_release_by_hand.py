"""What is changed by hand is journaled, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from torchmar.errors import ModelNotFound, ReleaseError, TimedOut
from torchmar.manage import journaled_change, set_default, unregister
from torchmar.release import Entry, history, reconcile, rollback, status

from .servers_in_memory import FleetOf, released, served_version, serving, unfinished


def test_what_fails_after_a_restart_is_not_what_is_meant(fleet_of: FleetOf) -> None:
    """The server knows nothing: that is no wish of whoever typed a command which therefore failed."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.forget()
    with pytest.raises(ModelNotFound), journaled_change(fleet, "m", "scale"):
        fake.describe("m")
    fake.register("m-1.0.mar", initial_workers=1)
    with journaled_change(fleet, "m", "scale"):
        fake.scale("m", 2, "1.0")
    reconcile(fleet, "m")
    assert (fake.default, sorted(fake.all)) == ("2.0", ["1.0", "2.0"])
    with journaled_change(fleet, "m", "set-default"):
        fake.set_default("m", "1.0")
    with journaled_change(fleet, "m", "unregister"):
        fake.unregister("m", "2.0")
    fake.forget()
    reconcile(fleet, "m")
    assert {number: one.ready_workers for number, one in fake.all.items()} == {"1.0": 2}


def test_steps_by_hand_are_journaled_before_they_are_taken(fleet_of: FleetOf) -> None:
    """Whoever finds a standby as the default finds why; and the one that failed is told as that."""
    fleet = fleet_of(serving("1.0", "1.0"))
    released(fleet, "1.0")

    def steps() -> list[tuple[str, str]]:
        last = history(fleet.journal("m")).records[-1].id
        entries = [one for one in fleet.journal("m").entries() if one.release == last]
        return [(one.event, one.step) for one in entries if one.step]

    with journaled_change(fleet, "m", "scale") as on:
        step = on(fleet.hosts[0])
        step("default-to-standby")
        assert steps() == [("begin", "default-to-standby")]
        step("scale")
        assert steps()[1:] == [("done", "default-to-standby"), ("begin", "scale")]
    assert steps()[3:] == [("done", "scale")]

    def fail(begin: Callable[[str], None]) -> None:
        begin("drain")
        raise ModelNotFound("gone", status=404)

    with pytest.raises(ModelNotFound), journaled_change(fleet, "m", "repair") as on:
        fail(on(fleet.hosts[0]))
    assert steps() == [("begin", "drain"), ("failed", "drain")]


def test_what_was_refused_is_not_the_last_that_was_done(fleet_of: FleetOf) -> None:
    """As a version that was mistyped: it stands in the journal, not in `status` nor in the way back."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    before = history(fleet.journal("m")).records
    for kind in ("unregister", "set-default", "scale"):
        with pytest.raises(ModelNotFound), journaled_change(fleet, "m", kind):
            fake.describe("m", "9.9")
    assert history(fleet.journal("m")).records == before
    assert fleet.journal("m").entries()[-1].data["outcome"] == "refused"
    rollback(fleet, "m")
    assert fake.default == "1.0"


def test_what_was_not_refused_is_told(fleet_of: FleetOf) -> None:
    """Where something was changed, a step was begun, the server was silent, or Ctrl-C came."""
    fake = serving("1.0", "1.0", "2.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0")
    serves = {"local": {"m": served_version("1.0")}}

    def outcome(error: BaseException, *, change: bool = False, step: bool = False) -> str:
        def fail(begin: Callable[[str], None]) -> None:
            if step:
                begin("drain")
            if change:
                fake.unregister("m", "2.0")
            raise error

        with pytest.raises(type(error)), journaled_change(fleet, "m", "unregister") as on:
            fail(on(fleet.hosts[0]))
        return status(fleet.folder, serves)[0].outcome

    gone = ModelNotFound("gone", status=404)
    assert outcome(gone, step=True) == "failed"
    assert outcome(TimedOut("silent")) == "failed"
    assert outcome(KeyboardInterrupt()) == "interrupted"
    assert outcome(gone, change=True) == "failed"


def test_what_was_done_by_hand_begins_a_journal(fleet_of: FleetOf) -> None:
    """The steps are events alone; afterwards what is served is noted, and comes back after a restart."""
    told: list[Entry] = []
    fake = serving("1.0", "1.0")
    fleet = replace(fleet_of(fake), on_entry=told.append)
    with journaled_change(fleet, "m", "register") as on:
        assert not fleet.folder.exists()
        on(fleet.hosts[0])("register")
    assert [(one.event, one.host, one.step) for one in told] == [
        ("begin", "local", "register"),
        ("done", "local", "register"),
        ("planned", "", ""),
        ("served", "local", ""),
        ("finished", "", ""),
    ]
    fake.forget()
    reconcile(fleet, "m")
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])


def test_no_journal_begins_with_nothing(fleet_of: FleetOf) -> None:
    """A name that was mistyped, the last version that was unregistered."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    with pytest.raises(ModelNotFound), journaled_change(fleet, "x", "scale"):
        raise ModelNotFound("no such model", status=404)
    with journaled_change(fleet, "m", "unregister"):
        fake.unregister("m", "1.0")
    assert not fleet.folder.exists()


def test_an_error_is_told_where_it_cannot_be_noted(fleet_of: FleetOf) -> None:
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0")

    def fail() -> None:
        fake.is_down = True
        raise ModelNotFound("the first", status=404)

    with pytest.raises(ModelNotFound, match="the first"), journaled_change(fleet, "m", "scale"):
        fail()


def test_a_default_can_be_repaired_while_a_release_is_unfinished(fleet_of: FleetOf) -> None:
    """To undo it may need that."""
    fleet = fleet_of(serving("1.0", "1.0"))
    unfinished(fleet, "register")
    with journaled_change(fleet, "m", "repair"):
        pass
    assert rollback(fleet, "m").outcome == "undone"
    unfinished(fleet, "register")
    with pytest.raises(ReleaseError, match="unfinished"), journaled_change(fleet, "m", "scale"):
        pass


def test_what_is_registered_first_after_a_restart_is_not_meant_to_be_the_default(fleet_of: FleetOf) -> None:
    """TorchServe makes it that; who set it says so."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.forget()
    with journaled_change(fleet, "m", "register"):
        fake.register("m-3.0.mar", initial_workers=1)
    assert history(fleet.journal("m")).served["local"].default == "2.0"
    reconcile(fleet, "m")
    assert (fake.default, sorted(fake.all)) == ("2.0", ["1.0", "2.0", "3.0"])
    fake.forget()
    with journaled_change(fleet, "m", "set-default"):
        fake.register("m-3.0.mar", initial_workers=1)
    assert history(fleet.journal("m")).served["local"].default == "3.0"


def test_who_was_registered_before_its_name_was_known_is_not_meant_to_be_the_default(
    fleet_of: FleetOf,
) -> None:
    """Its archive is on the server alone, so which model is changed is only known afterwards."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.forget()
    fake.register("m-1.0.mar", initial_workers=1)
    with journaled_change(fleet, "m", "register"):
        pass
    assert history(fleet.journal("m")).served["local"].default == "2.0"
    assert history(fleet.journal("m")).defaults["local"] == ("1.0", "2.0")


def test_a_server_is_held_also_where_nothing_was_journaled(fleet_of: FleetOf, tmp_path: Path) -> None:
    """From another folder, while somebody else changes the model there."""
    fleet = replace(fleet_of(serving("1.0", "1.0", "2.0")), locks=tmp_path)
    elsewhere = replace(fleet, folder=tmp_path / "elsewhere")
    with fleet.locked("m"), pytest.raises(ReleaseError, match="is changing it"):
        set_default(elsewhere, "m", "2.0")
    assert set_default(elsewhere, "m", "2.0") == {"local": "1.0"}


def test_what_cannot_be_named_in_a_line_can_be_unregistered(fleet_of: FleetOf) -> None:
    """Somebody has registered a version with a space that is none; this is how to get rid of it."""
    fake = serving("1.0", "1.0", "2.0\u00a0")
    fleet = fleet_of(fake)
    unregister(fleet, "m", "2.0\u00a0")
    assert list(fake.all) == ["1.0"]
