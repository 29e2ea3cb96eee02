"""What is noted after something succeeded: that it cannot be noted just then undoes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import pytest

from torchmar.errors import ReleaseError, TimedOut
from torchmar.manage import journaled_change
from torchmar.release import Fleet, Options, ServedState, history, reconcile, retire, rollback
from torchmar.release import _release as release_module
from torchmar.release._journal import Writer

from .servers_in_memory import Fake, FleetOf, released, serving, unfinished, version, write
from .test_release_under_way import carried_out


@dataclass
class Slow(Fake):
    """Does not answer what its default version is, so many times from when it is told to."""

    silent: int = 0

    def default_version(self, name: str) -> str:
        if self.silent:
            self.silent -= 1
            raise TimedOut(f"{self.name}: no answer within 30 s")
        return super().default_version(name)


def slow(*numbers: str) -> Slow:
    return Slow("local", numbers[0], {number: version(number) for number in numbers})


def steps_of(fake: Slow, *, silent_at: str, times: int) -> Callable[[str, str], None]:
    def took(_host: str, step: str) -> None:
        if step == "register":
            fake.register("m-2.0.mar", initial_workers=1)
        if step == "default":
            fake.set_default("m", "2.0")
        if step == silent_at:
            fake.silent = times

    return took


@pytest.mark.parametrize("silent_at", ["default", "watch"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_release_that_went_well_stays_promoted(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch, silent_at: str, times: int
) -> None:
    """One slow answer after the switch, or after all of it; what is known is noted where there are more."""
    fake = slow("1.0")
    fleet = fleet_of(fake)
    steps = ["register", "default", "watch"]
    write(fleet, steps={"local": steps}, workers={"local": 1})
    result = carried_out(fleet, monkeypatch, steps_of(fake, silent_at=silent_at, times=times))
    assert (result.outcome, result.reason) == ("promoted", "")
    assert (fake.default, fake.silent) == ("2.0", 0)
    served = history(fleet.journal("m")).served["local"]
    assert (served.default, [one.version for one in served.versions]) == ("2.0", ["1.0", "2.0"])
    assert [(one.archive, one.ready) for one in served.versions] == [("m-1.0.mar", 1), ("m-2.0.mar", 1)]


def test_a_server_that_is_silent_where_a_release_goes_on(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first does not say whether it was switched: the second is not switched after it."""
    a, b = (Slow(name, "1.0", {"1.0": version("1.0")}) for name in "ab")
    fleet = fleet_of(a, b)
    steps = {"a": ["default"], "b": ["ready", "default"]}
    write(fleet, steps=steps, workers={"a": 1, "b": 1}).write("done", "a", "default")
    for fake in (a, b):
        fake.register("m-2.0.mar", initial_workers=1)
    goes_on = release_module._on_host

    def silent(*arguments: Any) -> None:
        a.silent = 2
        goes_on(*arguments)

    monkeypatch.setattr(release_module, "_on_host", silent)
    switched: list[str] = []
    result = carried_out(fleet, monkeypatch, lambda host, _: switched.append(host))
    assert switched == []
    assert (result.outcome, result.is_put_back) == ("failed", True)
    assert "no answer within 30 s" in result.reason
    assert (a.default, b.default) == ("1.0", "1.0")


def test_a_journal_that_takes_nothing_undoes_no_release(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was done and watched: that this cannot be noted is told, with what notes it."""
    fake = slow("1.0")
    fleet = fleet_of(fake)
    write(fleet, steps={"local": ["register", "default"]}, workers={"local": 1})
    append = Writer.write

    def full(self: Writer, event: str, *arguments: Any, **data: Any) -> None:
        if event == "finished":
            raise ReleaseError("journal m.jsonl: could not be written: No space left: `torchmar resume m`")
        append(self, event, *arguments, **data)

    monkeypatch.setattr(Writer, "write", full)
    result = carried_out(fleet, monkeypatch, steps_of(fake, silent_at="", times=0))
    assert (result.outcome, fake.default, sorted(fake.all)) == ("promoted", "2.0", ["1.0", "2.0"])
    assert "No space left" in result.reason


def went_back(fleet: Fleet) -> None:
    rollback(fleet, "m")


def was_undone(fleet: Fleet) -> None:
    assert rollback(fleet, "m").outcome == "undone"


def was_retired(fleet: Fleet) -> None:
    [done] = retire(fleet, "m", "1.0", Options(longest=0.0))
    assert done.version == "1.0"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    ("act", "last", "expected"),
    [
        (went_back, "default 1.0", ("1.0", ["1.0", "2.0"])),
        (was_undone, "unregister 3.0", ("2.0", ["1.0", "2.0"])),
        (was_retired, "unregister 1.0", ("2.0", ["2.0"])),
    ],
)
def test_what_went_well_is_noted_as_far_as_it_is_known(
    fleet_of: FleetOf,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Fleet], None],
    last: str,
    expected: tuple[str, list[str]],
    times: int,
) -> None:
    """A server that is silent right after it was changed: afterwards it is brought back as it was meant."""
    fake = slow("1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    if act is was_undone:
        unfinished(fleet, "register", number="3.0")
        fake.register("m-3.0.mar", initial_workers=1)
    for name in ("set_default", "unregister"):
        changed = getattr(fake, name)

        def then_silent(*arguments: str, changed: Callable[..., None] = changed) -> None:
            changed(*arguments)
            if fake.acts[-1] == last:
                fake.silent = times

        monkeypatch.setattr(fake, name, then_silent)
    act(fleet)
    assert fake.silent == 0
    assert history(fleet.journal("m")).records[-1].outcome is not None
    fake.forget()
    reconcile(fleet, "m")
    assert (fake.default, sorted(fake.all)) == expected


def test_by_hand_it_is_said_that_it_was_done(fleet_of: FleetOf) -> None:
    """Nothing is known there but what the server says: the same command again notes it."""
    fake = slow("1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")

    def set_default(number: str, *, silent: int) -> None:
        with journaled_change(fleet, "m", "set-default"):
            fake.set_default("m", number)
            fake.silent = silent

    set_default("1.0", silent=1)
    with pytest.raises(ReleaseError, match="it was done, and what is served now could not be noted"):
        set_default("2.0", silent=2)
    assert fake.default == "2.0"
    assert history(fleet.journal("m")).served["local"].default == "1.0"
    set_default("2.0", silent=0)
    assert history(fleet.journal("m")).served["local"].default == "2.0"


def test_what_is_known_of_a_host_that_was_never_noted(fleet_of: FleetOf) -> None:
    """A server of which the journal knows nothing, and that says nothing: that is no crash."""
    fleet = fleet_of(serving("1.0", "1.0"))
    down = replace(fleet.hosts[0], server=Fake(is_down=True))  # type: ignore[arg-type]
    assert fleet.served(down, "m", ServedState("m", "1.0")) == ServedState("m", "1.0")


def test_a_version_that_went_without_an_answer_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server was told to unregister it, and did not say that it had."""
    fake = serving("1.0", "1.0", "2.0")
    gone = fake.unregister

    def silent(name: str, number: str) -> None:
        gone(name, number)
        raise TimedOut("DELETE /models/m/2.0: no answer within 30 s")

    monkeypatch.setattr(fake, "unregister", silent)
    fake.take_away("m", "2.0")
    assert list(fake.all) == ["1.0"]

    def refused(*_: object) -> NoReturn:
        raise TimedOut("DELETE /models/m/1.0: no answer within 30 s")

    monkeypatch.setattr(fake, "unregister", refused)
    with pytest.raises(TimedOut):
        fake.take_away("m", "1.0")
