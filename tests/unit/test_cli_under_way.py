"""Steps that take long: told while they last, and when they are interrupted."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from torchmar.cli import _under_way, app
from torchmar.cli._events import EventPrinter, print_plans
from torchmar.cli._servers import FleetOptions
from torchmar.manage import journaled_change, state_after
from torchmar.release import Entry, Fleet, Plan
from torchmar.release._plan import Check

from .servers_in_memory import Fake, FleetOf, released, serving, unfinished, version

TINY = str(Path(__file__).resolve().parents[1] / "models" / "tiny")


def entry(event: str, step: str = "gate", host: str = "local") -> Entry:
    return Entry("", "", event, host, step)


def told(capsys: pytest.CaptureFixture[str], text: str, times: int) -> str:
    """What was told on stderr, when it holds a text so many times."""
    found, deadline = "", time.monotonic() + 10
    while found.count(text) < times:
        assert time.monotonic() < deadline, found
        found += capsys.readouterr().err
        time.sleep(0.005)
    return found


def test_a_pipe_is_told_what_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step that takes long, a line from time to time; nothing of it when it is done."""
    monkeypatch.setattr(_under_way, "_ELSEWHERE", 0.01)
    printer = EventPrinter()
    with printer.at_work():
        printer(entry("begin"))
        printer(entry("begin", "drain", "other"))
        printer.note_progress("other", "drain", "2 s of 10 s")
        found = told(capsys, "gate        …", 2)
        assert re.search(r"other     drain       … \d+ s  2 s of 10 s\n", found)
        assert "\x1b" not in found
        printer(entry("done"))
        assert "gate" not in told(capsys, "drain", 4).split("drain", 1)[1]
        printer(entry("failed", "drain", "other"))
    capsys.readouterr()
    printer(entry("begin"))
    time.sleep(0.05)
    assert capsys.readouterr().err == "", "nothing goes on any more"


@pytest.mark.parametrize("output", ["events", "json"])
def test_machines_are_told_by_events(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    """A line of JSON for each, and nothing else: some read both streams as one."""
    monkeypatch.setattr(_under_way, "_ELSEWHERE", 0.01)
    printer = EventPrinter(json=output == "json", events=output == "events")
    with printer.at_work():
        printer(entry("begin"))
        time.sleep(0.05)
    printed = capsys.readouterr()
    assert [json.loads(line)["step"] for line in printed.out.splitlines()] == ["gate"] * (output == "events")
    assert printed.err == ""


@pytest.mark.parametrize(
    ("entries", "state"),
    [
        ([], "nothing was changed"),
        ([entry("planned", "")], "nothing was changed"),
        ([entry("begin"), entry("done")], "every step that had begun was done"),
        ([entry("begin", "unheard")], "during unheard on local"),
        (
            [entry("begin", "undo default"), entry("done", "undo default"), entry("begin", "undo")],
            "during undo on local: the old version is the default again; the new version may still be "
            "registered, and answers",
        ),
        (
            [entry("begin", "retire", "a"), entry("done", "retire", "a"), entry("begin", "retire", "b")],
            "during retire on b: the version may still be registered, and then it answers requests that "
            "name it",
        ),
        (
            [entry("begin", "drain"), entry("failed", "drain")],
            "during drain on local: nothing was changed yet",
        ),
        (
            [entry("begin", "back", "a"), entry("begin", "back", "b")],
            "during back on a, b: the default version may not be back yet",
        ),
    ],
)
def test_what_state_things_are_in(entries: list[Entry], state: str) -> None:
    """As far as the entries tell."""
    assert state_after(entries) == state


# -- Ctrl-C -------------------------------------------------------------------------------------


class Interrupting:
    """A sleep that is interrupted at its n-th call."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, _seconds: float) -> None:
        self.count -= 1
        if self.count == 0:
            raise KeyboardInterrupt


def typed_by_somebody(monkeypatch: pytest.MonkeyPatch, fleet: Fleet, *arguments: str) -> tuple[int, str, str]:
    """Exit code, and what was printed, of a command that acts on this site."""

    @contextmanager
    def reached(_: FleetOptions, on_entry: Any = print, **__: Any) -> Iterator[Fleet]:
        yield replace(fleet, on_entry=on_entry)

    monkeypatch.setattr(FleetOptions, "fleet", reached)
    done = CliRunner().invoke(app, arguments)
    raised = "" if isinstance(done.exception, SystemExit) else str(done.exception or "")
    return done.exit_code, done.stdout, done.stderr + raised


def test_ctrl_c_while_a_version_is_drained(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What state things are in, and what to type; to machines as well; and it does go on."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0", "2.0")
    command = ("retire", "m", "1.0", "--longest", "3", "--dir", "my servers")
    for options in ((), ("--json",)):
        code, out, err = typed_by_somebody(
            monkeypatch, replace(fleet, sleep=Interrupting(3)), *command, *options
        )
        assert code == 130
        assert "the version may still be registered" in err
        again = shlex.join(command)
        assert f"`torchmar {again}` goes on with it" in err
        if options:
            found = json.loads(out)
            assert found["outcome"] == "interrupted"
            assert again in found["reason"]
    assert sorted(fake.all) == ["1.0", "2.0"]
    code, out, _ = typed_by_somebody(monkeypatch, fleet, *command)
    assert (code, sorted(fake.all)) == (0, ["2.0"])
    assert "retired" in out


def test_ctrl_c_while_a_release_is_undone(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is back, and the wait for the candidate's last answers ends at once."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    unfinished(fleet, "register", "default")
    fake.all["2.0"], fake.default = version("2.0"), "2.0"
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.001)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        endless = replace(fleet, sleep=sleep, clock=lambda: 0.0)
        code, _, err = typed_by_somebody(monkeypatch, endless, "rollback", "m")
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert "during undo on local: the old version is the default again; the new version may" in err
    assert "`torchmar rollback m` goes on with it" in err
    assert (fake.default, sorted(fake.all)) == ("1.0", ["1.0", "2.0"])
    code, _, _ = typed_by_somebody(monkeypatch, fleet, "rollback", "m")
    assert (code, sorted(fake.all)) == (0, ["1.0"])


def test_ctrl_c_before_anything_was_done(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is all there is to say."""
    fleet = fleet_of(serving("1.0", "1.0"))
    released(fleet, "1.0", "2.0")

    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fake, "versions", interrupt)
    code, _, err = typed_by_somebody(monkeypatch, fleet, "retire", "m", "1.0")
    assert (code, err) == (130, "error: interrupted: nothing was changed\n")


