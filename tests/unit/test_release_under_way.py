"""A release that is under way: what stops it, and what it goes on in spite of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from torchmar.cli._command import print_results
from torchmar.cli._events import EventPrinter
from torchmar.cli.releasing import shown_result
from torchmar.errors import RegistrationPending, ReleaseError, TimedOut
from torchmar.files import why_not_writable
from torchmar.manage import journaled_change
from torchmar.mar import FileEntry
from torchmar.measure.samples import Outcome
from torchmar.pack import beside
from torchmar.release import Fleet, Host, Options, history, resume, rollback, status, write_report
from torchmar.release import _release as release_module
from torchmar.release._canary import judged
from torchmar.release._fleet import for_each_host
from torchmar.release._gate import CandidateRun, Traffic
from torchmar.release._steps import remove_leftovers, run_step
from torchmar.routers.access_log import AccessLog

from .nested import nest
from .servers_in_memory import (
    ARCHIVE,
    Clock,
    Fake,
    FleetOf,
    as_server,
    released,
    served_version,
    serving,
    version,
    worker,
    write,
)


def carried_out(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, took: Callable[[str, str], None]) -> Any:
    """`resume`, where to take a step is to call `took` with host and step."""

    def run_step(work: Any, step: str) -> str:
        took(work.host.name, step)
        return step

    monkeypatch.setattr(release_module, "run_step", run_step)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: ARCHIVE)
    return resume(fleet, "m")


def test_a_version_that_is_not_the_default_any_more_is_not_called_promoted(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right after the switch, then the server was restarted and reconciled: all steps again."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    steps = ["register", "default"]
    writer = write(fleet, steps={"local": steps}, workers={"local": 1})
    for step in steps:
        writer.write("begin", "local", step)
        writer.write("done", "local", step)
    taken: list[str] = []

    def took(_host: str, step: str) -> None:
        taken.append(step)
        fake.all["2.0"], fake.default = version("2.0"), "2.0" if step == "default" else "1.0"

    assert carried_out(fleet, monkeypatch, took).outcome == "promoted"
    assert taken == steps


def test_an_interrupt_ends_the_release_on_all_servers(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C: no step is begun after it; then everything is put back, on the servers of before, too."""
    a, b, c = (serving("1.0", "1.0", name=name) for name in "abc")
    fleet = fleet_of(a, b, c)
    steps = ["register", "default"]
    write(fleet, steps=dict.fromkeys("abc", steps), workers=dict.fromkeys("abc", 1))
    taken: list[tuple[str, str]] = []

    def took(host: str, step: str) -> None:
        taken.append((host, step))
        fake = {"a": a, "b": b, "c": c}[host]
        if step == "register":
            fake.register("m-2.0.mar", initial_workers=1)
        elif host == "b":
            raise KeyboardInterrupt
        else:
            fake.set_default("m", "2.0")

    result = carried_out(fleet, monkeypatch, took)
    assert (result.outcome, result.reason, result.is_put_back) == (
        "interrupted",
        "interrupted (Ctrl-C)",
        True,
    )
    assert taken == [("a", "register"), ("a", "default"), ("b", "register"), ("b", "default")]
    assert [(one.default, list(one.all)) for one in (a, b, c)] == [("1.0", ["1.0"])] * 3


def test_whatever_goes_wrong_everything_is_put_back(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what nobody expected: it is undone first, and raised then."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    write(fleet, steps={"local": ["register", "default"]}, workers={"local": 1})

    def took(_host: str, step: str) -> None:
        fake.all["2.0"], fake.default = version("2.0"), "2.0" if step == "default" else "1.0"
        if step == "default":
            raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError):
        carried_out(fleet, monkeypatch, took)
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])
    last = history(fleet.journal("m")).records[-1]
    assert (last.outcome, last.reason) == ("failed", "ZeroDivisionError: a mistake")


