"""Undo: back from a release that did not come to its end, from whatever was left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from torchmar.client import Sample
from torchmar.errors import RegistrationPending, ReleaseError, TimedOut
from torchmar.release import Fleet, Options, history, reconcile, resume, rollback
from torchmar.release._canary import router_of, share_of
from torchmar.release._facts import gather_facts
from torchmar.release._gate import CandidateRun
from torchmar.release._journal import read
from torchmar.release._steps import run_step
from torchmar.routers.nginx import Canary, Nginx, configuration, described

from .servers_in_memory import (
    ARCHIVE,
    NAME,
    QUICK,
    Clock,
    Fake,
    FleetOf,
    note_served,
    released,
    serving,
    unfinished,
    version,
    worker,
    write,
)


def test_all_are_back_before_one_is_drained(fleet_of: FleetOf) -> None:
    """To drain takes minutes; and one server that is down keeps no other from being put back."""
    a, b, c = (serving("1.0", "1.0", name=name) for name in "abc")
    fleet = fleet_of(a, b, c)
    unfinished(fleet, "register", "default")
    for fake in (a, b, c):
        fake.all["2.0"], fake.default = version("2.0"), "2.0"
    order: list[str] = []
    for fake in (a, c):
        fake.acts = cast("list[str]", _Told(fake.name, order))
    b.is_down = True
    with pytest.raises(ReleaseError, match="b could not be put back: b: nothing listens there"):
        rollback(fleet, "m")
    assert sorted(order[:2]) == ["a default 1.0", "c default 1.0"]
    assert sorted(order[2:]) == ["a unregister 2.0", "c unregister 2.0"]
    b.is_down = False
    assert rollback(fleet, "m").outcome == "undone"
    assert [(one.default, list(one.all)) for one in (a, b, c)] == [("1.0", ["1.0"])] * 3


class _Told:
    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order

    def append(self, act: str) -> None:
        self.order.append(f"{self.name} {act}")


@pytest.mark.parametrize("given_up", ["failed", "undo default", "undo"])
def test_what_was_given_up_is_not_brought_back(fleet_of: FleetOf, given_up: str) -> None:
    """Killed while it was undone, and the server with it: what failed is not served again after a restart."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    writer = write(fleet)
    writer.write("begin", "local", "default")
    fake.all["2.0"], fake.default = version("2.0"), "2.0"
    note_served(writer, fleet.hosts[0])
    if given_up == "failed":
        writer.write("failed", "local", "watch", reason="slow")
    else:
        writer.write("begin", "local", given_up)
    fake.forget()
    [done] = reconcile(fleet, "m")
    assert (done.default, fake.default, list(fake.all)) == ("1.0", "1.0", ["1.0"])
    assert resume(fleet, "m").outcome == "undone"


