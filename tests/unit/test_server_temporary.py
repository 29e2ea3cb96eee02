"""Where a server puts what is temporary: a folder in which workers can start, on a disk with room."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from torchmar.errors import ServerError, ServerFailed
from torchmar.files import free_bytes
from torchmar.processes import identify
from torchmar.server import (
    Place,
    RunningServer,
    ServerConfig,
    _room,
    _temporary,
    remove_half_unpacked,
    room_for,
    room_needed,
    temporary_place,
    unpacking,
)
from torchmar.server._running import MAIN_CLASS

# -- the temporary folder -----------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def test_a_folder_as_it_should_be(short: Path) -> None:
    assert temporary_place({"TMPDIR": str(short)}) == Place(short)


@pytest.mark.parametrize("variable", ["TMPDIR", "TEMP", "TMP"])
def test_a_folder_with_a_long_name(short: Path, variable: str) -> None:
    """No worker could bind its socket there: another one is taken, and it is said why."""
    long = short / ("x" * 50) / ("y" * 20)
    long.mkdir(parents=True)
    place = temporary_place({variable: str(long)})
    assert place.folder != long
    assert str(long) in place.why
    assert "is too long" in place.why


def test_the_longest_folder_there_may_be(short: Path) -> None:
    """In the longest one that is taken a worker with a large number can bind its socket."""
    taken = []
    for length in range(30, 90):
        folder = short / ("x" * length)
        folder.mkdir()
        if temporary_place({"TMPDIR": str(folder)}).folder == folder:
            taken.append(folder)
    assert len(taken) < 60
    with tempfile.TemporaryDirectory(prefix="torchmar-", dir=taken[-1]) as name:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"{name}/.ts.sock.1234567")
        with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError, match="too long"):
            one.bind(f"{name}/.ts.sock.12345678")


def test_a_folder_that_is_none_or_may_not_be_used(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is no folder" in temporary_place({"TMPDIR": str(short / "missing")}).why
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != short and real(path, mode))
    assert "is not writable" in temporary_place({"TMPDIR": str(short)}).why


def test_a_full_disk(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = free_bytes
    monkeypatch.setattr(_temporary, "free_bytes", lambda folder: 0 if folder == short else real(folder))
    assert "its disk is full" in temporary_place({"TMPDIR": str(short)}).why


def test_a_folder_from_which_nothing_may_be_run(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is taken where there is one, else this one: workers then listen on ports."""
    monkeypatch.setattr(_temporary, "_places", lambda _: iter([short, Path("/tmp")]))
    problems = {short: _temporary._NO_EXEC, Path("/tmp"): ""}
    monkeypatch.setattr(_temporary, "_problem", problems.__getitem__)
    place = temporary_place({})
    assert (place.folder, "noexec" in place.why) == (Path("/tmp"), True)
    problems[Path("/tmp")] = "is not writable"
    place = temporary_place({})
    assert (place.folder, "noexec" in place.why) == (short, True)


def test_no_folder_at_all(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error that names each, and what is wrong with it."""
    monkeypatch.setattr(_temporary, "_problem", lambda _: "is not writable")
    with pytest.raises(ServerError, match="set TMPDIR to one that is short and writable") as caught:
        temporary_place({"TMPDIR": str(short)})
    assert f"{short}: is not writable" in str(caught.value)


# -- room for what is unpacked ------------------------------------------------------------------


def test_how_much_is_needed() -> None:
    """In blocks, as a disk has them: many small files take more than their bytes."""
    assert room_needed([]) == 0
    assert room_needed([1] * 10) >= 10 * 4096
    assert 10**6 <= room_needed([10**6]) < 10**6 + 3 * 4096


def test_room_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both numbers and the folder are told."""
    monkeypatch.setattr(_room, "free_bytes", lambda _: 16_000_000)
    room_for(tmp_path, [15_000_000]).require("a.mar")
    with pytest.raises(ServerError) as caught:
        room_for(tmp_path, [30_000_000]).require("a.mar")
    assert f"30.0 MB are needed, and 16.0 MB are free in {tmp_path}" in str(caught.value)
    assert room_for(tmp_path, [15_000_000]).is_enough
    monkeypatch.setattr(_room, "free_bytes", lambda _: None)
    room_for(tmp_path, [30_000_000]).require("a.mar")


class Server:
    """What looks like a TorchServe with a temporary folder of its own, and opens files that it is told."""

    _CODE = """
import sys
print("ready", flush=True)
files = []
for line in sys.stdin:
    files.append(open(line.strip()))
    print("open", flush=True)
"""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.store = folder / "model_store"
        self.store.mkdir()
        temporary = folder / "torchmar-own"
        temporary.mkdir()
        command = [sys.executable, "-c", self._CODE, f"-Djava.io.tmpdir={temporary}", MAIN_CLASS]
        command += ["-s", str(self.store)]
        pipe = subprocess.PIPE
        self._process = stack.enter_context(
            subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe, text=True)
        )
        stack.callback(self._process.kill)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"  # a process has no arguments until it runs
        config = ServerConfig(None, {})
        process = identify(self._process.pid)
        self.running = RunningServer(process, folder, config, temporary, folder / "console.log")

    def open(self, file: Path) -> None:
        """Have it hold a file open."""
        file.touch()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file, file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "open\n"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with ExitStack() as stack:
        yield Server(tmp_path, stack)