def test_journals_that_cannot_be_read_hide_nothing_that_is_served(
    fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is served is shown, and then what could not be read is told."""
    fleet = fleet_of(serving("1.0", "1.0"))
    fleet.folder.write_text("")
    code, out, err = typed_by_somebody(monkeypatch, fleet, "status")
    assert code == 1
    assert "m-1.0.mar" in out
    assert "releases: cannot be read: Not a directory" in err
    code, out, _ = typed_by_somebody(monkeypatch, fleet, "status", "--json")
    assert code == 1
    assert [one["version"] for one in json.loads(out)["models"]] == ["1.0"]


def test_a_terminal_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written over, and nothing is left of it when a step is done."""
    screen = Terminal()
    monkeypatch.setattr(_under_way, "err", Console(file=screen, force_terminal=True, color_system=None))
    monkeypatch.setattr(_under_way, "_ON_TERMINAL", 0.005)
    printer = EventPrinter()
    with printer.at_work():
        printer(entry("begin"))
        printer.note_progress("local", "gate", "34 of 100 requests")
        deadline = time.monotonic() + 10
        while screen.getvalue().count("gate") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        printer(entry("done"))
    text = screen.getvalue()
    assert "\n" not in text
    assert "34 of 100 requests" in text
    assert text.endswith("\r\x1b[K")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("command", "act", "told"),
    [
        (("archive", TINY), "torchmar.archive.build", "interrupted: nothing was written of tiny 1.0\n"),
        (("serve",), "torchmar.server.start", "interrupted: no server was left running\n"),
        (("verify", "a.mar"), "torchmar.mar.verify", "interrupted\n"),
    ],
)
def test_ctrl_c_is_told_by_every_command(
    command: Sequence[str], act: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Typer itself ends without a word."""

    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(act, interrupt)
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stderr) == (130, told)


def test_a_model_of_which_nothing_is_to_be_served(fleet_of: FleetOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """After all of it was unregistered: no version is called None."""
    fake = serving("1.0", "1.0")
    fleet = fleet_of(fake)
    released(fleet, "1.0")
    with journaled_change(fleet, "m", "unregister"):
        fake.forget()
    code, out, _ = typed_by_somebody(monkeypatch, fleet, "reconcile")
    assert (code, out.splitlines()[-1]) == (0, "local  m  no version should be served: as it should be")
    assert out.splitlines()[0].startswith("local     reconcile m"), "which of several models it was"


def test_what_is_served_already_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was looked at that anybody would have to read."""
    checks = (Check("golden", "ok", "2 golden requests"),)
    done = Plan("local", "m", "2.0", "m-2.0.mar", "", "2.0", 1, checks, (), "one call")
    print_plans([done])
    assert capsys.readouterr().out == "m 2.0 on local is served as it should be: nothing to do\n"
    print_plans([replace(done, undecidable="it has no golden requests")])
    assert "2 golden requests" in capsys.readouterr().out
