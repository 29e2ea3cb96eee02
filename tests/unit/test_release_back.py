"""The ways back, from whatever was left: undo, rollback, reconcile and retire.

Against servers in memory, which can be brought into any state between two acts, and be down in any of them.
What real ones do is held by tests/live/test_release*.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from torchmar.client import ModelVersion, Sample, Server
from torchmar.errors import (
    ArchiveNotInStore,
    ConnectionFailed,
    ModelNotFound,
    ReleaseError,
    TimedOut,
    WorkersNotReady,
)
from torchmar.mar import Archive
from torchmar.release import (
    Entry,
    Host,
    Options,
    Outcome,
    ServedVersion,
    Site,
    by_hand,
    history,
    reconcile,
    resume,
    retire,
    rollback,
    status,
)
from torchmar.release import _canary as canary_module
from torchmar.release import _release as release_module
from torchmar.release._history import served_as_json
from torchmar.release._site import Writer
from torchmar.release._steps import remove_leftovers, take
from torchmar.release._work import Work
from torchmar.release.traffic.access_log import Position
from torchmar.release.traffic.nginx import configuration

from .test_release_drain import NAME, version, worker

QUICK = Options(longest=0.2, watch=0)
ARCHIVE = Archive(
    path=Path("m-2.0.mar"),
    sha256="",
    size=0,
    manifest={"model": {"modelName": "m", "modelVersion": "2.0"}},
    config={},
    files=(),
    digests=None,
    build=None,
    parity=None,
)


def served_version(number: str, ready: int = 1) -> ServedVersion:
    return ServedVersion(number, f"m-{number}.mar", ready, 1)


@dataclass
class Fake:
    """A server with the model `m` in memory; its workers start and end at once."""

    name: str = "local"
    default: str | None = None
    all: dict[str, ModelVersion] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    is_down: bool = False

    @property
    def management(self) -> Fake:
        if self.is_down:
            raise ConnectionFailed(f"{self.name}: nothing listens there")
        return self

    @property
    def metrics(self) -> Fake:
        return self

    @property
    def inference(self) -> Fake:
        return self

    address = "http://127.0.0.1:8080"

    def text(self) -> str:
        return NAME

    def samples(self) -> list[Sample]:
        return []

    def versions(self, _name: str) -> list[ModelVersion]:
        return list(self.all.values())

    def default_version(self, _name: str) -> str:
        if self.default is None:
            raise ModelNotFound("GET /models/m: no such model", status=404)
        return self.default

    def describe(self, _name: str, number: str | None = None) -> ModelVersion:
        found = self.all.get(number or self.default_version("m"))
        if found is None:
            raise ModelNotFound("GET /models/m: no such model", status=404)
        return found

    def set_default(self, _name: str, number: str) -> None:
        self.acts.append(f"default {number}")
        self.default = number

    def scale(self, _name: str, workers: int, number: str) -> None:
        self.acts.append(f"scale {number} {workers}")
        listed = tuple(worker(number) for number in range(workers))
        self.all[number] = replace(self.all[number], workers=listed, min_workers=workers)

    def wait_until_ready(self, _name: str, number: str, **_: Any) -> ModelVersion:
        return self.all[number]

    def register(self, archive: str, *, initial_workers: int, **_: Any) -> None:
        if archive in self.missing:
            raise ArchiveNotInStore(f"POST /models: {archive}", status=404)
        number = archive.removeprefix("m-").removesuffix(".mar")
        self.acts.append(f"register {number}")
        self.all[number] = version(number, workers=tuple(worker(i) for i in range(initial_workers)))
        self.default = self.default or number

    def unregister(self, _name: str, number: str) -> None:
        self.acts.append(f"unregister {number}")
        assert number != self.default or len(self.all) == 1
        if self.all.pop(number, None) is None:
            raise ModelNotFound(f"DELETE /models/m/{number}: no such version", status=404)
        if not self.all:
            self.default = None

    def wait_until_gone(self, _name: str, number: str) -> None:
        assert number not in self.all


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


SiteOf = Callable[..., Site]


@pytest.fixture
def site_of(tmp_path: Path) -> SiteOf:
    def make(*fakes: Fake) -> Site:
        clock = Clock()
        hosts = tuple(Host(one.name, cast("Server", one)) for one in fakes)
        return Site(hosts, tmp_path / "releases", clock=clock, sleep=clock.sleep)

    return make


def serving(default: str, *numbers: str, name: str = "local") -> Fake:
    return Fake(name, default, {number: version(number) for number in numbers})


def write(site: Site, kind: str = "release", number: str = "2.0", **planned: Any) -> Writer:
    """A record begins: what is served now is journaled."""
    site.folder.mkdir(exist_ok=True)
    journal = site.journal("m")
    writer = Writer(site, journal, f"{len(journal.entries()):03}")
    from torchmar.release import observe

    before = {host.name: served_as_json(observe(host.server, "m")) for host in site.hosts}
    writer.write(
        "planned",
        kind=kind,
        version=number,
        hosts=list(before),
        served=before,
        file=f"m-{number}.mar",
        **{"options": QUICK.as_json(), **planned},
    )
    for host in site.hosts:
        writer.served(host)
    return writer


def released(site: Site, *numbers: str) -> None:
    """Releases that were promoted, each with a version that is registered beside the others."""
    for number in numbers:
        writer = write(site, number=number)
        for host in site.hosts:
            fake = cast("Fake", host.server)
            fake.all[number] = version(number)
            fake.default = number
            writer.served(host)
        writer.write("finished", outcome="promoted")


def unfinished(site: Site, *steps: str, number: str = "2.0", **planned: Any) -> None:
    """A release that was killed after these steps were begun."""
    writer = write(site, number=number, **planned)
    for host in site.hosts:
        for step in steps:
            writer.write("begin", host.name, step)


# -- undo ---------------------------------------------------------------------------------------


def test_all_are_back_before_one_is_drained(site_of: SiteOf) -> None:
    """To drain takes minutes; and one server that is down keeps no other from being put back."""
    a, b, c = (serving("1.0", "1.0", name=name) for name in "abc")
    site = site_of(a, b, c)
    unfinished(site, "register", "default")
    for fake in (a, b, c):
        fake.all["2.0"], fake.default = version("2.0"), "2.0"
    order: list[str] = []
    for fake in (a, c):
        fake.acts = cast("list[str]", _Told(fake.name, order))
    b.is_down = True
    with pytest.raises(ReleaseError, match="b could not be put back: b: nothing listens there"):
        rollback(site, "m")
    assert sorted(order[:2]) == ["a default 1.0", "c default 1.0"]
    assert sorted(order[2:]) == ["a unregister 2.0", "c unregister 2.0"]
    b.is_down = False
    assert rollback(site, "m").outcome == "undone"
    assert [(one.default, list(one.all)) for one in (a, b, c)] == [("1.0", ["1.0"])] * 3


class _Told:
    def __init__(self, name: str, order: list[str]) -> None:
        self.name, self.order = name, order

    def append(self, act: str) -> None:
        self.order.append(f"{self.name} {act}")


@pytest.mark.parametrize("given_up", ["failed", "undo default", "undo"])
def test_what_was_given_up_is_not_brought_back(site_of: SiteOf, given_up: str) -> None:
    """Killed while it was undone, and the server with it: what failed is not served again after a restart."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    writer = write(site)
    writer.write("begin", "local", "default")
    fake.all["2.0"], fake.default = version("2.0"), "2.0"
    writer.served(site.hosts[0])
    if given_up == "failed":
        writer.write("failed", "local", "watch", reason="slow")
    else:
        writer.write("begin", "local", given_up)
    fake.all, fake.default = {}, None
    [done] = reconcile(site, "m")
    assert (done.default, fake.default, list(fake.all)) == ("1.0", "1.0", ["1.0"])
    assert resume(site, "m").outcome == "undone"


