"""What becomes of a release when a worker or the frontend is killed in its middle, or the disk is full."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from torchmar import mar
from torchmar.errors import ClientError, ReleaseError, TorchmarError
from torchmar.release import Entry, Fleet, history, observe, reconcile, release, resume, rollback
from torchmar.workers import process_alive, repair

from .candidates import QUICK, UNJUDGED, ask, candidate, fleet_of, host_of
from .servers import Live, StartServer


@pytest.mark.parametrize("whose", ["2.0", "1.0"])
def test_a_worker_killed_in_the_middle(server: Live, tmp_path: Path, whose: str) -> None:
    """kill -9 of the candidate's worker, or the default's, while they are judged: nothing is promoted.

    The old version goes on; where its own worker died for good, as soon as that is repaired.
    """
    name = f"struck{whose[0]}"
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, name, "1.0")), QUICK).outcome == "promoted"

    def strike(entry: Entry) -> None:
        if (entry.event, entry.step) == ("begin", "gate"):
            os.kill(server.management.describe(name, whose).workers[0].pid, signal.SIGKILL)

    two = mar.verify(candidate(tmp_path, name, "2.0"))
    result = release(replace(fleet, on_entry=strike), two, replace(QUICK, gate_seconds=2.0))
    assert result.outcome == ("failed" if whose == "2.0" else "inconclusive")
    assert "2.0" in result.reason
    served = observe(server.clients, name)
    assert (served.default, len(served.versions)) == ("1.0", 1)
    repair(server.clients, server.store, name, alive=process_alive)
    assert ask(server, name)["version"] == "1.0"


def test_the_frontend_killed_in_the_middle(start_server: StartServer, tmp_path: Path) -> None:
    """kill -9 of TorchServe while it releases: the error says so, `reconcile` brings the old version back."""
    live = start_server()
    fleet = fleet_of(live, tmp_path / "releases")
    options = replace(QUICK, workers=2)
    assert release(fleet, mar.verify(candidate(tmp_path, "lost", "1.0")), options).outcome == "promoted"

    def strike(entry: Entry) -> None:
        if (entry.event, entry.step) == ("begin", "gate"):
            kill_server(live)

    two = mar.verify(candidate(tmp_path, "lost", "2.0"))
    result = release(replace(fleet, on_entry=strike), two, options)
    assert result.outcome == "failed"
    assert "nothing listens there" in result.reason or "connection" in result.reason
    assert "torchmar reconcile lost" in result.reason
    with pytest.raises(TorchmarError):
        resume(fleet, "lost")

    again = live.restarted()
    fleet = fleet_of(again, tmp_path / "releases")
    [done] = reconcile(fleet, "lost")
    assert done.default == "1.0"
    assert done.unfinished is not None
    served = observe(again.clients, "lost")
    assert [(one.version, one.ready) for one in served.versions] == [("1.0", 2)]
    assert rollback(fleet, "lost").outcome == "undone"
    assert not (again.store / "lost-2.0.mar").exists()
    assert release(fleet, two, options).outcome == "promoted", "and the journal is in order again"

    kill_server(again)
    last = again.restarted()
    fleet = fleet_of(last, tmp_path / "releases")
    assert rollback(fleet, "lost").default == "1.0", "after a restart, without reconcile"
    assert ask(last, "lost")["version"] == "1.0"
    reconcile(fleet, "lost")
    assert {one.version for one in observe(last.clients, "lost").versions} == {"1.0", "2.0"}
    assert observe(last.clients, "lost").default == "1.0"


def test_the_frontend_killed_at_the_switch_and_after(start_server: StartServer, tmp_path: Path) -> None:
    """kill -9 of TorchServe as the default changes, is watched, and is put back: then `reconcile` serves 1.0.

    Least of all what failed the watch: the journal of who was killed as well ends at the same entry.
    """
    live, journal, flag = start_server(), tmp_path / "releases", tmp_path / "broken"
    one = mar.verify(candidate(tmp_path, "gone", "1.0"))
    assert release(fleet_of(live, journal), one, UNJUDGED).outcome == "promoted"
    two = mar.verify(candidate(tmp_path, "gone", "2.0", act=f"os.path.exists({str(flag)!r}) and 1 / 0"))

    def strike(entry: Entry, step: str) -> None:
        if (entry.event, entry.step, step) == ("begin", "watch", "undo"):
            flag.touch()
        if (entry.event, entry.step) == ("begin", step):
            kill_server(live)

    for step in ("default", "watch", "undo"):
        fleet = fleet_of(live, journal, on_entry=partial(strike, step=step))
        result = release(fleet, two, UNJUDGED)
        assert (result.outcome, result.is_put_back) == ("failed", False), step
        flag.unlink(missing_ok=True)
        live = live.restarted()
        fleet = fleet_of(live, journal)
        assert reconcile(fleet, "gone")[0].default == "1.0", step
        served = observe(live.clients, "gone")
        assert (served.default, [one.version for one in served.versions]) == ("1.0", ["1.0"]), step
        assert ask(live, "gone")["version"] == "1.0", step
        assert rollback(fleet, "gone").outcome == "undone", step
        assert [path.name for path in live.store.iterdir()] == ["gone-1.0.mar"], step


def kill_server(live: Live) -> None:
    """kill -9 of the frontend; its workers end with it."""
    process = psutil.Process(live.running.pid)
    family = [process, *process.children(recursive=True)]
    process.kill()
    psutil.wait_procs(family[:1], timeout=10)
    for one in family[1:]:
        if one.is_running():
            one.kill()
    psutil.wait_procs(family, timeout=10)


def test_a_broken_default_is_left_at_once(server: Live, tmp_path: Path) -> None:
    """Rollback does not ask the version that it leaves for anything: its workers are dead."""
    fleet = fleet_of(server, tmp_path / "releases")
    for version in ("1.0", "2.0"):
        act = "asked.get('die') and os._exit(1)"
        archive = mar.verify(candidate(tmp_path, "dying", version, act=act))
        assert release(fleet, archive, QUICK).outcome == "promoted"
    with pytest.raises(ClientError):
        ask(server, "dying", die=True)
    back = rollback(fleet, "dying")
    assert back.default == "1.0"
    assert ask(server, "dying")["version"] == "1.0"


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk, writing more fails with an error of the system (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_copying(server: Live, tmp_path: Path) -> None:
    """The old version goes on, the error says what happened, and nothing half-written is left."""
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, "full", "1.0")), QUICK).outcome == "promoted"
    large = mar.verify(candidate(tmp_path, "full", "2.0", padding=3_000_000))
    with files_of_at_most(1_000_000):
        result = release(fleet, large, QUICK)
    assert result.outcome == "failed"
    assert "could not be written: File too large" in result.reason
    assert not list(server.store.glob("*full-2.0*"))
    assert ask(server, "full")["version"] == "1.0"
    assert release(fleet, large, QUICK).outcome == "promoted", "with room again"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / f"filler-{len(list(disk.iterdir()))}").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for journal in disk.rglob("*.jsonl"):  # and what is left in its last block
        with suppress(OSError), journal.open("ab", buffering=0) as file:
            while True:
                file.write(b"\n")


def test_a_disk_that_is_full(server: Live, tmp_path: Path, disk: Path) -> None:
    """A real one, with the journal on it: the error says so, nothing is left, and the way back goes on."""
    fleet = fleet_of(server, disk / "releases")
    for version in ("1.0", "2.0"):
        archive = mar.verify(candidate(tmp_path, "room", version))
        assert release(fleet, archive, UNJUDGED).outcome == "promoted"

    def strike(entry: Entry) -> None:
        if (entry.event, entry.step) == ("begin", "copy"):
            fill(disk)

    host, store = fleet.hosts[0], disk / "store"
    store.mkdir()
    small = replace(fleet, hosts=(replace(host, store=store),), on_entry=strike)
    three = mar.verify(candidate(tmp_path, "room", "3.0", padding=100_000))
    result = release(small, three, UNJUDGED)
    assert (result.outcome, result.is_put_back) == ("failed", True)
    assert "No space left on device" in result.reason
    assert "not in it: make room, and `torchmar rollback room` notes it" in result.reason
    assert list(store.iterdir()) == []
    for filler in disk.glob("filler-*"):
        filler.unlink()
    assert rollback(fleet, "room").outcome == "undone"
    fill(disk)
    with pytest.raises(ReleaseError, match="No space left on device"):
        release(fleet, three, UNJUDGED)
    assert ask(server, "room")["version"] == "2.0"
    done = rollback(fleet, "room", "1.0")
    assert done.outcome == "rolled back"
    assert "not in it: make room, and `torchmar rollback room --to 1.0` notes it" in done.note
    assert ask(server, "room")["version"] == "1.0"


def test_a_journal_that_cannot_be_written(server: Live, tmp_path: Path) -> None:
    """Where an act cannot be journaled, it is not done."""
    fleet = fleet_of(server, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, "noted", "1.0")), QUICK).outcome == "promoted"
    size = (tmp_path / "releases" / "noted.jsonl").stat().st_size
    two = mar.verify(candidate(tmp_path, "noted", "2.0"))
    with files_of_at_most(size), pytest.raises(ReleaseError, match="could not be written"):
        release(fleet, two, QUICK)
    assert [one.version for one in observe(server.clients, "noted").versions] == ["1.0"]
    assert not (server.store / "noted-2.0.mar").exists()
    assert release(fleet, two, QUICK).outcome == "promoted", "with room again"


def test_many_servers_or_none(server: Live, start_server: StartServer, tmp_path: Path) -> None:
    """Where the second fails, the first is put back, too; the journal says where each stands."""
    other = start_server()
    hosts = (host_of(server, "a"), host_of(other, "b"))
    fleet = Fleet(hosts, tmp_path / "releases")
    assert release(fleet, mar.verify(candidate(tmp_path, "fleet", "1.0")), QUICK).outcome == "promoted"
    # On the second server alone it is slow: something is wrong there, and not with the archive.
    flag = other.running.logs / "slow"
    flag.write_text("")
    slow = "os.path.exists(os.path.join(os.environ['LOG_LOCATION'], 'slow')) and time.sleep(0.05)"
    two = mar.verify(candidate(tmp_path, "fleet", "2.0", act=slow))
    result = release(fleet, two, QUICK)
    assert result.outcome == "failed"
    assert "on b" in result.reason
    for live in (server, other):
        served = observe(live.clients, "fleet")
        assert (served.default, len(served.versions)) == ("1.0", 1)
        assert ask(live, "fleet")["version"] == "1.0"
    record = history(fleet.journal("fleet")).records[-1]
    assert ("a", "undo") in record.done
    assert ("b", "undo") in record.done
    flag.unlink()
    assert release(fleet, two, QUICK).outcome == "promoted"
    assert {ask(live, "fleet")["version"] for live in (server, other)} == {"2.0"}
    assert rollback(fleet, "fleet").default == "1.0"
    assert {ask(live, "fleet")["version"] for live in (server, other)} == {"1.0"}