@pytest.mark.parametrize(("seconds", "size"), [(3, 0), (20, 200_000_000)])
def test_what_the_server_still_unpacks_is_undone(
    fleet_of: FleetOf, tmp_path: Path, seconds: float, size: int
) -> None:
    """Killed with the call in flight: TorchServe goes on, for longer where the archive is large."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    with (tmp_path / "m-2.0.mar").open("wb") as file:
        file.truncate(size)
    unfinished(fleet, "register", archive=str(tmp_path / "m-2.0.mar"))

    def sleep(passing: float) -> None:
        cast("Clock", fleet.clock).sleep(passing)
        if fleet.clock() > seconds and not fake.acts:
            fake.register("m-2.0.mar", initial_workers=1)

    assert rollback(replace(fleet, sleep=sleep), "m").outcome == "undone"
    assert fake.acts == ["register 2.0", "unregister 2.0"]


def test_what_the_server_has_refused_is_not_waited_for(fleet_of: FleetOf) -> None:
    fleet = fleet_of(serving("1.0", "1.0"))
    unfinished(fleet, "register")
    fleet.writer("m", "000").write("failed", "local", "register", reason="404")
    assert rollback(fleet, "m").outcome == "undone"
    assert fleet.clock() == 0


@pytest.mark.parametrize(
    ("asked", "gate", "is_drained"),
    [(24, "failed", False), (25, "failed", True), (24, "done", False), (24, "begin", True)],
)
def test_who_asks_for_what_was_rejected_is_answered(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch, asked: int, gate: str, is_drained: bool
) -> None:
    """Clients may ask for a candidate as soon as it is READY; where nobody but the gate did, nobody waits.

    What a gate had sent when it was killed is not known, and so taken for others'.
    """
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    writer = write(fleet)
    sent = {"register": 5, "warm": 3, "gate": 16}
    for step, number in sent.items():
        writer.write("begin", "local", step)
        if step != "gate" or gate != "begin":
            writer.write(gate if step == "gate" else "done", "local", step, sent=number)
    fake.all["2.0"] = version("2.0")
    pinned = {"model_name": "m", "model_version": "2.0"}
    monkeypatch.setattr(Fake, "samples", lambda _: [Sample(NAME, pinned, asked)])
    assert rollback(fleet, "m").outcome == "undone"
    assert list(fake.all) == ["1.0"]
    assert (fleet.clock() >= 0.2) == is_drained


def test_what_was_begun_to_be_put_back_is_not_released_any_more(fleet_of: FleetOf) -> None:
    """Killed right after the default came back: `resume` goes on with undoing, not with the release."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "register", "default", "undo default")
    fake.all["2.0"] = version("2.0")
    assert resume(fleet, "m").outcome == "undone"
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])


def test_a_default_that_died_meanwhile_is_not_gone_back_to(fleet_of: FleetOf) -> None:
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "register", "default")
    fake.all = {"1.0": version("1.0", workers=(worker(ready=False),)), "2.0": version("2.0")}
    fake.default = "2.0"
    with pytest.raises(ReleaseError, match=r"torchmar repair m --version 1\.0"):
        rollback(fleet, "m")
    assert (fake.default, fake.acts) == ("2.0", [])


def test_what_was_the_default_before_a_restart_is_brought_back(fleet_of: FleetOf) -> None:
    """The server has forgotten both versions: the old one is registered again, the candidate is not."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "register", "default")
    fake.forget()
    assert rollback(fleet, "m").outcome == "undone"
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])


def test_the_default_keeps_the_workers_that_a_release_gave_it(fleet_of: FleetOf) -> None:
    """To end them again would end what they have in hand."""
    fake = serving("2.0", "2.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "ready", "gate")
    fake.scale("m", 3, "2.0")
    assert rollback(fleet, "m").outcome == "undone"
    assert len(fake.all["2.0"].workers) == 3


def test_who_was_there_before_is_drained_before_its_workers_are_ended(fleet_of: FleetOf) -> None:
    """Somebody may ask for a version by its number, also where no release has sent anybody there."""
    fake = serving("1.0", "1.0", "2.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "ready")
    fake.scale("m", 3, "2.0")
    assert rollback(fleet, "m").outcome == "undone"
    assert len(fake.all["2.0"].workers) == 1
    assert fleet.clock() >= 0.2, "it was waited as long as a request takes"


def nginx(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    file = tmp_path / "nginx.conf"
    file.write_text("# as it was")
    options = replace(QUICK, canary=(5.0,), nginx=str(file), access_log=str(tmp_path / "log"))
    return replace(options, **changes).as_json()


def test_nginx_that_cannot_be_told_keeps_no_default_from_coming_back(
    fleet_of: FleetOf, tmp_path: Path
) -> None:
    """The candidate stays registered: nginx still sends to it."""
    fake = serving("1.0", "1.0")
    fleet = replace(fleet_of(fake), nginx_reload="false")
    options = nginx(tmp_path, nginx_reload="false")
    unfinished(fleet, "register", "canary 5", "default", options=options)
    fake.all["2.0"], fake.default = version("2.0"), "2.0"
    shared = give_share(fleet, options)
    with pytest.raises(ReleaseError, match="and nginx has not read that: false: exit code 1"):
        rollback(fleet, "m")
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0", "2.0"])
    assert (tmp_path / "nginx.conf").read_text() == configuration(replace(shared, percent=0, default=None))


def give_share(fleet: Fleet, options: dict[str, Any], **changes: Any) -> Canary:
    """nginx's file gives the candidate 5 %; what it says."""
    file = Path(options["nginx"])
    file.write_text("")
    router = router_of(replace(read(Options, options), nginx_reload=None))
    assert router is not None
    router.set_share(share_of(fleet.hosts[0], "m", "2.0", 5, "1.0"))
    shared = described(file.read_text())
    assert shared is not None
    shared = replace(shared, **changes)
    file.write_text(configuration(shared))
    return shared