def test_ctrl_c_ends_a_step_that_waits(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real signal; what the step had done by then is undone."""
    fake = serving("1.0", "1.0")
    fleet = replace(fleet_of(fake), sleep=time.sleep, clock=time.monotonic)
    write(fleet, steps={"local": ["register", "default"]}, workers={"local": 1})

    def step(run: CandidateRun, name: str) -> str:
        fake.all["2.0"] = version("2.0")
        if name == "default":
            fake.default = "2.0"
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            run.sleep(60)
        return name

    monkeypatch.setattr(release_module, "run_step", step)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: ARCHIVE)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = resume(fleet, "m")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.reason, result.is_put_back) == ("interrupted (Ctrl-C)", True)
    assert (fake.default, list(fake.all)) == ("1.0", ["1.0"])


def test_ctrl_c_while_it_is_undone(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said that it is not, and what goes on with it."""
    fleet = fleet_of(serving("1.0", "1.0"))
    write(fleet, steps={"local": ["register"]}, workers={"local": 1})

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(release_module, "undo_hosts", interrupt)
        result = carried_out(fleet, patched, interrupt)
    assert not result.is_put_back
    assert "`torchmar rollback m` goes on" in result.reason
    assert rollback(fleet, "m").outcome == "undone"


def work_on(fake: Fake) -> CandidateRun:
    clock = Clock()
    host = Host("local", as_server(fake))
    options = Options(ready_timeout=5)
    return CandidateRun(host, ARCHIVE, "m-2.0.mar", 1, "1.0", options, clock=clock, sleep=clock.sleep)


def test_what_has_no_worker_by_now_does_not_become_the_default() -> None:
    """The gate may be long ago: a shadow and a canary were between."""
    fake = serving("1.0", "1.0", "2.0")
    fake.all["2.0"] = version("2.0", workers=(worker(ready=False),))
    with pytest.raises(ReleaseError, match="0 of 1 workers are READY"):
        run_step(work_on(fake), "default")
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

    work.sleep, fake._clock = sleep, work.clock
    fake.register = register  # type: ignore[method-assign]
    if seconds < work.options.ready_timeout:
        assert run_step(work, "register") == "2.0, asynchronously"
    else:
        with pytest.raises(RegistrationPending, match=r"torchmar unregister m 2\.0"):
            run_step(work, "register")


def test_rollback_tells_of_fewer_workers(fleet_of: FleetOf) -> None:
    """The version that comes back answers with what it has: that it is less is said, with what to do."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    fake.all["2.0"] = version("2.0", workers=tuple(worker(number) for number in range(3)))
    with journaled_change(fleet, "m", "scale"):
        pass
    assert "1.0 has 1 READY, 2.0 had 3: `torchmar scale m 3`" in rollback(fleet, "m").note


def test_a_default_without_workers_is_to_be_repaired(fleet_of: FleetOf) -> None:
    """And a release that is under way is not called one that was interrupted."""
    fleet = fleet_of(serving("1.0", "1.0"))
    released(fleet, "1.0")
    assert (
        "torchmar repair m" in status(fleet.folder, {"local": {"m": served_version("1.0", ready=0)}})[0].to_do
    )
    with fleet.journal("m").locked():
        [running] = status(fleet.folder, {"local": {"m": served_version("1.0")}})
    assert running.outcome == "running"


def test_after_a_release_that_failed_nothing_is_rolled_back(fleet_of: FleetOf) -> None:
    """Whoever types `rollback` then has what served before; going further back must be said."""
    fleet = fleet_of(serving("1.0", "1.0"))
    released(fleet, "1.0", "2.0")
    write(fleet, number="3.0").write("finished", outcome="failed")
    with pytest.raises(ReleaseError, match=r"3\.0 was not released.*2\.0 goes on.*--to 1\.0"):
        rollback(fleet, "m")
    assert rollback(fleet, "m", "1.0").default == "1.0"


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

    def judge(*lines: str) -> Outcome:
        log.unlink(missing_ok=True)
        opened = AccessLog(log, "m")
        log.write_text("".join(lines))
        return judged(work, opened).outcome

    assert judge(line("1.0", 0.01) * 60 + line("2.0", 0.01) * 60) is Outcome.PASS
    assert judge(line("1.0", 0.01) * 2 + line("2.0", 0.01) * 60) is Outcome.PASS
    assert judge(line("1.0", 0.01) * 2 + line("2.0", 0.05) * 40) is Outcome.FAIL


def test_only_what_nobody_writes_any_more_is_removed(tmp_path: Path) -> None:
    """A release that was killed leaves a part of a copy; one beside us may be writing another.

    One is left by a process whose number belongs to another one by now: to this one here.
    """
    target = tmp_path / "m-2.0.mar"
    code = (
        "from pathlib import Path; from torchmar.pack import beside; import os, sys\n"
        f"with beside(Path({str(target)!r})) as path: path.write_bytes(b''); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    [killed] = tmp_path.iterdir()
    again = tmp_path / f".m-2.0.mar.{os.getpid()}-00000000-0a1b2c3d.tmp"
    again.write_bytes(b"")
    folder = tmp_path / f".m-2.0.mar.{os.getpid()}-00000001-0a1b2c3d.old.tmp"
    folder.mkdir()
    nest(folder, 1500)
    with beside(target) as ours:
        for path in (ours, tmp_path / "m-2.0.mar.tmp"):
            path.write_bytes(b"")
        remove_leftovers(target)
        assert not killed.exists()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ours.name, "m-2.0.mar.tmp"])
    with beside(target) as ours:
        ours.mkdir()
        nest(ours, 1500)
    assert not ours.exists()


def test_what_a_later_torchmar_counts_besides_is_left_out(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal is read by older ones, too."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    writer = write(fleet, steps={"local": ["gate", "watch"]}, workers={"local": 1})
    counted: dict[str, Any] = {"answers": 3, "errors": 0, "requests": 3, "seconds": 0.1}
    writer.write("done", "local", "gate", traffic={**counted, "tokens": 9})
    seen: list[Any] = []

    def run_step(work: CandidateRun, step: str) -> str:
        seen.append(work.before)
        return step

    monkeypatch.setattr(release_module, "run_step", run_step)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: ARCHIVE)
    resume(fleet, "m")
    assert seen[0] == Traffic(**counted)


@pytest.mark.parametrize(
    ("error", "is_silent"), [(RegistrationPending("…"), True), (ReleaseError("404"), False)]
)
def test_whether_a_server_may_be_at_it_still_is_journaled(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch, error: Exception, *, is_silent: bool
) -> None:
    """Where it has refused, it is not; where it was silent, whoever undoes this looks again."""
    fleet = fleet_of(serving("1.0", "1.0"))
    write(fleet, steps={"local": ["register"]}, workers={"local": 1})

    def took(_host: str, _step: str) -> None:
        raise error

    assert carried_out(fleet, monkeypatch, took).is_put_back
    last = history(fleet.journal("m")).records[-1]
    assert (("local", "register") in last.silent) == is_silent


def test_a_folder_that_takes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere but on a file system that is read-only."""
    assert why_not_writable(tmp_path) == ""
    assert why_not_writable(tmp_path / "none").endswith("no such folder")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert why_not_writable(loop / "x").startswith(str(loop))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert why_not_writable(tmp_path).endswith("not writable for this user")


def test_ctrl_c_is_the_reason_of_what_fails_by_it(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that hangs ends in an error of its own, later."""
    fleet = fleet_of(serving("1.0", "1.0"))
    write(fleet, steps={"local": ["register"]}, workers={"local": 1})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def took(_host: str, _step: str) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.3)
        raise ReleaseError("no answer within 0.3 s")

    try:
        result = carried_out(fleet, monkeypatch, took)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.reason, type(result.error)) == ("interrupted (Ctrl-C)", KeyboardInterrupt)


@pytest.mark.parametrize(
    ("files", "steps", "asked"),
    [
        ((), ["gate"], False),
        ((FileEntry("MAR-INF/golden/answers.json", 1, ""),), ["gate"], False),
        ((FileEntry("MAR-INF/golden/a.jpg", 1, ""),), ["gate"], True),
        ((), ["gate", "shadow"], True),
        ((), ["gate", "canary 5"], True),
    ],
)
def test_that_nothing_was_asked_of_what_is_promoted_is_told(
    fleet_of: FleetOf,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    files: tuple[FileEntry, ...],
    steps: list[str],
    *,
    asked: bool,
) -> None:
    """To people, to machines, on the page, and in the journal."""
    fleet = fleet_of(serving("1.0", "1.0"))
    write(fleet, steps={"local": steps}, workers={"local": 1}, sha256="ab")
    monkeypatch.setattr(release_module, "run_step", lambda _work, step: step)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: replace(ARCHIVE, files=files))
    result = resume(fleet, "m")
    assert result.outcome == "promoted"
    page = write_report(fleet, result)
    assert page is not None
    for printer in (EventPrinter(json=True), EventPrinter(), EventPrinter(events=True)):
        assert print_results(shown_result(result, printer, page, ""), printer) == 0
    printed = capsys.readouterr()
    note = "nothing was asked of it: the archive carries no golden requests"
    assert result.note == ("" if asked else note)
    for text, times in (
        (printed.out, 1),
        (printed.err, 2),
        (page.read_text(), 1),
        (fleet.journal("m").path.read_text(), 1),
    ):
        assert text.count(note) == (0 if asked else times)


def test_a_page_that_cannot_be_made_fails_no_release(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is the matter with it: the release has come to its end by then."""
    fleet = fleet_of(serving("1.0", "1.0"))
    write(fleet, steps={"local": ["gate"]}, workers={"local": 1})
    result = carried_out(fleet, monkeypatch, lambda *_: None)
    assert write_report(fleet, replace(result)) is None, "its journal lacks the archive's digest"
    fleet.journal("m").path.unlink()
    fleet.journal("m").path.mkdir()
    assert write_report(fleet, result) is None


def test_a_server_that_is_addressed_in_another_way_is_held_too(fleet_of: FleetOf, tmp_path: Path) -> None:
    """Another folder of journals, another name of the same machine: one of both waits."""
    locks = tmp_path / "locks"
    locks.mkdir()
    one = replace(fleet_of(serving("1.0", "1.0")), locks=locks)
    fake = serving("1.0", "1.0", name="the-server")
    fake.address = "http://localhost:8080"
    other = replace(fleet_of(fake), folder=tmp_path / "elsewhere", locks=locks)
    with one.locked("m"):
        with pytest.raises(
            ReleaseError, match=rf"m: process {os.getpid()} is changing it \(on localhost:8080"
        ):
            rollback_of_nothing(other)
        with other.locked("another"):
            pass
    rollback_of_nothing(other)


def rollback_of_nothing(fleet: Fleet) -> None:
    with fleet.locked("m"):
        pass


def test_how_far_a_step_is(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step under way says it, for whoever watches."""
    said: list[tuple[str, str, str]] = []
    fleet = replace(fleet_of(serving("1.0", "1.0")), on_progress=lambda *found: said.append(found))
    write(fleet, steps={"local": ["gate"]}, workers={"local": 1})

    def run_step(run: CandidateRun, step: str) -> str:
        run.on_progress("request 3 of 100, 1 s of 10 s")
        return step

    monkeypatch.setattr(release_module, "run_step", run_step)
    monkeypatch.setattr(release_module, "_archive_of", lambda *_: ARCHIVE)
    resume(fleet, "m")
    assert said == [("local", "gate", "request 3 of 100, 1 s of 10 s")]


def test_the_way_back_needs_no_lock_that_cannot_be_had(fleet_of: FleetOf, tmp_path: Path) -> None:
    """On a full disk no lock of a server can be written; and a long name fits."""
    fleet = replace(fleet_of(serving("1.0", "1.0")), locks=tmp_path / "missing")
    with fleet.locked("m"):
        pass
    with replace(fleet, locks=tmp_path).locked("ж" * 40):
        pass


def test_ctrl_c_when_it_was_noted_as_promoted(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal says so already: nothing is undone."""
    fake = serving("1.0", "1.0")
    fleet = replace(fleet_of(fake), on_entry=interrupt_at("finished"))
    write(fleet, steps={"local": ["register", "default"]}, workers={"local": 1})

    def took(_host: str, step: str) -> None:
        fake.all["2.0"], fake.default = version("2.0"), "2.0" if step == "default" else "1.0"

    assert carried_out(fleet, monkeypatch, took).outcome == "promoted"
    assert (fake.default, list(fake.all)) == ("2.0", ["1.0", "2.0"])


def interrupt_at(event: str) -> Callable[[Any], None]:
    """Ctrl-C when this is on disk."""

    def note(entry: Any) -> None:
        if entry.event == event:
            raise KeyboardInterrupt

    return note


def test_ctrl_c_twice_while_servers_are_asked_at_once(fleet_of: FleetOf) -> None:
    """What waits ends at the first; a call comes to its end, also after the second, before all else."""
    fleet = replace(
        fleet_of(serving("1.0", "1.0", name="a"), serving("1.0", "1.0", name="b")), sleep=time.sleep
    )
    ended: list[str] = []

    def press() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def act(fleet: Fleet, host: Host) -> None:
        if host.name == "a":
            press()
            time.sleep(0.1)
            press()
            time.sleep(0.1)  # as a call that is under way
            ended.append("call")
        else:
            while True:
                fleet.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            for_each_host(fleet, fleet.hosts, act)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == ["call"]