@pytest.mark.parametrize(("seconds", "size"), [(3, 0), (20, 200_000_000)])
def test_what_the_server_still_unpacks_is_undone(
    site_of: SiteOf, tmp_path: Path, seconds: float, size: int
) -> None:
    """Killed with the call in flight: TorchServe goes on, for longer where the archive is large."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    with (tmp_path / "m-2.0.mar").open("wb") as file:
        file.truncate(size)
    unfinished(site, "register", archive=str(tmp_path / "m-2.0.mar"))

    def sleep(passing: float) -> None:
        cast("Clock", site.clock).sleep(passing)
        if site.clock() > seconds and not fake.acts:
            fake.register("m-2.0.mar", initial_workers=1)

    assert rollback(replace(site, sleep=sleep), "m").outcome == "undone"
    assert fake.acts == ["register 2.0", "unregister 2.0"]


def test_what_the_server_has_refused_is_not_waited_for(site_of: SiteOf) -> None:
    site = site_of(serving("1.0", "1.0"))
    unfinished(site, "register")
    Writer(site, site.journal("m"), "000").write("failed", "local", "register", reason="404")
    assert rollback(site, "m").outcome == "undone"
    assert site.clock() == 0


@pytest.mark.parametrize(
    ("asked", "gate", "is_drained"),
    [(24, "failed", False), (25, "failed", True), (24, "done", False), (24, "begin", True)],
)
def test_who_asks_for_what_was_rejected_is_answered(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch, asked: int, gate: str, is_drained: bool
) -> None:
    """Clients may ask for a candidate as soon as it is READY; where nobody but the gate did, nobody waits.

    What a gate had sent when it was killed is not known, and so taken for others'.
    """
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    writer = write(site)
    sent = {"register": 5, "warm": 3, "gate": 16}
    for step, number in sent.items():
        writer.write("begin", "local", step)
        if step != "gate" or gate != "begin":
            writer.write(gate if step == "gate" else "done", "local", step, sent=number)
    fake.all["2.0"] = version("2.0")
    pinned = {"model_name": "m", "model_version": "2.0"}
    monkeypatch.setattr(Fake, "samples", lambda _: [Sample(NAME, pinned, asked)])
    assert rollback(site, "m").outcome == "undone"
    assert list(fake.all) == ["1.0"]
    assert (site.clock() >= 0.2) == is_drained


def test_what_was_begun_to_be_put_back_is_not_released_any_more(site_of: SiteOf) -> None:
    """Killed right after the default came back: `resume` goes on with undoing, not with the release."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    unfinished(site, "register", "default", "undo default")
    fake.all["2.0"] = version("2.0")
    assert resume(site, "m").outcome == "undone"
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])