def in_a_canary(fleet: Fleet, tmp_path: Path, **changes: Any) -> Path:
    """Killed while nginx gave the candidate a share; nginx's file."""
    options = nginx(tmp_path, **changes)
    steps = {"local": ["register", "canary 5", "default", "nginx"]}
    unfinished(fleet, "register", "canary 5", options=options, steps=steps, workers={"local": 1})
    give_share(fleet, options)
    return tmp_path / "nginx.conf"


@pytest.mark.parametrize("kind", ["resume", "rollback", "force"])
def test_no_command_is_taken_from_a_journal(fleet_of: FleetOf, tmp_path: Path, kind: str) -> None:
    """Whoever may write journals must not run commands; and nginx must not send to what is gone.

    The default is back, nginx's file is as it should be, and the candidate answers until nginx was told.
    """
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    ran = tmp_path / "ran"
    file = in_a_canary(fleet, tmp_path, nginx_reload=f"touch {ran}")
    fake.all["2.0"] = version("2.0")
    if kind == "resume":
        with pytest.raises(ReleaseError, match=r"has a canary: give --nginx-reload again: .*`touch /"):
            resume(fleet, "m")
        assert "5 % of" in file.read_text()
        assert fake.acts == []
    elif kind == "rollback":
        fake.default = "2.0"
        for _ in range(2):
            with pytest.raises(ReleaseError, match=r"nginx may send to m 2\.0 still, .*give --nginx-reload"):
                rollback(fleet, "m")
            assert (fake.default, list(fake.all)) == ("1.0", ["1.0", "2.0"])
            assert " 0 % of" in file.read_text()
        told = replace(fleet, nginx_reload=f"touch {tmp_path / 'told'}")
        assert rollback(told, "m").outcome == "undone"
        assert (tmp_path / "told").exists()
    else:
        note = rollback(fleet, "m", force=True).note
        assert "as it has not read its file, which gives it nothing any more: give --nginx-reload" in note
    if kind != "resume":
        assert list(fake.all) == ["1.0"]
    assert not ran.exists()


def test_a_file_that_is_not_ours_is_not_replaced(fleet_of: FleetOf, tmp_path: Path) -> None:
    """As nginx.conf itself: in the plan, and where somebody has changed it by hand meanwhile."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    file = in_a_canary(fleet, tmp_path)
    fake.all["2.0"] = version("2.0")
    theirs = file.read_text().replace("# Written by", "# Changed by hand, was written by")
    file.write_text(theirs)
    with pytest.raises(ReleaseError, match=r"nginx\.conf: give --nginx a file of its own"):
        rollback(fleet, "m")
    assert (file.read_text(), list(fake.all)) == (theirs, ["1.0", "2.0"])
    options = Options(canary=(5.0,), nginx=str(file), access_log="/log")
    assert "would be replaced" in gather_facts(fleet.hosts[0], ARCHIVE, options).no_canary
    file.write_bytes(b"\xef\xbb\xbf \n")
    assert gather_facts(fleet.hosts[0], ARCHIVE, options).no_canary == ""


def test_what_nginx_had_is_put_back_to_the_byte(fleet_of: FleetOf, tmp_path: Path) -> None:
    """Also where an editor of Windows wrote it."""
    fleet = fleet_of(serving("1.0", "1.0"))
    file = in_a_canary(fleet, tmp_path)
    before = b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n")
    file.write_bytes(before)
    router = Nginx(file, Path("/log"), "127.0.0.1:8088", "false")
    with pytest.raises(ReleaseError, match="is as it was before"):
        router.set_share(share_of(fleet.hosts[0], "m", "2.0", 25, "1.0"))
    assert file.read_bytes() == before


@pytest.mark.parametrize("is_there", [True, False])
def test_nginx_that_never_had_a_share_is_not_told(
    fleet_of: FleetOf, tmp_path: Path, *, is_there: bool
) -> None:
    """A slip in the command stopped the canary, and the file was put back: it must not stop the way back."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "register", "canary 5", options=nginx(tmp_path, nginx_reload="nginx -s relaod"))
    fake.all["2.0"] = version("2.0")
    if not is_there:
        (tmp_path / "nginx.conf").unlink()
    assert rollback(fleet, "m").outcome == "undone"
    assert list(fake.all) == ["1.0"]
    assert not is_there or (tmp_path / "nginx.conf").read_text() == "# as it was"


