"""The journal: what a process that was killed has left is read, and no line is ever added to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.errors import ReleaseError
from torchmar.release import (
    Entry,
    Fleet,
    Options,
    ServedState,
    ServedVersion,
    history,
    reconcile,
    resume,
    rollback,
    status,
)
from torchmar.release._journal import Journal, Writer, models, read

from .servers_in_memory import Fake, FleetOf

ONE, TWO = ServedVersion("1.0", "mine-1.0.mar", 2, 2), ServedVersion("2.0", "mine-2.0.mar", 2, 2)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    seen: list[Entry] = []
    journal = Journal(tmp_path, "mine", on_entry=seen.append)
    journal.append("a", "planned", kind="release", version="2.0")
    journal.append("a", "begin", host="local", step="copy")
    assert journal.entries() == seen
    assert [json.loads(line)["event"] for line in journal.path.read_text().splitlines()] == [
        "planned",
        "begin",
    ]


@given(cut=st.integers(1, 60))
def test_a_torn_line_says_nothing(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A process was killed, or the power failed, in the middle of writing a line: the others are whole."""
    journal = Journal(tmp_path_factory.mktemp("torn"), "mine")
    journal.append("a", "planned", kind="release")
    journal.append("a", "begin", host="local", step="gate", padding="x" * 80)
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[:-cut])
    journal.append("a", "finished", outcome="undone")
    expected = ["planned", "begin", "finished"] if cut == 1 else ["planned", "finished"]
    assert [entry.event for entry in journal.entries()] == expected


