"""Releases that are killed: whatever is done then, by `resume` or by `rollback`, is whole.

At every entry of the journal for a release to one server; at some that only they have for other shapes of a
release, which tests/unit/test_release_killed.py kills at every entry, against servers in memory.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import requests

from torchmar import mar
from torchmar.client import KeyFile
from torchmar.errors import ClientError, ReleaseError
from torchmar.release import Entry, Fleet, Options, history, observe, release, resume, rollback
from torchmar.routers.nginx import Canary

from .candidates import UNJUDGED, ask, candidate, fleet_of, host_of, told_by
from .killed_release import kill_release
from .nginx import Nginx, needs_nginx, wait_until
from .servers import Live, starter

both_ways = pytest.mark.parametrize("way", ["resume", "rollback"])

STEPS = ("copy", "register", "ready", "warm", "gate", "default", "watch")
# planned, served; each step twice; served after the switch, and at the end; finished
ENTRIES = ["planned", "served"]
for _step in STEPS:
    ENTRIES += [f"begin {_step}", f"done {_step}", *(["served"] if _step == "default" else [])]
ENTRIES += ["served", "finished"]
# Between two entries there is an act only after a `begin`, so before a `done` is a point of its own.
POINTS = [(number, False) for number in range(len(ENTRIES))]
POINTS += [(number, True) for number, entry in enumerate(ENTRIES) if entry.startswith("done")]


@pytest.fixture(scope="module")
def good(server: Live, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """A server with version 1.0 of the model `killed`."""
    _serve_first(server, tmp_path_factory.mktemp("good"))
    return server


def _serve_first(live: Live, folder: Path) -> None:
    first = mar.verify(candidate(folder, "killed", "1.0"))
    assert release(fleet_of(live, folder / "journal"), first, UNJUDGED).outcome == "promoted"


@both_ways
def test_killed_at_every_entry(good: Live, tmp_path: Path, way: str) -> None:
    """Wherever a release is killed: after `resume` or `rollback` one healthy default, and no orphan version.

    The points are enumerated; that there are no others is seen from the journal of one that is not killed.
    """
    two = candidate(tmp_path, "killed", "2.0")
    assert [_told(entry) for entry in _entries(fleet_of(good, tmp_path / "whole"), two)] == ENTRIES
    _back_to_one(good, "killed")
    for number, before in POINTS:
        where = f"{way} after being killed {'before' if before else 'after'} {ENTRIES[number]} ({number})"
        fleet = fleet_of(good, tmp_path / f"{number}{before}")
        code = kill_release({"local": good}, two, UNJUDGED, fleet.folder, number, before=before)
        assert code == -signal.SIGKILL, where
        if history(fleet.journal("killed")).unfinished is None:  # nothing was planned yet, or all was done
            expected = ["1.0", "2.0"]
        else:
            expected = _mend(fleet, "killed", way, where)
        _require(good, "killed", expected, where)
        _back_to_one(good, "killed")


# What follows the watch that fails: failed, the default comes back, then all the rest.
UNDONE = ("failed", "begin undo default", "done", "begin undo", "served", "done", "finished")
UNDO_POINTS = [(number, True) for number in range(len(UNDONE))] + [(1, False), (3, False)]


@both_ways
def test_killed_while_it_is_undone(good: Live, tmp_path: Path, way: str) -> None:
    """Wherever undoing is killed, both ways finish it: the old default answers, and nothing is left over."""
    first = ENTRIES.index("begin watch") + 1
    flag = tmp_path / "broken"
    act = f"os.path.exists({str(flag)!r}) and 1 / 0"
    two = candidate(tmp_path, "killed", "2.0", act=act)
    for number, before in UNDO_POINTS:
        where = f"{way} after being killed {'before' if before else 'after'} {UNDONE[number]} ({number})"
        flag.unlink(missing_ok=True)
        fleet = fleet_of(good, tmp_path / f"{number}{before}")
        servers, entry = {"local": good}, first + number
        code = kill_release(servers, two, UNJUDGED, fleet.folder, entry, before=before, flag=flag)
        assert code == -signal.SIGKILL, where
        undone = resume(fleet, "killed") if way == "resume" else rollback(fleet, "killed")
        # Who was killed before it began to undo goes on, and finds once more that the candidate is broken.
        assert undone.outcome in {"undone", "failed"}, where
        _require(good, "killed", ["1.0"], where)
        assert history(fleet.journal("killed")).unfinished is None, where


@both_ways
def test_the_first_version_killed(server: Live, tmp_path: Path, way: str) -> None:
    """There is nothing to go back to: it is served, or the model is gone."""
    name = f"first_{way}"
    one = candidate(tmp_path, name, "1.0")
    entries = _entries(fleet_of(server, tmp_path / "whole"), one)
    _forget(server, name)
    for number in _begins(entries, "copy", "register", "default"):
        where = f"{way} after being killed after {_told(entries[number])}"
        fleet = fleet_of(server, tmp_path / str(number))
        (server.store / one.name).unlink(missing_ok=True)
        assert kill_release({"local": server}, one, UNJUDGED, fleet.folder, number) == -signal.SIGKILL, where
        expected = _mend(fleet, name, way, where, first=True)
        _require(server, name, expected, where)
        if expected:
            _forget(server, name)


def _forget(live: Live, name: str) -> None:
    live.management.unregister(name, "1.0")
    live.management.wait_until_gone(name, "1.0")


@both_ways
def test_killed_on_the_second_server(good: Live, other: Live, tmp_path: Path, way: str) -> None:
    """Both have the new version, or both the old one, however far the second had come."""
    servers = {"a": good, "b": other}
    hosts = tuple(host_of(live, name) for name, live in servers.items())
    two = candidate(tmp_path, "killed", "2.0")
    entries = _entries(Fleet(hosts, tmp_path / "whole"), two)
    for live in servers.values():
        _back_to_one(live, "killed")
    for number in _begins(entries, "register", "default", "watch", host="b"):
        where = f"{way} after being killed after {_told(entries[number])} on b"
        fleet = Fleet(hosts, tmp_path / str(number))
        assert kill_release(servers, two, UNJUDGED, fleet.folder, number) == -signal.SIGKILL, where
        assert ask(good, "killed")["version"] == "2.0", f"the first was done; {where}"
        expected = _mend(fleet, "killed", way, where)
        for live in servers.values():
            _require(live, "killed", expected, where)
            _back_to_one(live, "killed")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One more server with version 1.0 of the model `killed`."""
    with ExitStack() as stack:
        live = starter(stack, tmp_path_factory)()
        folder = tmp_path_factory.mktemp("other")
        _serve_first(live, folder)
        yield live