def test_a_canary_that_could_not_be_written_is_undone(fleet_of: FleetOf, tmp_path: Path) -> None:
    """What stopped the canary must not stop the way back for ever."""
    fake = serving("1.0", "1.0")
    fake.address = "https://127.0.0.1:8443"
    fleet = fleet_of(fake)
    unfinished(fleet, "register", "canary 5", options=nginx(tmp_path))
    fake.all["2.0"] = version("2.0")
    assert rollback(fleet, "m").outcome == "undone"
    assert list(fake.all) == ["1.0"]


def test_nginx_keeps_its_other_servers_and_takes_the_limits_of_this_one(
    fleet_of: FleetOf, tmp_path: Path
) -> None:
    """Nobody else has the candidate, both versions' time is given, and bodies are as large as may be."""
    fake = serving("1.0", "1.0", "2.0")
    fake.all["1.0"] = replace(fake.all["1.0"], response_timeout=400)
    host = replace(fleet_of(fake).hosts[0], max_body=20_000_000)
    file = tmp_path / "nginx.conf"
    router = Nginx(file, Path("/log"), "127.0.0.1:8088", None)
    share = share_of(host, "m", "2.0", 5, "1.0")
    router.set_share(share)
    first = described(file.read_text())
    assert first is not None
    assert (first.upstreams, first.max_body) == (("127.0.0.1:8080",), 20_000_000)
    assert 400 <= first.response_timeout <= 401
    file.write_text(configuration(replace(first, upstreams=("127.0.0.1:8080", "other:8080"))))
    for percent in (25, 50):
        router.set_share(replace(share, percent=percent))
        now = described(file.read_text())
        assert now is not None
        assert now.upstreams == ("127.0.0.1:8080", "other:8080")
        assert (now.percent, now.candidate_upstreams) == (percent, ("127.0.0.1:8080",))
    elsewhere = replace(share, server="http://new:8080")
    with pytest.raises(ReleaseError, match=r"sends to .*, other:8080 by it, and not to new:8080"):
        router.set_share(elsewhere)
    assert "and not to new:8080" in router.why_not(elsewhere)
    assert "needs an http:// address" in router.why_not(replace(share, server="https://127.0.0.1:8443"))