@given(text=st.binary(max_size=200))
def test_rubbish_is_passed_over(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    journal = Journal(tmp_path_factory.mktemp("rubbish"), "mine")
    journal.folder.mkdir(exist_ok=True)
    journal.path.write_bytes(text + b"\n")
    journal.append("a", "planned", kind="release")
    assert journal.entries()[-1].event == "planned"
    history(journal)


def test_history(tmp_path: Path) -> None:
    """Which release is unfinished, what each host is to serve, and which versions were its default."""
    journal = Journal(tmp_path, "mine")
    for number, (version, default) in enumerate((("1.0", "1.0"), ("2.0", "2.0"))):
        journal.append(f"{number}", "planned", kind="release", version=version, hosts=["local"])
        journal.append(
            f"{number}", "served", host="local", **ServedState("mine", default, (ONE, TWO)).as_json()
        )
        assert history(journal).unfinished is not None
        journal.append(f"{number}", "finished", outcome="promoted")
    journal.append("2", "planned", kind="rollback", version="1.0", hosts=["local"])
    journal.append("2", "begin", host="local", step="back")
    found = history(journal)
    assert [record.outcome for record in found.records] == ["promoted", "promoted", None]
    assert found.unfinished is None, "a rollback can be done again"
    assert (found.records[-1].kind, {*found.records[-1].begun}) == ("rollback", {("local", "back")})
    assert found.defaults["local"] == ("1.0", "2.0")
    assert found.served["local"] == ServedState("mine", "2.0", (ONE, TWO))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """Another process is told which one holds the model; however that ends, the model is free then."""
    code = (
        "import sys, os, signal\nfrom pathlib import Path\nfrom torchmar.release._journal import Journal\n"
        f"with Journal(Path({str(tmp_path)!r}), 'mine').locked():\n"
        "    print(os.getpid(), flush=True)\n    signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = holder.stdout.readline().strip()
        journal = Journal(tmp_path, "mine")
        with pytest.raises(ReleaseError, match=f"process {pid} is changing it"), journal.locked():
            pass
        with Journal(tmp_path, "another").locked():
            pass
        holder.kill()
    with journal.locked():
        pass


def test_who_holds_it_is_no_other_process_of_that_number(tmp_path: Path) -> None:
    """What is written there may be of a former holder: its number may be taken again, by us here."""
    journal = Journal(tmp_path, "mine")
    with journal.locked():
        assert journal.holder() == str(os.getpid())
        for text in (f"{os.getpid()}-00000000", str(os.getpid()), "\xff"):
            journal.path.with_suffix(".lock").write_bytes(text.encode("latin-1"))
            assert journal.holder() == "(unknown)"
            held = pytest.raises(ReleaseError, match=r"process \(unknown\) is changing it")
            with held as found, Journal(tmp_path, "mine").locked():
                pass
            assert "kill" not in str(found.value)


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the journals; of one journal among several, the status of its model."""
    for name in ("one", "other"):
        Journal(tmp_path, name).append("a", "planned", kind="release", version="1.0")
    (tmp_path / "one.jsonl").unlink()
    (tmp_path / "one.jsonl").mkdir()
    unread, read = status(tmp_path, {})
    assert (unread.model, unread.outcome) == ("one", "unknown")
    assert "could not be read" in unread.to_do
    assert (read.model, read.outcome) == ("other", "unfinished")
    (tmp_path / "file").write_text("")
    with pytest.raises(ReleaseError, match=r"file: cannot be read: Not a directory"):
        models(tmp_path / "file")
    assert models(tmp_path / "none") == []


@pytest.mark.parametrize("name", ["x" * 5_000, "\udcff", "a\x00b"])
def test_names_that_were_mistyped(fleet_of: FleetOf, name: str) -> None:
    """A name may be no name of a file, nor text: nothing was released under it."""
    fleet = fleet_of(Fake())
    for command in (rollback, resume, reconcile):
        with pytest.raises(ReleaseError):
            command(fleet, name)


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReleaseError, match="nothing was done"), Journal(tmp_path / "file", "mine").locked():
        pass


@given(name=st.text(min_size=1, max_size=20).filter(lambda text: "\x00" not in text))
def test_any_name_is_a_file(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    """Names of models come from archives: none leads out of the folder, and none is lost."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return
    folder = tmp_path_factory.mktemp("names")
    journal = Journal(folder, name)
    journal.append("a", "planned")
    assert journal.path.parent == folder
    assert models(folder) == [name]


def test_what_a_later_torchmar_added_is_left_out() -> None:
    content = {
        "default": "1.0",
        "versions": [{"version": "1.0", "archive": "a", "ready": 1, "workers": 1, "new": 3}],
    }
    assert ServedState.from_json("mine", content).versions == (ServedVersion("1.0", "a", 1, 1),)
    assert read(Options, {"samples": 7, "unheard": True}) == Options(samples=7)
    assert read(Options, json.loads(json.dumps(Options(canary=(1.0,)).as_json()))).samples == 100


@pytest.mark.parametrize(
    "line",
    [
        {"at": "t", "release": "b", "event": "planned", "data": []},
        {"at": "t", "release": ["b"], "event": "planned"},
        {"at": "t", "release": "a", "event": "done", "host": 3, "step": "gate"},
        {"at": "t", "release": "a", "event": "served", "host": "local", "data": {"versions": [3]}},
        {"at": "t", "release": "a", "event": "served", "host": "local", "data": {"versions": [{"new": 1}]}},
        {"at": "t", "release": "a", "event": "served", "host": "local", "data": {"versions": 3}},
        {"at": "t", "release": "a", "event": "done", "host": "local", "step": "x", "data": {"sent": "many"}},
        {"at": "t", "release": "b", "event": "planned", "data": {"kind": "by hand", "served": [1]}},
        {"at": "t", "release": "b", "event": "planned", "data": {"hosts": 5}},
        {"at": "t", "release": "b", "event": "planned", "data": {"hosts": [{}]}},
        {"at": "t", "release": "b", "event": "planned", "data": {"version": 2.0}},
        {"at": "t", "release": "b", "event": "planned", "data": {"steps": {"local": "default"}}},
        {"at": "t", "release": "b", "event": "planned", "data": {"targets": {"local": None}}},
        {"at": "t", "release": "b", "event": "planned", "data": {"workers": {"local": "2"}}},
        {"at": "t", "release": "b", "event": "planned", "data": {"options": {"canary": [True]}}},
        {"at": "t", "release": "b", "event": "planned", "data": {"options": {"watch": "10"}}},
        {"at": "t", "release": "b", "event": "planned", "data": {"options": {"longest": []}}},
        *(
            {"at": "t", "release": "b", "event": "planned", "data": {"file": file}}
            for file in ("", ".", "..", "../m", "/m", "a/b", "a\0b", 5)
        ),
        {"at": "t", "release": "a", "event": "served", "host": "local", "data": {"default": ["1.0"]}},
        *(
            {"at": "t", "release": "a", "event": "served", "host": "local", "data": {"versions": [version]}}
            for version in (
                {"version": 1, "archive": "a", "ready": 1, "workers": 1},
                {"version": "1", "archive": None, "ready": 1, "workers": 1},
                {"version": "1", "archive": "a", "ready": "1", "workers": 1},
                {"version": "1", "archive": "a", "ready": 1, "workers": True},
                {"version": "1", "archive": "a", "ready": 1, "workers": -1},
            )
        ),
    ],
)
def test_what_is_no_entry_is_passed_over(tmp_path: Path, line: dict[str, object]) -> None:
    """JSON that somebody wrote into it by hand."""
    journal = Journal(tmp_path, "mine")
    journal.append("a", "planned", kind="release")
    with journal.path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    past = history(journal)
    assert past.unfinished is not None
    assert past.unfinished.id == "a"
    assert past.served == {}
    assert [one.model for one in status(tmp_path, {})] == ["mine"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    refused = pytest.raises(ReleaseError, match="No locks available; nothing was done")
    with refused, Journal(tmp_path, "mine").locked():
        pass


def test_status_stops_nobody(tmp_path: Path) -> None:
    """It holds the lock for a moment, to see whether somebody does."""
    journal = Journal(tmp_path, "mine")
    with journal.locked():
        pass
    with journal.path.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        threading.Timer(0.1, fcntl.flock, (lock, fcntl.LOCK_UN)).start()
        with journal.locked():
            assert journal.holder() is not None


@pytest.mark.parametrize(
    ("number", "event", "advice"),
    [
        (errno.ENOSPC, "planned", "make room, and begin it again"),
        (errno.EROFS, "begin", "mend that, and `torchmar resume mine`"),
    ],
)
def test_what_to_do_about_a_journal_that_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, event: str, advice: str
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(ReleaseError, match=f"{os.strerror(number)}. Nothing is done .*: {advice}"):
        Journal(tmp_path, "mine").append("a", event)


def test_on_a_full_disk_only_a_way_back_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That it is not noted is told; whoever reads the events sees it. Anything else is not done."""

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    seen: list[Entry] = []
    fleet = Fleet((), tmp_path, on_entry=seen.append)
    back, forth = (
        Writer(fleet.journal("mine"), "a", is_way_back=is_way_back) for is_way_back in (True, False)
    )
    monkeypatch.setattr(os, "fsync", refuse)
    back.write("begin", "local", "undo")
    assert "No space left on device. What was done is not in it: make room" in back.unwritten
    assert [entry.step for entry in seen] == ["undo"]
    with pytest.raises(ReleaseError, match="Nothing is done that is not in it: make room"):
        forth.write("begin", "local", "register")
    assert forth.unwritten == ""


def test_who_holds_a_journal_cannot_be_told_from_anything(tmp_path: Path) -> None:
    """The lock's file may hold what another machine, or somebody else, has written."""
    journal = Journal(tmp_path, "mine")
    with journal.locked():
        for text in (f"{os.getpid()}-00000000", str(os.getpid()), "\xff"):
            journal.path.with_suffix(".lock").write_bytes(text.encode("latin-1"))
            assert journal.holder() == "(unknown)"
            held = pytest.raises(ReleaseError, match=r"process \(unknown\) is changing it")
            with held as found, Journal(tmp_path, "mine").locked():
                pass
            assert "kill" not in str(found.value)