def test_a_default_that_died_meanwhile_is_not_gone_back_to(site_of: SiteOf) -> None:
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    unfinished(site, "register", "default")
    fake.all = {"1.0": version("1.0", workers=(worker(ready=False),)), "2.0": version("2.0")}
    fake.default = "2.0"
    with pytest.raises(ReleaseError, match=r"torchmar repair m --version 1\.0"):
        rollback(site, "m")
    assert (fake.default, fake.acts) == ("2.0", [])


def test_the_default_keeps_the_workers_that_a_release_gave_it(site_of: SiteOf) -> None:
    """To end them again would end what they have in hand."""
    fake = serving("2.0", "2.0")
    site = site_of(fake)
    unfinished(site, "ready", "gate")
    fake.scale("m", 3, "2.0")
    assert rollback(site, "m").outcome == "undone"
    assert len(fake.all["2.0"].workers) == 3


def test_who_was_there_before_is_drained_before_its_workers_are_ended(site_of: SiteOf) -> None:
    """Somebody may ask for a version by its number, also where no release has sent anybody there."""
    fake = serving("1.0", "1.0", "2.0")
    site = site_of(fake)
    unfinished(site, "ready")
    fake.scale("m", 3, "2.0")
    assert rollback(site, "m").outcome == "undone"
    assert len(fake.all["2.0"].workers) == 1
    assert site.clock() >= 0.2, "it was waited as long as a request takes"