def _in_front_of(live: Live, folder: Path) -> tuple[Nginx, Options]:
    """An nginx, and the options of a release with a canary by it."""
    upstream = live.inference.address.removeprefix("http://")
    nginx = Nginx(folder, Canary("killed", "2.0", 0, None, (upstream,), folder / "unset.log"))
    options = replace(
        UNJUDGED,
        canary=(50.0,),
        canary_seconds=0.1,
        nginx=str(nginx.file),
        nginx_reload=nginx.reload_command,
        nginx_listen=nginx.canary.listen,
        access_log=str(nginx.canary.access_log),
    )
    return nginx, options


@needs_nginx
@both_ways
def test_killed_in_a_canary(good: Live, tmp_path: Path, way: str) -> None:
    """What nginx has read by then never sends anybody to a version that is not there."""
    nginx, options = _in_front_of(good, tmp_path)
    two = candidate(tmp_path, "killed", "2.0")
    try:
        entries = _entries(fleet_of(good, tmp_path / "whole"), two, options)
        _back_to_one(good, "killed")
        for number in _begins(entries, "canary 50", "default", "nginx"):
            where = f"{way} after being killed after {_told(entries[number])}"
            fleet = fleet_of(good, tmp_path / str(number), nginx_reload=nginx.reload_command)
            code = kill_release({"local": good}, two, options, fleet.folder, number)
            assert code == -signal.SIGKILL, where
            expected = _mend(fleet, "killed", way, where)
            _require(good, "killed", expected, where)
            assert " 0 % of" in nginx.file.read_text(), where
            # A worker of nginx that has read what was in force before goes on for a moment.
            wait_until(partial(_all_answered_by, expected[-1], nginx, good))
            _back_to_one(good, "killed")
    finally:
        nginx.stop()


@needs_nginx
def test_an_nginx_that_cannot_be_told(good: Live, tmp_path: Path) -> None:
    """Its command is not taken from the journal: callers of nginx are answered, by whichever version, until
    it is given again.
    """
    nginx, options = _in_front_of(good, tmp_path)
    two = candidate(tmp_path, "killed", "2.0")
    fleet = fleet_of(good, tmp_path / "journal")
    canary = ENTRIES.index("done gate") + 2
    try:
        assert kill_release({"local": good}, two, options, fleet.folder, canary) == -signal.SIGKILL
        wait_until(lambda: not _all_answered_by("1.0", nginx, good))
        with pytest.raises(ReleaseError, match=r"may send to killed 2\.0 still, .*give --nginx-reload again"):
            rollback(fleet, "killed")
        assert " 0 % of" in nginx.file.read_text()
        assert not _all_answered_by("1.0", nginx, good)
        told = replace(fleet, nginx_reload=nginx.reload_command)
        assert rollback(told, "killed").outcome == "undone"
        wait_until(partial(_all_answered_by, "1.0", nginx, good))
    finally:
        nginx.stop()
    _require(good, "killed", ["1.0"], "after rollback")


