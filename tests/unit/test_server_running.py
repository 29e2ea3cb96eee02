"""Which TorchServe belongs to a folder: known by number and start, and by where it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchmar.processes import Process, identify
from torchmar.server import RunningServer, ServerConfig, died, find_running, stop
from torchmar.server._run import _clear_leftovers
from torchmar.server._running import MAIN_CLASS, write_state

from .nested import nest

Launch = Callable[..., RunningServer]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Processes that look like TorchServe's, each in a folder of its own and noted there."""
    with ExitStack() as stack:

        def start(name: str, **options: str) -> RunningServer:
            folder = tmp_path / name
            (folder / "logs").mkdir(parents=True)
            temporary = tmp_path / f"torchmar-{name}"
            temporary.mkdir()
            config = ServerConfig(None, {"management_address": "http://127.0.0.1:18081", **options})
            config = config.write(folder / "config.properties")
            code = "print('ready', flush=True); input()"
            command = [sys.executable, "-c", code, f"-Djava.io.tmpdir={temporary}", MAIN_CLASS]
            command += ["--python", "/srv/python", "-f", str(config.path), "-s", "model_store"]
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(command, cwd=folder, stdin=pipe, stdout=pipe))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"  # a process has no arguments until it runs
            (temporary / ".model_server.pid").write_text(str(process.pid), encoding="ascii")
            running = RunningServer(
                identify(process.pid), folder, config, temporary, folder / "logs" / "console.log"
            )
            write_state(running)
            return running

        yield start


def noted(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "logs" / "server.json").read_text(encoding="utf-8"))
    return content


def note(folder: Path, content: object) -> Path:
    """Write what is noted of a folder's server; the folder."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "logs" / "server.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_server_is_found_in_its_folder(launch: Launch) -> None:
    """With its model store, the folder that it unpacks into, and its Python, which nobody else's may be."""
    running = launch("a")
    found = find_running(running.folder)
    assert found is not None
    assert (found.process, found.temporary) == (running.process, running.temporary)
    assert found.model_store == running.folder / "model_store"
    assert found.unpacks_into == running.temporary
    assert found.python == "/srv/python"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getuid", lambda: -1)
        assert found.python == sys.executable
    assert died(running.folder) is None


def test_a_number_that_was_taken_again(launch: Launch) -> None:
    """A process of that number that started at another time is another one, also if it is a TorchServe."""
    running = launch("a")
    note(running.folder, {**noted(running.folder), "started": "an earlier boot:4711"})
    assert find_running(running.folder) is None
    assert died(running.folder) == running.pid


@pytest.mark.parametrize("keeps_start", [True, False])
def test_what_is_noted_of_another_folders_server(launch: Launch, tmp_path: Path, keeps_start: bool) -> None:
    """As in a copy of a folder: right number, right start, and it runs elsewhere."""
    running = launch("a")
    content = noted(running.folder)
    if not keeps_start:
        del content["started"]
    other = note(tmp_path / "b", content)
    assert find_running(other) is None
    assert died(other) == running.pid
    assert find_running(running.folder) is not None


def test_the_next_start_takes_nothing_from_the_server_of_another_folder(
    launch: Launch, tmp_path: Path
) -> None:
    """The temporary folder that is noted is that of a server which runs: it stays."""
    running = launch("a")
    other = note(tmp_path / "b", noted(running.folder))
    _clear_leftovers(other)
    assert running.temporary.exists()
    assert not (other / "logs" / "server.json").exists()


def test_what_an_older_torchmar_noted(launch: Launch) -> None:
    """Without a start it counts where folder and configuration are those of the process."""
    running = launch("a")
    content = {
        key: value for key, value in noted(running.folder).items() if key not in {"started", "settings"}
    }
    note(running.folder, content)
    found = find_running(running.folder)
    assert found is not None
    assert found.process == running.process
    assert found.config.management == "http://127.0.0.1:18081"
    note(running.folder, {**content, "config": str(running.folder / "other.properties")})
    assert find_running(running.folder) is None


def test_a_number_of_something_else(launch: Launch, tmp_path: Path) -> None:
    """This very process is no TorchServe, whatever is noted."""
    own = identify(os.getpid())
    assert own is not None
    content = {"pid": own.pid, "started": own.started, "config": "c", "temporary": "t", "console": "c"}
    assert find_running(note(tmp_path, content)) is None
    assert died(tmp_path) == own.pid