def nginx(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    file = tmp_path / "nginx.conf"
    file.write_text("# as it was")
    options = replace(QUICK, canary=(5.0,), nginx=str(file), access_log=str(tmp_path / "log"))
    return replace(options, **changes).as_json()


def test_nginx_that_cannot_be_told_keeps_no_default_from_coming_back(site_of: SiteOf, tmp_path: Path) -> None:
    """The candidate stays registered: nginx still sends to it."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    options = nginx(tmp_path, nginx_reload="false")
    unfinished(site, "register", "canary 5", "default", options=options)
    fake.all["2.0"], fake.default = version("2.0"), "2.0"
    shared = canary_module.describe(Options.from_json(options), site.hosts[0], "m", "2.0", 5, "1.0")
    (tmp_path / "nginx.conf").write_text(configuration(shared))
    with pytest.raises(ReleaseError, match="exit code 1"):
        rollback(site, "m")
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0", "2.0"])
    assert (tmp_path / "nginx.conf").read_text() == configuration(shared)


@pytest.mark.parametrize("is_there", [True, False])
def test_nginx_that_never_had_a_share_is_not_told(site_of: SiteOf, tmp_path: Path, *, is_there: bool) -> None:
    """A slip in the command stopped the canary, and the file was put back: it must not stop the way back."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    unfinished(site, "register", "canary 5", options=nginx(tmp_path, nginx_reload="nginx -s relaod"))
    fake.all["2.0"] = version("2.0")
    if not is_there:
        (tmp_path / "nginx.conf").unlink()
    assert rollback(site, "m").outcome == "undone"
    assert list(fake.all) == ["1.0"]
    assert not is_there or (tmp_path / "nginx.conf").read_text() == "# as it was"


def test_a_canary_that_could_not_be_written_is_undone(site_of: SiteOf, tmp_path: Path) -> None:
    """What stopped the canary must not stop the way back for ever."""
    fake = serving("1.0", "1.0")
    fake.address = "https://127.0.0.1:8443"
    site = site_of(fake)
    unfinished(site, "register", "canary 5", options=nginx(tmp_path))
    fake.all["2.0"] = version("2.0")
    assert rollback(site, "m").outcome == "undone"
    assert list(fake.all) == ["1.0"]


def test_nginx_keeps_its_other_servers_and_takes_the_limits_of_this_one(
    site_of: SiteOf, tmp_path: Path
) -> None:
    """Nobody else has the candidate, both versions' time is given, and bodies are as large as may be."""
    fake = serving("1.0", "1.0", "2.0")
    fake.all["1.0"] = replace(fake.all["1.0"], response_timeout=400)
    host = replace(site_of(fake).hosts[0], max_body=20_000_000)
    file = tmp_path / "nginx.conf"
    options = Options(nginx=str(file), access_log="/log")
    described = canary_module.describe(options, host, "m", "2.0", 5, "1.0")
    assert (described.upstreams, described.max_body) == (("127.0.0.1:8080",), 20_000_000)
    assert 400 <= described.response_timeout <= 401
    canary_module.set_share(options, replace(described, upstreams=("127.0.0.1:8080", "other:8080")))
    for _ in range(2):
        described = canary_module.describe(options, host, "m", "2.0", 25, "1.0")
        assert described.upstreams == ("127.0.0.1:8080", "other:8080")
        assert described.candidate_upstreams == ("127.0.0.1:8080",)
        canary_module.set_share(options, described)
    fake.address = "http://new:8080"
    with pytest.raises(ReleaseError, match=r"sends to .*, other:8080 by it, and not to new:8080"):
        canary_module.describe(options, host, "m", "2.0", 25, "1.0")


def test_the_first_configuration_goes_where_nginx_does_not_take_it(site_of: SiteOf, tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    options = Options(nginx=str(file), access_log="/log", nginx_reload="false")
    described = canary_module.describe(options, site_of(serving("1.0", "1.0")).hosts[0], "m", "2.0", 5, "1.0")
    with pytest.raises(ReleaseError, match="is as it was before"):
        canary_module.set_share(options, described)
    assert not file.exists()
    file.write_bytes(b"\xff")
    described = canary_module.describe(options, site_of(serving("1.0", "1.0")).hosts[0], "m", "2.0", 5, "1.0")
    with pytest.raises(ReleaseError, match="cannot be read"):
        canary_module.set_share(options, described)


# -- rollback -----------------------------------------------------------------------------------


def test_a_rollback_that_was_interrupted_goes_on(site_of: SiteOf) -> None:
    """Killed after one of two servers: again goes to the same version on both."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    site = site_of(a, b)
    released(site, "1.0", "2.0")
    b.is_down = True
    with pytest.raises(ReleaseError, match=r"b did not go back to 1.0: .*\n  `torchmar rollback m` again"):
        rollback(site, "m")
    assert (a.default, history(site.journal("m")).served["a"].default) == ("1.0", "1.0")
    b.is_down = False
    assert rollback(site, "m").default == "1.0"
    assert (a.default, b.default) == ("1.0", "1.0")
    with pytest.raises(ReleaseError, match="--to"):
        rollback(site, "m")


def test_what_a_rollback_was_leaving_is_not_brought_back(site_of: SiteOf) -> None:
    """Killed between the switch and its note: neither `status` nor `reconcile` leads to the bad version."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    writer = write(site, kind="rollback", number="1.0", targets={"local": "1.0"})
    writer.write("begin", "local", "back")
    fake.default = "1.0"
    assert (
        status(site.folder, {"local": {"m": served_version("1.0")}})[0].to_do
        == "torchmar rollback m again: it was interrupted"
    )
    reconcile(site, "m")
    assert fake.default == "1.0"


def test_what_is_unfinished_is_to_be_finished(site_of: SiteOf) -> None:
    """Killed between the switch and its note; only where nothing is served, that is to be brought back."""
    site = site_of(serving("1.0", "1.0"))
    unfinished(site, "register", "default")
    assert "torchmar resume m" in status(site.folder, {"local": {"m": served_version("2.0")}})[0].to_do
    assert "torchmar reconcile m" in status(site.folder, {"local": {}})[0].to_do


@pytest.mark.parametrize("between", ["reconcile", "retire", "a release that failed"])
def test_what_was_left_is_no_way_back(site_of: SiteOf, between: str) -> None:
    """Back from 2.0, which was bad: whatever comes then, a rollback does not lead to it again."""
    fake = serving("0.9", "0.9")
    site = site_of(fake)
    released(site, "0.9", "1.0", "2.0")
    assert rollback(site, "m").default == "1.0"
    if between == "reconcile":
        reconcile(site, "m")
    elif between == "retire":
        retire(site, "m", "0.9", QUICK)
    else:
        unfinished(site, "register", "default", number="3.0")
        assert rollback(site, "m").outcome == "undone"
    with pytest.raises(ReleaseError, match="--to"):
        rollback(site, "m")
    assert fake.default == "1.0"
    assert history(site.journal("m")).defaults["local"] == ("0.9", "1.0")


def test_one_that_is_dead_keeps_no_other_from_being_put_back(site_of: SiteOf) -> None:
    """It is not even there to be asked; and the rest is undone when it is."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    site = site_of(a, b)
    unfinished(site, "register", "default")
    for fake in (a, b):
        fake.all["2.0"], fake.default = version("2.0"), "2.0"
    without = replace(site, hosts=site.hosts[:1], missing={"b": "no server runs in /srv/b"})
    with pytest.raises(ReleaseError, match="b could not be put back: no server runs in /srv/b"):
        rollback(without, "m")
    assert (a.default, list(a.all), b.default) == ("1.0", ["1.0"], "2.0")
    assert rollback(site, "m").outcome == "undone"
    assert (b.default, list(b.all)) == ("1.0", ["1.0"])


def test_one_that_is_dead_and_was_not_touched_is_not_missed(site_of: SiteOf) -> None:
    """A release to one after another had not come to it yet."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    site = site_of(a, b)
    write(site).write("begin", "a", "register")
    without = replace(site, hosts=site.hosts[:1], missing={"b": "no server runs in /srv/b"})
    assert rollback(without, "m").outcome == "undone"


def test_one_that_is_dead_is_rolled_back_later(site_of: SiteOf) -> None:
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    site = site_of(a, b)
    released(site, "1.0", "2.0")
    without = replace(site, hosts=site.hosts[:1], missing={"b": "no server runs in /srv/b"})
    with pytest.raises(ReleaseError, match=r"b did not go back to 1\.0: no server runs in /srv/b"):
        rollback(without, "m")
    assert (a.default, b.default) == ("1.0", "2.0")
    assert rollback(site, "m").default == "1.0"
    assert b.default == "1.0"


def test_one_that_is_silent_delays_no_other(site_of: SiteOf) -> None:
    """Its call is answered only when the other one is back."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    site = site_of(a, b)
    released(site, "1.0", "2.0")
    is_back, set_default = threading.Event(), b.set_default

    def silent(*_: Any) -> None:
        assert is_back.wait(30)

    def told(name: str, number: str) -> None:
        set_default(name, number)
        is_back.set()

    a.set_default, b.set_default = silent, told  # type: ignore[method-assign]
    assert rollback(site, "m").outcome == "rolled back"


def test_one_that_was_added_since_is_left_as_it_is(site_of: SiteOf) -> None:
    """It has no version before; the others go back, and it is said."""
    a, b = serving("1.0", "1.0", name="a"), serving("2.0", "2.0", name="b")
    released(site_of(a), "1.0")
    released(site_of(a, b), "2.0")
    back = rollback(site_of(a, b), "m")
    assert (a.default, b.default) == ("1.0", "2.0")
    assert back.note == "b: nothing was the default before, so it is left as it is"


def test_one_that_was_added_since_and_is_dead_is_not_asked(site_of: SiteOf) -> None:
    """Nor is it an error that one which has gone back cannot tell its workers a moment later."""
    a, b = serving("1.0", "1.0", name="a"), Fake("b", is_down=True)
    released(site_of(a), "1.0", "2.0")
    assert rollback(site_of(a, b), "m").outcome == "rolled back"
    released(site_of(a), "3.0")

    def die(entry: Entry) -> None:
        a.is_down = entry.event == "finished"

    back = rollback(replace(site_of(a), on_entry=die), "m")
    assert (back.outcome, a.default) == ("rolled back", "1.0")
    assert back.note == "a: how many workers it has cannot be told: a: nothing listens there"


def test_a_first_version_that_failed_is_no_way_back(site_of: SiteOf) -> None:
    """It was the default for as long as it was watched."""
    fake = Fake()
    site = site_of(fake)
    writer = write(site, number="1.0")
    for step in ("register", "default", "watch"):
        writer.write("begin", "local", step)
    fake.register("m-1.0.mar", initial_workers=1)
    writer.served(site.hosts[0])
    writer.write("failed", "local", "watch", reason="slow")
    assert rollback(site, "m").outcome == "undone"
    released(site, "1.1")
    with pytest.raises(ReleaseError, match="the journal knows no earlier default version on local"):
        rollback(site, "m")
    released(site, "1.2")
    assert rollback(site, "m").default == "1.1"


def test_a_rollback_after_retire(site_of: SiteOf) -> None:
    """The archive is in the store still, and the journal knows how it was served."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    retire(site, "m", "1.0", QUICK)
    assert list(fake.all) == ["2.0"]
    assert rollback(site, "m").default == "1.0"
    assert fake.default == "1.0"


@pytest.mark.parametrize("raised", [BrokenPipeError, SystemExit])
def test_nobody_who_reads_keeps_no_server_from_going_back(site_of: SiteOf, raised: type) -> None:
    """`torchmar rollback m --hosts h | head -1`: what is told cannot be written, and all go back."""
    fakes = [serving("1.0", "1.0", name=name) for name in "abc"]
    site = site_of(*fakes)
    released(site, "1.0", "2.0")

    def tell(_entry: Any) -> None:
        raise raised

    assert rollback(replace(site, on_entry=tell), "m").outcome == "rolled back"
    assert {one.default for one in fakes} == {"1.0"}


# -- reconcile, retire --------------------------------------------------------------------------


def test_one_version_that_is_lost_keeps_no_other_from_being_served(site_of: SiteOf) -> None:
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    fake.all, fake.default, fake.missing = {}, None, ("m-2.0.mar",)
    with pytest.raises(ReleaseError, match=r"1.0: registered, 1 READY now\):\n  m 2.0: .*m-2.0.mar"):
        reconcile(site, "m")
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])
    fake.missing = ()
    assert reconcile(site, "m")[0].acts == ("2.0: registered, 1 READY now", "default is 2.0")