@needs_nginx
def test_an_nginx_that_is_gone(good: Live, tmp_path: Path) -> None:
    """Killed in a canary, and then nginx is, too: the candidate is kept until somebody says so."""
    nginx, options = _in_front_of(good, tmp_path)
    two = candidate(tmp_path, "killed", "2.0")
    fleet = fleet_of(good, tmp_path / "journal")
    canary = ENTRIES.index("done gate") + 2
    try:
        assert kill_release({"local": good}, two, options, fleet.folder, canary) == -signal.SIGKILL
    finally:
        nginx.stop()
    told = replace(fleet, nginx_reload=nginx.reload_command)
    with pytest.raises(ReleaseError, match=r"could not be put back: .*nginx"):
        rollback(told, "killed")
    assert [one.version for one in observe(good.clients, "killed").versions] == ["1.0", "2.0"]
    assert " 0 % of" in nginx.file.read_text()
    assert rollback(fleet, "killed", force=True).outcome == "undone"
    assert " 0 % of" in nginx.file.read_text()
    _require(good, "killed", ["1.0"], "after rollback --force")


def test_a_client_that_never_stops_asking_for_the_candidate(good: Live, tmp_path: Path) -> None:
    """It is answered for as long as nobody says that it need not be; the default is back at once."""
    two = candidate(tmp_path, "killed", "2.0")
    fleet = fleet_of(good, tmp_path / "journal")
    options = replace(UNJUDGED, drain_timeout=0.5)
    entry = ENTRIES.index("done default")
    assert kill_release({"local": good}, two, options, fleet.folder, entry) == -signal.SIGKILL
    answered, over = threading.Event(), threading.Event()

    def pinned() -> None:
        while not over.is_set():
            good.inference.predict("killed", {"key": "a"}, version="2.0", timeout=2)
            answered.set()

    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        stack.callback(over.set)
        asking = pool.submit(pinned)
        assert answered.wait(10)
        with pytest.raises(ReleaseError, match=r"clients still ask for it by name after 0\.5 s"):
            rollback(fleet, "killed")
        assert not asking.done()
        assert ask(good, "killed")["version"] == "1.0"
        done = rollback(fleet, "killed", force=True)
        assert done.outcome == "undone"
        # What it had just asked may be answered by nobody, or by a worker that is killed.
        assert isinstance(asking.exception(timeout=10), ClientError)
    _require(good, "killed", ["1.0"], f"after rollback --force: {done.note}")


def _all_answered_by(version: str, nginx: Nginx, live: Live) -> bool:
    """Whether it answers twenty callers of nginx; that any of them is not answered at all is an error."""
    assert live.running.key_file is not None
    headers = {"Authorization": f"Bearer {KeyFile(live.running.key_file).token('inference')}"}
    answers = [
        requests.post(
            f"{nginx.address}/predictions/killed",
            json={"key": "a"},
            headers={**headers, "X-Torchmar-Key": str(number)},
            timeout=10,
        )
        for number in range(20)
    ]
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    return {told_by(answer.json())["version"] for answer in answers} == {version}


def _entries(fleet: Fleet, archive: Path, options: Options = UNJUDGED) -> list[Entry]:
    """The journal of a release that nobody kills."""
    entries: list[Entry] = []
    result = release(replace(fleet, on_entry=entries.append), mar.verify(archive), options)
    assert result.outcome == "promoted", result.reason
    return entries


def _told(entry: Entry) -> str:
    return f"{entry.event} {entry.step}".strip()


def _begins(entries: list[Entry], *steps: str, host: str = "local") -> list[int]:
    begins = ((number, entry) for number, entry in enumerate(entries) if entry.event == "begin")
    found = [number for number, entry in begins if entry.host == host and entry.step in steps]
    assert len(found) == len(steps), f"{steps} in {entries}"
    return found


def _mend(fleet: Fleet, name: str, way: str, where: str, *, first: bool = False) -> list[str]:
    """Finish what was killed; the versions that are to be served then, the default last."""
    if way == "resume":
        assert resume(fleet, name).outcome == "promoted", where
        return ["1.0"] if first else ["1.0", "2.0"]
    assert rollback(fleet, name).outcome == "undone", where
    return [] if first else ["1.0"]


def _require(live: Live, name: str, versions: list[str], where: str) -> None:
    """Just these are served, each by one worker that is READY; the last one is the default, and answers."""
    served = observe(live.clients, name)
    assert [one.version for one in served.versions] == versions, where
    assert all(one.ready == one.workers == 1 for one in served.versions), where
    assert sorted(path.name for path in live.store.glob(f"*{name}*")) == [
        f"{name}-{version}.mar" for version in versions
    ], where
    if versions:
        assert served.default == versions[-1], where
        assert ask(live, name)["version"] == versions[-1], where


def _back_to_one(live: Live, name: str) -> None:
    management = live.management
    if observe(live.clients, name).get("2.0") is not None:
        management.set_default(name, "1.0")
        management.unregister(name, "2.0")
        management.wait_until_gone(name, "2.0")
    (live.store / f"{name}-2.0.mar").unlink(missing_ok=True)
