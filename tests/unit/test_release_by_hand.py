"""What is changed by hand is journaled, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from torchmar.errors import ModelNotFound, ReleaseError, TimedOut
from torchmar.release import Entry, by_hand, history, reconcile, rollback, status

from .servers_in_memory import SiteOf, released, served_version, serving, unfinished


def test_what_fails_after_a_restart_is_not_what_is_meant(site_of: SiteOf) -> None:
    """The server knows nothing: that is no wish of whoever typed a command which therefore failed."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    fake.all, fake.default = {}, None
    with pytest.raises(ModelNotFound), by_hand(site, "m", "scale"):
        fake.describe("m")
    fake.register("m-1.0.mar", initial_workers=1)
    with by_hand(site, "m", "scale"):
        fake.scale("m", 2, "1.0")
    reconcile(site, "m")
    assert (fake.default, sorted(fake.all)) == ("2.0", ["1.0", "2.0"])
    with by_hand(site, "m", "set-default"):
        fake.set_default("m", "1.0")
    with by_hand(site, "m", "unregister"):
        fake.unregister("m", "2.0")
    fake.all, fake.default = {}, None
    reconcile(site, "m")
    assert {number: one.ready_workers for number, one in fake.all.items()} == {"1.0": 2}


def test_steps_by_hand_are_journaled_before_they_are_taken(site_of: SiteOf) -> None:
    """Whoever finds a stand-in as the default finds why; and the one that failed is told as that."""
    site = site_of(serving("1.0", "1.0"))
    released(site, "1.0")

    def steps() -> list[tuple[str, str]]:
        last = history(site.journal("m")).records[-1].id
        entries = [one for one in site.journal("m").entries() if one.release == last]
        return [(one.event, one.step) for one in entries if one.step]

    with by_hand(site, "m", "scale") as on:
        step = on(site.hosts[0])
        step("default-to-stand-in")
        assert steps() == [("begin", "default-to-stand-in")]
        step("scale")
        assert steps()[1:] == [("done", "default-to-stand-in"), ("begin", "scale")]
    assert steps()[3:] == [("done", "scale")]

    def fail(begin: Callable[[str], None]) -> None:
        begin("drain")
        raise ModelNotFound("gone", status=404)

    with pytest.raises(ModelNotFound), by_hand(site, "m", "repair") as on:
        fail(on(site.hosts[0]))
    assert steps() == [("begin", "drain"), ("failed", "drain")]


def test_what_was_refused_is_not_the_last_that_was_done(site_of: SiteOf) -> None:
    """As a version that was mistyped: it stands in the journal, not in `status` nor in the way back."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    before = history(site.journal("m")).records
    for kind in ("unregister", "set-default", "scale"):
        with pytest.raises(ModelNotFound), by_hand(site, "m", kind):
            fake.describe("m", "9.9")
    assert history(site.journal("m")).records == before
    assert site.journal("m").entries()[-1].data["outcome"] == "refused"
    rollback(site, "m")
    assert fake.default == "1.0"


def test_what_was_not_refused_is_told(site_of: SiteOf) -> None:
    """Where something was changed, a step was begun, the server was silent, or Ctrl-C came."""
    fake = serving("1.0", "1.0", "2.0")
    site = site_of(fake)
    released(site, "1.0")
    serves = {"local": {"m": served_version("1.0")}}

    def outcome(error: BaseException, *, change: bool = False, step: bool = False) -> str:
        def fail(begin: Callable[[str], None]) -> None:
            if step:
                begin("drain")
            if change:
                fake.unregister("m", "2.0")
            raise error

        with pytest.raises(type(error)), by_hand(site, "m", "unregister") as on:
            fail(on(site.hosts[0]))
        return status(site.folder, serves)[0].outcome

    gone = ModelNotFound("gone", status=404)
    assert outcome(gone, step=True) == "failed"
    assert outcome(TimedOut("silent")) == "failed"
    assert outcome(KeyboardInterrupt()) == "interrupted"
    assert outcome(gone, change=True) == "failed"


def test_what_was_done_by_hand_begins_a_journal(site_of: SiteOf) -> None:
    """The steps are events alone; afterwards what is served is noted, and comes back after a restart."""
    told: list[Entry] = []
    fake = serving("1.0", "1.0")
    site = replace(site_of(fake), on_entry=told.append)
    with by_hand(site, "m", "register") as on:
        assert not site.folder.exists()
        on(site.hosts[0])("register")
    assert [(one.event, one.host, one.step) for one in told] == [
        ("begin", "local", "register"),
        ("done", "local", "register"),
        ("planned", "", ""),
        ("served", "local", ""),
        ("finished", "", ""),
    ]
    fake.all, fake.default = {}, None
    reconcile(site, "m")
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])


def test_no_journal_begins_with_nothing(site_of: SiteOf) -> None:
    """A name that was mistyped, the last version that was unregistered."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    with pytest.raises(ModelNotFound), by_hand(site, "x", "scale"):
        raise ModelNotFound("no such model", status=404)
    with by_hand(site, "m", "unregister"):
        fake.unregister("m", "1.0")
    assert not site.folder.exists()


def test_an_error_is_told_where_it_cannot_be_noted(site_of: SiteOf) -> None:
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0")

    def fail() -> None:
        fake.is_down = True
        raise ModelNotFound("the first", status=404)

    with pytest.raises(ModelNotFound, match="the first"), by_hand(site, "m", "scale"):
        fail()


def test_a_default_can_be_repaired_while_a_release_is_unfinished(site_of: SiteOf) -> None:
    """To undo it may need that."""
    site = site_of(serving("1.0", "1.0"))
    unfinished(site, "register")
    with by_hand(site, "m", "repair"):
        pass
    assert rollback(site, "m").outcome == "undone"
    unfinished(site, "register")
    with pytest.raises(ReleaseError, match="unfinished"), by_hand(site, "m", "scale"):
        pass


def test_what_is_registered_first_after_a_restart_is_not_meant_to_be_the_default(site_of: SiteOf) -> None:
    """TorchServe makes it that; who set it says so."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    fake.all, fake.default = {}, None
    with by_hand(site, "m", "register"):
        fake.register("m-3.0.mar", initial_workers=1)
    assert history(site.journal("m")).served["local"].default == "2.0"
    reconcile(site, "m")
    assert (fake.default, sorted(fake.all)) == ("2.0", ["1.0", "2.0", "3.0"])
    fake.all, fake.default = {}, None
    with by_hand(site, "m", "set-default"):
        fake.register("m-3.0.mar", initial_workers=1)
    assert history(site.journal("m")).served["local"].default == "3.0"


def test_who_was_registered_before_its_name_was_known_is_not_meant_to_be_the_default(site_of: SiteOf) -> None:
    """Its archive is on the server alone, so which model is changed is only known afterwards."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    fake.all, fake.default = {}, None
    fake.register("m-1.0.mar", initial_workers=1)
    with by_hand(site, "m", "register"):
        pass
    assert history(site.journal("m")).served["local"].default == "2.0"
    assert history(site.journal("m")).defaults["local"] == ("1.0", "2.0")