def test_reconcile_makes_no_dead_version_the_default(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody went back to a version that answers; what is meant is told, and is done where none answers."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    fake.all["2.0"], fake.default = version("2.0", workers=(worker(ready=False),)), "1.0"

    def never(*_: Any, **__: Any) -> None:
        raise WorkersNotReady("m 2.0: 0 of 1 workers are READY after 120 s")

    monkeypatch.setattr(fake, "wait_until_ready", never)
    with pytest.raises(ReleaseError, match=r"so 1.0, which has, stays .* `torchmar repair m --version 2.0`"):
        reconcile(site, "m")
    assert fake.default == "1.0"
    fake.all["1.0"] = version("1.0", workers=(worker(ready=False),))
    with pytest.raises(ReleaseError, match=r"default is 2\.0"):
        reconcile(site, "m")
    assert fake.default == "2.0"


@pytest.mark.parametrize(("startup", "waits"), [(60, 120.0), (900, 900.0)])
def test_reconcile_waits_for_a_model_that_loads_for_long(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch, startup: int, waits: float
) -> None:
    """As long as its archive has TorchServe wait for it: startupTimeout."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0")
    fake.all["1.0"] = replace(version("1.0", workers=(worker(ready=False),)), startup_timeout=startup)
    waited: list[float] = []

    def wait(*_: Any, timeout: float, **__: Any) -> ModelVersion:
        waited.append(timeout)
        return version("1.0")

    monkeypatch.setattr(fake, "wait_until_ready", wait)
    reconcile(site, "m")
    assert waited == [waits]


def test_reconcile_waits_for_a_server_that_unpacks_for_long(site_of: SiteOf) -> None:
    """It was silent and goes on; and what it is to have is as it was."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0")
    asked: list[Any] = []
    fake.all, fake.default = {}, None

    def register(*_: Any, **more: Any) -> None:
        asked.append((more["batch_size"], more["response_timeout"]))
        raise TimedOut("POST /models: no answer within 30 s")

    def sleep(passing: float) -> None:
        cast("Clock", site.clock).sleep(passing)
        if site.clock() > 40:
            fake.all["1.0"], fake.default = version("1.0"), "1.0"

    fake.register = register  # type: ignore[method-assign]
    assert reconcile(replace(site, sleep=sleep), "m")[0].acts == ("1.0: registered, 1 READY now",)
    known = version("1.0")
    assert asked == [(known.batch_size, known.response_timeout)]