def test_the_first_configuration_goes_where_nginx_does_not_take_it(fleet_of: FleetOf, tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    router = Nginx(file, Path("/log"), "127.0.0.1:8088", "false")
    share = share_of(fleet_of(serving("1.0", "1.0")).hosts[0], "m", "2.0", 5, "1.0")
    with pytest.raises(ReleaseError, match="is as it was before"):
        router.set_share(share)
    assert not file.exists()
    file.write_bytes(b"\xff")
    with pytest.raises(ReleaseError, match="cannot be read"):
        router.set_share(share)
    assert "cannot be read" in router.why_not(share)


def test_who_still_asks_for_the_candidate_keeps_no_undo_from_its_end_for_ever(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client pins it and cannot be stopped; without `force` it is answered, and the default is back."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "copy", "register", "default", options=replace(QUICK, drain_timeout=1.0).as_json())
    fake.all["2.0"], fake.default = version("2.0"), "2.0"
    pinned = {"model_name": "m", "model_version": "2.0"}
    monkeypatch.setattr(Fake, "samples", lambda _: [Sample(NAME, pinned, fleet.clock())])
    with pytest.raises(ReleaseError, match=r"clients still ask .*\n.*`torchmar rollback m --force` ends"):
        rollback(fleet, "m")
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0", "2.0"])
    assert rollback(fleet, "m", force=True).outcome == "undone"
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])
    assert told_last(fleet) == "2.0 was not drained; m-2.0.mar is left in the store, which cannot be reached"
    with pytest.raises(ReleaseError, match=r"--force is to end .*, and none is unfinished"):
        rollback(fleet, "m", force=True)


def test_a_server_that_is_gone_keeps_no_undo_from_its_end_for_ever(fleet_of: FleetOf) -> None:
    """Its power supply is; or it is in no hosts.yaml any more. Should it come back, reconcile knows."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    both = fleet_of(a, b)
    released(both, "1.0")
    write(both)
    writer = both.writer("m", both.journal("m").entries()[-1].release)
    for host in both.hosts:
        cast("Fake", host.server).register("m-2.0.mar", initial_workers=1)
        cast("Fake", host.server).default = "2.0"
        writer.write("begin", host.name, "default")
        note_served(writer, host)
    with pytest.raises(ReleaseError, match=r"b could not be put back: .* not among a"):
        rollback(fleet_of(a), "m")
    done = rollback(fleet_of(a), "m", force=True)
    assert (done.outcome, done.default) == ("undone", "1.0")
    assert done.note.startswith("b could not be put back")
    assert (a.default, b.default) == ("1.0", "2.0")
    assert history(both.journal("m")).defaults == {"a": ("1.0",), "b": ("1.0",)}
    reconcile(both, "m")
    assert b.default == "1.0"


def test_an_nginx_that_is_gone_keeps_no_undo_from_its_end_for_ever(fleet_of: FleetOf, tmp_path: Path) -> None:
    """Its file gives the candidate nothing any more, for when it starts again."""
    fake = serving("1.0", "1.0")
    fleet = replace(fleet_of(fake), nginx_reload="false")
    options = nginx(tmp_path, nginx_reload="false")
    unfinished(fleet, "register", "canary 5", options=options)
    fake.all["2.0"] = version("2.0")
    shared = give_share(fleet, options)
    assert rollback(fleet, "m", force=True).outcome == "undone"
    assert list(fake.all) == ["1.0"]
    assert (tmp_path / "nginx.conf").read_text() == configuration(replace(shared, percent=0, default=None))
    assert "nginx has not read that: false: exit code 1" in told_last(fleet)


def test_a_file_of_nginx_that_cannot_be_read_keeps_no_undo_from_its_end(
    fleet_of: FleetOf, tmp_path: Path
) -> None:
    """Without `force` the candidate stays, as nginx may send to it."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "register", "canary 5", options=nginx(tmp_path))
    fake.all["2.0"] = version("2.0")
    (tmp_path / "nginx.conf").write_bytes(b"\xff")
    with pytest.raises(ReleaseError, match="cannot be read"):
        rollback(fleet, "m")
    done = rollback(fleet, "m", force=True)
    assert (done.outcome, done.default, list(fake.all)) == ("undone", "1.0", ["1.0"])
    assert "nginx's configuration cannot be read" in done.note
    assert (tmp_path / "nginx.conf").read_bytes() == b"\xff"


def told_last(fleet: Fleet) -> str:
    """What was told of the last undo."""
    found = [one.data.get("text", "") for one in fleet.journal("m").entries() if one.step == "undo"]
    return str(found[-1]).removesuffix(" from here")