@pytest.fixture
def running(server: Server) -> RunningServer:
    return server.running


def half(running: RunningServer) -> Path:
    """What a registration that failed leaves."""
    folder = running.temporary / "models6758063793114119733.download"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"0" * 1000)
    return folder


def test_what_was_half_unpacked_is_removed(running: RunningServer) -> None:
    """And what belongs to models that are registered stays."""
    model = running.temporary / "models" / "cffe07d5ad0d489ca58ef4a7c5b1a0e1"
    model.mkdir(parents=True)
    left = half(running)
    assert remove_half_unpacked(running) == 1
    assert not left.exists()
    assert model.exists()
    assert remove_half_unpacked(running) == 0


@pytest.mark.parametrize("name", ["model_store/other.mar", "model_store/other.tar.gz", "elsewhere.mar"])
def test_nothing_is_removed_while_an_archive_is_unpacked(server: Server, tmp_path: Path, name: str) -> None:
    """It may be what the server is at just now, for somebody else."""
    left = half(server.running)
    server.open(tmp_path / name)
    assert remove_half_unpacked(server.running) == 0
    assert left.exists()


def test_nothing_is_removed_from_a_folder_that_is_not_its_own(running: RunningServer, tmp_path: Path) -> None:
    """A `torchserve --start` by hand unpacks into /tmp, beside others."""
    left = half(running)
    assert remove_half_unpacked(replace(running, console=None)) == 0
    beside = half(replace(running, temporary=tmp_path))
    assert remove_half_unpacked(replace(running, temporary=tmp_path)) == 0
    assert left.exists()
    assert beside.exists()


def test_a_registration_that_could_not_be_unpacked(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder, what is needed and what is free are told; what was left is removed."""
    monkeypatch.setattr(_room, "free_bytes", lambda _: 16_000_000)
    half(running)
    with pytest.raises(ServerFailed) as caught, unpacking(running, "a.mar", [10_000_000]):
        raise ServerFailed("500: Failed to save model: a.mar", status=500)
    assert f"10.0 MB are needed, and 16.0 MB are free in {running.temporary}" in str(caught.value)
    assert "What it had begun to unpack was removed" in str(caught.value)
    assert list(running.temporary.iterdir()) == []


def test_what_others_have_left_is_removed_where_its_room_is_needed(
    running: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by curl, whose registration failed: the next one is not refused for it."""
    left = half(running)
    monkeypatch.setattr(_room, "free_bytes", lambda _: 0 if left.exists() else 16_000_000)
    with unpacking(running, "a.mar", [10_000_000]):
        pass
    assert not left.exists()


def test_another_failure_of_a_registration_is_left_as_it_is(running: RunningServer) -> None:
    with pytest.raises(ServerFailed, match=r"^500: something else$"), unpacking(running, "a.mar", []):
        raise ServerFailed("500: something else", status=500)
    with (
        pytest.raises(ServerFailed, match=r"^500: Failed to save model$"),
        unpacking(None, "a.mar", [10**15]),
    ):
        raise ServerFailed("500: Failed to save model", status=500)


def test_an_archive_that_does_not_fit_is_not_even_sent(running: RunningServer) -> None:
    with pytest.raises(ServerError, match=r"a\.mar: does not fit"), unpacking(running, "a.mar", [10**15]):
        pytest.fail("it was sent")