def test_reconcile_ends_no_worker(site_of: SiteOf) -> None:
    """Somebody gave it more since: what they have in hand would be lost."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0")
    fake.scale("m", 3, "1.0")
    assert reconcile(site, "m")[0].acts == ()
    assert len(fake.all["1.0"].workers) == 3


def test_a_journal_of_other_servers(site_of: SiteOf) -> None:
    released(site_of(serving("1.0", "1.0", name="a")), "1.0")
    with pytest.raises(ReleaseError, match="the journal speaks of a, and not of local: give --hosts"):
        reconcile(site_of(serving("1.0", "1.0")), "m")


def test_to_retire_goes_on_where_it_was_interrupted(site_of: SiteOf) -> None:
    """Killed after the first of two servers, and before that was journaled."""
    a, b = (serving("2.0", "1.0", "2.0", name=name) for name in "ab")
    site = site_of(a, b)
    released(site, "2.0")
    write(site, kind="retire", number="1.0")
    del a.all["1.0"]
    retire(site, "m", "1.0", QUICK)
    assert (list(a.all), list(b.all)) == (["2.0"], ["2.0"])
    assert all(one.get("1.0") is None for one in history(site.journal("m")).served.values())
    with pytest.raises(ReleaseError, match="not registered"):
        retire(site, "m", "1.0", QUICK)


def test_only_those_that_serve_it_retire_a_version(site_of: SiteOf) -> None:
    """A server that was added later never had it."""
    a, b = serving("2.0", "1.0", "2.0", name="a"), serving("2.0", "2.0", name="b")
    site = site_of(a, b)
    released(site, "2.0")
    assert [one.host for one in retire(site, "m", "1.0", QUICK)] == ["a"]
    assert list(a.all) == ["2.0"]


def test_what_cannot_be_seen_is_not_retired_unless_told(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without metrics somebody might ask for it by its number, and lose what he asks for."""
    fake = serving("2.0", "1.0", "2.0")
    monkeypatch.setattr(Fake, "text", lambda _: "")
    site = site_of(fake)
    with pytest.raises(ReleaseError, match="--pinned-unseen"):
        retire(site, "m", "1.0", QUICK)
    assert "1.0" in fake.all
    [done] = retire(site, "m", "1.0", replace(QUICK, pinned_unseen=True))
    assert (done.pinned_seen, list(fake.all)) == (False, ["2.0"])


def test_what_was_refused_for_its_clients_is_not_called_interrupted(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_of(serving("2.0", "1.0", "2.0"))
    released(site, "2.0")
    counted = iter(range(10**6))
    pinned = {"model_name": "m", "model_version": "1.0"}
    monkeypatch.setattr(Fake, "samples", lambda _: [Sample(NAME, pinned, next(counted))])
    with pytest.raises(ReleaseError, match="clients still ask for it by name"):
        retire(site, "m", "1.0", QUICK)
    serves = {"local": {"m": served_version("2.0")}}
    assert [(one.outcome, one.to_do) for one in status(site.folder, serves)] == [("failed", "")]
    write(site, kind="retire", number="1.0")
    assert status(site.folder, serves)[0].to_do.startswith("torchmar retire m 1.0 again")


def test_what_another_server_serves_stays_in_the_store_of_both(site_of: SiteOf, tmp_path: Path) -> None:
    a, b = serving("3.0", "1.0", "3.0", name="a"), serving("3.0", "2.0", "3.0", name="b")
    site = site_of(a, b)
    site = replace(site, hosts=tuple(replace(host, store=tmp_path) for host in site.hosts))
    for number in ("1.0", "2.0", "3.0"):
        write(site, number=number).write("finished", outcome="promoted")
        (tmp_path / f"m-{number}.mar").touch()
    assert [one.removed for one in retire(site, "m", "1.0", QUICK, keep=1)] == [("m-1.0.mar",)]
    assert (tmp_path / "m-2.0.mar").exists()


def test_what_failed_is_not_among_the_archives_to_keep(site_of: SiteOf, tmp_path: Path) -> None:
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    site = replace(site, hosts=(replace(site.hosts[0], store=tmp_path),))
    released(site, "0.9", "1.0", "2.0")
    for number in ("3.0", "4.0"):
        write(site, number=number).write("finished", outcome="failed")
    for number in ("0.9", "1.0", "2.0"):
        (tmp_path / f"m-{number}.mar").touch()
    retire(site, "m", "0.9", QUICK)
    [done] = retire(site, "m", "1.0", QUICK, keep=2)
    assert done.removed == ("m-0.9.mar",)
    assert (tmp_path / "m-1.0.mar").exists()


# -- by hand ------------------------------------------------------------------------------------


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
    assert sorted(fake.all) == ["1.0", "2.0"]
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


def test_steps_by_hand_are_events_without_a_journal(site_of: SiteOf) -> None:
    """What was never released has no journal, and is told all the same."""
    told: list[Entry] = []
    site = replace(site_of(serving("1.0", "1.0")), on_entry=told.append)
    with by_hand(site, "m", "scale") as on:
        on(site.hosts[0])("scale")
    assert [(one.event, one.host, one.step) for one in told] == [
        ("begin", "local", "scale"),
        ("done", "local", "scale"),
    ]
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


# -- on, and not on -----------------------------------------------------------------------------


def carried_out(site: Site, monkeypatch: pytest.MonkeyPatch, took: Callable[[str, str], None]) -> Any:
    """`resume`, where to take a step is to call `took` with host and step."""

    def take(work: Any, step: str) -> str:
        took(work.host.name, step)
        return step

    monkeypatch.setattr(release_module, "take", take)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: ARCHIVE)
    return resume(site, "m")