NO_PIDS: tuple[object, ...] = ("1", None, 1.5, [], 0, -1, 10**30)


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        {"pid": 1},
        *({"pid": pid, "config": "c", "temporary": "t", "console": "c"} for pid in NO_PIDS),
        {"pid": 1, "started": 5, "config": "c", "temporary": "t", "console": "c"},
        {"pid": 1, "config": "\0", "temporary": "t", "console": "c"},
        {"pid": 1, "config": {}, "temporary": "t", "console": "c"},
    ],
)
def test_a_note_that_makes_no_sense(tmp_path: Path, content: object) -> None:
    """Neither finds a server nor ends in a traceback."""
    assert find_running(note(tmp_path, content)) is None
    died(tmp_path)
    _clear_leftovers(tmp_path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(["pid", "started", "config", "temporary", "console", "settings"]),
        st.none() | st.integers() | st.text() | st.dictionaries(st.text(), st.integers()),
    )
)
def test_any_note_can_be_read(tmp_path: Path, content: dict[str, Any]) -> None:
    note(tmp_path, content)
    assert find_running(tmp_path) is None
    died(tmp_path)


def test_a_configuration_that_was_changed_since(launch: Launch) -> None:
    """A server is asked where it was started to listen, and can be stopped, whatever the file says now."""
    running = launch("a")
    (running.folder / "config.properties").write_text("management_address=nonsense\n", encoding="ascii")
    found = find_running(running.folder)
    assert found is not None
    assert found.config.management == "http://127.0.0.1:18081"


def test_no_password_is_noted(launch: Launch) -> None:
    """The note may be read by others; the configuration need not be."""
    running = launch("a", keystore_pass="changeit")
    assert "changeit" not in (running.folder / "logs" / "server.json").read_text(encoding="utf-8")


def test_leftovers_of_any_depth(tmp_path: Path) -> None:
    """An archive of 1,500 nested folders was unpacked; the next start removes that, and the key file."""
    temporary = tmp_path / "torchmar-left"
    temporary.mkdir()
    nest(temporary, 1500)
    content = {"pid": 1, "started": "x", "config": "c", "temporary": str(temporary), "console": "c"}
    folder = note(tmp_path / "served", content)
    (folder / "key_file.json").touch()
    _clear_leftovers(folder)
    assert not temporary.exists()
    assert not (folder / "key_file.json").exists()


def test_leftovers_that_cannot_be_removed_stop_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where they are another user's."""

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("torchmar.server._run.remove_tree", refuse)
    temporary = tmp_path / "torchmar-left"
    temporary.mkdir()
    content = {"pid": 1, "started": "x", "config": "c", "temporary": str(temporary), "console": "c"}
    _clear_leftovers(note(tmp_path / "served", content))
    assert temporary.exists()


def test_only_a_temporary_folder_of_torchmars_is_removed(tmp_path: Path) -> None:
    """Whatever the note says."""
    precious = tmp_path / "precious"
    precious.mkdir()
    content = {"pid": 1, "started": "x", "config": "c", "temporary": str(precious), "console": "c"}
    _clear_leftovers(note(tmp_path / "served", content))
    assert precious.exists()


def test_stopping_removes_no_other_folder(launch: Launch, tmp_path: Path) -> None:
    """The note in the server's folder names somebody's data for its temporary folder."""
    running = launch("a")
    precious = tmp_path / "precious"
    precious.mkdir()
    write_state(replace(running, temporary=precious))
    found = find_running(running.folder)
    assert found is not None
    assert found.temporary == precious
    stop(found, timeout=5)
    assert not running.is_alive()
    assert precious.exists()


def test_a_pid_file_that_is_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may make one in /tmp: nobody waits for what is written into it."""
    os.mkfifo(tmp_path / ".model_server.pid")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert find_running(tmp_path) is None


def test_stopping_a_server_that_was_replaced(launch: Launch) -> None:
    """Its folder's keys and note are those of the one that runs there now."""
    running = launch("a")
    (running.folder / "key_file.json").touch()
    stop(
        replace(
            running, process=Process(running.pid, "an earlier boot:4711"), temporary=running.folder / "old"
        )
    )
    assert running.is_alive()
    assert (running.folder / "key_file.json").exists()
    assert find_running(running.folder) is not None
    stop(running, timeout=5)
    assert not running.is_alive()
    assert not (running.folder / "key_file.json").exists()
    assert not running.temporary.exists()
    assert died(running.folder) is None


def test_no_folder_for_temporary_files_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where all disks are full: whether a server runs can be told nevertheless."""

    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert find_running(tmp_path) is None