def test_what_a_silent_server_registers_after_all_is_undone(fleet_of: FleetOf) -> None:
    """It answered neither the call nor any question after it; the release failed, and was put back later."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    work = CandidateRun(fleet.hosts[0], ARCHIVE, "m-2.0.mar", 1, "1.0", Options(ready_timeout=5))
    work.clock, work.sleep = fleet.clock, fleet.sleep

    def silent(*_: Any, **__: Any) -> Any:
        raise TimedOut("no answer within 30 s")

    with pytest.MonkeyPatch.context() as patched:
        for call in ("register", "default_version"):
            patched.setattr(fake, call, silent)
        with pytest.raises(RegistrationPending, match="neither answered nor registered") as raised:
            run_step(work, "register")
    writer = write(fleet)
    writer.write("begin", "local", "register")
    writer.write("failed", "local", "register", reason=str(raised.value), silent=True)

    def sleep(passing: float) -> None:
        cast("Clock", fleet.clock).sleep(passing)
        if not fake.acts:
            fake.register("m-2.0.mar", initial_workers=1)

    assert rollback(replace(fleet, sleep=sleep), "m").outcome == "undone"
    assert fake.acts == ["register 2.0", "unregister 2.0"]


def test_nginx_gives_nothing_to_a_server_that_is_gone(fleet_of: FleetOf, tmp_path: Path) -> None:
    """Its server does not answer, or is in no file of hosts any more: clients must not be sent there."""
    fake = serving("1.0", "1.0")
    fake.all["1.0"] = replace(fake.all["1.0"], response_timeout=400)
    fleet = fleet_of(fake)
    options = nginx(tmp_path)
    unfinished(fleet, "register", "canary 5", options=options)
    shared = give_share(fleet, options, upstreams=("127.0.0.1:8080", "other:8080"))
    fake.is_down = True
    done = rollback(fleet, "m", force=True)
    assert (done.outcome, done.default) == ("undone", "not known")
    assert done.note.splitlines() == [
        "local could not be put back: local: nothing listens there",
        "local: left as it is",
    ]
    text = (tmp_path / "nginx.conf").read_text()
    assert " 0 % of" in text
    assert "other:8080" in text
    assert f"proxy_read_timeout {2 * shared.response_timeout}s" in text


@pytest.mark.parametrize("file", ["..", ".", "", "../precious", "/precious"])
def test_what_is_undone_is_in_the_store(fleet_of: FleetOf, tmp_path: Path, file: str) -> None:
    """Somebody has edited the journal: nothing outside of the store is removed, nor the store itself."""
    (tmp_path / "store").mkdir()
    (tmp_path / "precious").mkdir()
    fleet = fleet_of(serving("1.0", "1.0"))
    fleet = replace(fleet, hosts=tuple(replace(host, store=tmp_path / "store") for host in fleet.hosts))
    unfinished(fleet, "copy")
    journal = fleet.journal("m").path
    named = str(tmp_path / "precious") if file == "/precious" else file
    journal.write_text(journal.read_text().replace('"file": "m-2.0.mar"', f'"file": "{named}"'))
    with pytest.raises(ReleaseError):
        rollback(fleet, "m")
    assert (tmp_path / "store").exists()
    assert (tmp_path / "precious").exists()


def test_a_journal_that_tells_too_little(fleet_of: FleetOf) -> None:
    """A release is undone where nobody could go on with it, and that is said."""
    fleet = fleet_of(serving("1.0", "1.0"))
    unfinished(fleet, "copy")
    with pytest.raises(ReleaseError, match="tells too little of the release of 2"):
        resume(fleet, "m")


def test_a_version_that_had_no_workers_keeps_its_registration(fleet_of: FleetOf) -> None:
    """It was registered and scaled to 0 before the release that failed: no worker is not no version."""
    fake = serving("1.0", "1.0")
    fake.all["2.0"] = version("2.0", workers=())
    fleet = fleet_of(fake)
    unfinished(fleet, "ready")
    fake.scale("m", 1, "2.0")
    assert rollback(fleet, "m").outcome == "undone"
    assert {number: len(one.workers) for number, one in fake.all.items()} == {"1.0": 1, "2.0": 0}