def test_a_version_that_is_not_the_default_any_more_is_not_called_promoted(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after the switch, then the server was restarted and reconciled: all steps again."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    steps = ["register", "default"]
    writer = write(site, steps={"local": steps}, workers={"local": 1})
    for step in steps:
        writer.write("begin", "local", step)
        writer.write("done", "local", step)
    taken: list[str] = []

    def took(_host: str, step: str) -> None:
        taken.append(step)
        fake.all["2.0"], fake.default = version("2.0"), "2.0" if step == "default" else "1.0"

    assert carried_out(site, monkeypatch, took).outcome == "promoted"
    assert taken == steps


def test_an_interrupt_stops_the_other_servers_of_a_wave(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C: no step is begun after it, least of all the switch; then everything is put back."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    site = site_of(a, b)
    steps = ["register", "default"]
    options = replace(QUICK, wave=2).as_json()
    write(site, steps={"a": steps, "b": steps}, workers={"a": 1, "b": 1}, options=options)
    taken: list[tuple[str, str]] = []

    def took(host: str, step: str) -> None:
        taken.append((host, step))
        if host == "a":
            raise KeyboardInterrupt
        time.sleep(0.3)

    result = carried_out(site, monkeypatch, took)
    assert (result.outcome, result.reason, result.is_put_back) == ("failed", "interrupted (Ctrl-C)", True)
    assert ("b", "default") not in taken


def test_those_who_are_served_do_not_wait_for_a_default_that_hangs(
    site_of: SiteOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the watch of b waits for an answer: b has its old default before that wait is over."""
    a, b = (serving("1.0", "1.0", name=name) for name in "ab")
    site = site_of(a, b)
    steps = ["register", "default", "watch"]
    options = replace(QUICK, wave=2).as_json()
    write(site, steps={"a": steps, "b": steps}, workers={"a": 1, "b": 1}, options=options)
    hangs, seen = threading.Event(), []

    def took(host: str, step: str) -> None:
        fake = a if host == "a" else b
        if step == "register":
            fake.register("m-2.0.mar", initial_workers=1)
        if step == "default":
            fake.set_default("m", "2.0")
        if (host, step) == ("a", "watch"):
            assert hangs.wait(10)
            raise KeyboardInterrupt
        if (host, step) == ("b", "watch"):
            hangs.set()
            deadline = time.monotonic() + 10
            while b.default != "1.0" and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append(b.default)

    result = carried_out(site, monkeypatch, took)
    assert seen == ["1.0"]
    assert (result.outcome, result.reason, result.is_put_back) == ("failed", "interrupted (Ctrl-C)", True)
    assert [(one.default, list(one.all)) for one in (a, b)] == [("1.0", ["1.0"])] * 2


def test_whatever_goes_wrong_everything_is_put_back(site_of: SiteOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what nobody expected: it is undone first, and raised then."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    write(site, steps={"local": ["register", "default"]}, workers={"local": 1})

    def took(_host: str, step: str) -> None:
        fake.all["2.0"], fake.default = version("2.0"), "2.0" if step == "default" else "1.0"
        if step == "default":
            raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError):
        carried_out(site, monkeypatch, took)
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])
    last = history(site.journal("m")).records[-1]
    assert (last.outcome, last.reason) == ("failed", "ZeroDivisionError: a mistake")


def test_ctrl_c_again_and_again(site_of: SiteOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that waits ends at the first; and one that cannot is waited for, also after the next ones.

    The first comes while the thread of the step begins.
    """
    fake = serving("1.0", "1.0")
    site = replace(site_of(fake), sleep=time.sleep, clock=time.monotonic)
    write(site, steps={"local": ["register", "default"]}, workers={"local": 1})

    def press() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def take(work: Work, step: str) -> str:
        fake.all["2.0"] = version("2.0")
        if step == "default":
            press()
            with suppress(release_module._Stopped):
                while True:
                    work.sleep(0.001)
            press()
            time.sleep(0.2)
            press()
            time.sleep(0.2)  # nothing may be undone in this time
            fake.default = "2.0"  # as a call that was under way
        return step

    monkeypatch.setattr(release_module, "take", take)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: ARCHIVE)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = resume(site, "m")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.reason, result.is_put_back) == ("interrupted (Ctrl-C)", True)
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])


def test_ctrl_c_while_it_is_undone(site_of: SiteOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said that it is not, and what goes on with it."""
    site = site_of(serving("1.0", "1.0"))
    write(site, steps={"local": ["register"]}, workers={"local": 1})

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(release_module, "undo_hosts", interrupt)
        result = carried_out(site, patched, interrupt)
    assert not result.is_put_back
    assert "`torchmar rollback m` goes on" in result.reason
    assert rollback(site, "m").outcome == "undone"


def work_on(fake: Fake) -> Work:
    clock = Clock()
    host = Host("local", cast("Server", fake))
    options = Options(ready_timeout=5)
    return Work(host, ARCHIVE, "m-2.0.mar", 1, "1.0", options, clock=clock, sleep=clock.sleep)


def test_what_has_no_worker_by_now_does_not_become_the_default() -> None:
    """The gate may be long ago: a shadow and a canary were between."""
    fake = serving("1.0", "1.0", "2.0")
    fake.all["2.0"] = version("2.0", workers=(worker(ready=False),))
    with pytest.raises(ReleaseError, match="0 of 1 workers are READY"):
        take(work_on(fake), "default")
    assert fake.default == "1.0"


@pytest.mark.parametrize("seconds", [3, 30])
def test_a_server_that_unpacks_for_long_is_waited_for(seconds: float) -> None:
    """It was silent and goes on: taken for a failure, the version would appear when nobody looks any more."""
    fake = serving("1.0", "1.0")
    work = work_on(fake)

    def sleep(passing: float) -> None:
        cast("Clock", work.clock).sleep(passing)
        if work.clock() > seconds:
            fake.all["2.0"] = version("2.0")

    def register(*_: Any, **__: Any) -> None:
        raise TimedOut("POST /models: no answer within 30 s")

    work.sleep = sleep
    fake.register = register  # type: ignore[method-assign]
    if seconds < work.options.ready_timeout:
        assert take(work, "register") == "2.0, asynchronously"
    else:
        with pytest.raises(ReleaseError, match=r"torchmar unregister m 2\.0"):
            take(work, "register")


def test_rollback_tells_of_fewer_workers(site_of: SiteOf) -> None:
    """The version that comes back answers with what it has: that it is less is said, with what to do."""
    fake = serving("1.0", "1.0")
    site = site_of(fake)
    released(site, "1.0", "2.0")
    fake.all["2.0"] = version("2.0", workers=tuple(worker(number) for number in range(3)))
    with by_hand(site, "m", "scale"):
        pass
    assert "1.0 has 1 READY, 2.0 had 3: `torchmar scale m 3`" in rollback(site, "m").note


def test_a_default_without_workers_is_to_be_repaired(site_of: SiteOf) -> None:
    """And a release that is under way is not called one that was interrupted."""
    site = site_of(serving("1.0", "1.0"))
    released(site, "1.0")
    assert (
        "torchmar repair m" in status(site.folder, {"local": {"m": served_version("1.0", ready=0)}})[0].to_do
    )
    with site.journal("m").locked():
        [running] = status(site.folder, {"local": {"m": served_version("1.0")}})
    assert running.outcome == "running"


def test_after_a_release_that_failed_nothing_is_rolled_back(site_of: SiteOf) -> None:
    """Whoever types `rollback` then has what served before; going further back must be said."""
    site = site_of(serving("1.0", "1.0"))
    released(site, "1.0", "2.0")
    write(site, number="3.0").write("finished", outcome="failed")
    with pytest.raises(ReleaseError, match=r"3\.0 was not released.*2\.0 goes on.*--to 1\.0"):
        rollback(site, "m")
    assert rollback(site, "m", "1.0").default == "1.0"


def test_stragglers_are_no_baseline(tmp_path: Path) -> None:
    """At 100 % some requests still reach the default, whose answers are too few to judge by."""
    log = tmp_path / "access.log"
    work = work_on(serving("1.0", "1.0", "2.0"))
    work.default = "1.0"

    def line(number: str, seconds: float) -> str:
        answered = {
            "model": "m",
            "version": number,
            "status": "200",
            "seconds": seconds,
            "upstream_seconds": "",
        }
        return json.dumps(answered) + "\n"

    log.write_text(line("1.0", 0.01) * 60 + line("2.0", 0.01) * 60)
    assert canary_module._judged(work, log, Position()).outcome is Outcome.PASS
    log.write_text(line("1.0", 0.01) * 2 + line("2.0", 0.01) * 60)
    assert canary_module._judged(work, log, Position()).outcome is Outcome.PASS
    log.write_text(line("1.0", 0.01) * 2 + line("2.0", 0.05) * 40)
    assert canary_module._judged(work, log, Position()).outcome is Outcome.FAIL


def test_only_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    """A release that was killed leaves a part of a copy; one beside us may be writing another."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    target = tmp_path / "m-2.0.mar"
    left, ours = (tmp_path / f".m-2.0.mar.{pid}-0a1b.tmp" for pid in (gone.pid, os.getpid()))
    for path in (left, ours, tmp_path / "m-2.0.mar.tmp"):
        path.write_bytes(b"")
    remove_leftovers(target)
    assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ours.name, "m-2.0.mar.tmp"])
