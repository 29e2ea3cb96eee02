"""Start TorchServe, wait until it answers, stop it.

Each server gets its own temporary folder. Two servers that share one overwrite each other's worker sockets
and pid file, and `torchserve --start` keeps every archive it ever unpacked there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import ServerAlreadyRunning, ServerError, ServerNotStarted
from ..files import exists, is_file, is_folder, remove_tree
from ..processes import Process, identify
from ._before import free_where, is_full, not_in_store, require_ready, server_environment, write_error
from ._config import LOG_CONFIG, ServerConfig, log_config
from ._java import Java, find_java
from ._running import RunningServer, find_running, forget, is_replaced, read_pid, state_file, write_state
from ._temporary import PREFIX, temporary_place

if TYPE_CHECKING:
    import psutil


def start(
    folder: Path,
    model_store: Path,
    config: ServerConfig,
    *,
    environment: Mapping[str, str],
    java: Java | None = None,
    python: str = sys.executable,
    timeout: float = 90.0,
) -> RunningServer:
    """Start TorchServe in `folder`, which gets key_file.json and logs/, and wait until it answers.

    It reads `config`. It takes no snapshots, because one would replace the configuration at the next start.
    It outlives this process. `timeout` is in seconds. Raises ServerAlreadyRunning, JavaNotFound, and
    ServerNotStarted with the reason.
    """
    folder, config = folder.resolve(), config.resolved(environment)
    running = find_running(folder)
    if running is not None:
        where = running.config.inference
        raise ServerAlreadyRunning(
            f"a server started in {folder} is running already: process {running.pid}, {where} "
            "(`torchmar stop` ends it)"
        )
    java = java or find_java(environment)
    require_ready(folder, model_store, config, python)
    try:
        return _started(folder, model_store, config, environment, java, python, timeout)
    except OSError as error:
        raise write_error(error, folder) from None


def _started(
    folder: Path,
    model_store: Path,
    config: ServerConfig,
    environment: Mapping[str, str],
    java: Java,
    python: str,
    timeout: float,
) -> RunningServer:
    """Start TorchServe after the checks of `start`. Raises ServerNotStarted, OSError."""
    _clear_leftovers(folder)
    (folder / "logs").mkdir(exist_ok=True)
    place = temporary_place(environment)
    # An unpredictable name, readable for this user alone.
    temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place.folder))
    notes = [f"temporary files are in {place.folder}, as {place.why}"] if place.why else []
    notes += not_in_store(config, model_store)
    running = RunningServer(None, folder, config, temporary, folder / "logs" / "console.log")
    try:
        if config.path is None or config.misread or not is_file(config.path):
            if config.misread:
                notes.append(f"{config.path} {config.misread}. This server reads a corrected copy")
            config = config.write(temporary / "config.properties")
        else:
            config = replace(config, path=config.path.resolve())  # the server reads it from another folder
        running = replace(running, config=config, notes=tuple(notes))
        environment = server_environment(environment, java, temporary, running.logs, python)
        running = _launch(running, model_store, environment, python, timeout)
        _wait(running, timeout)
    except BaseException:
        # Ctrl-C may come after the launcher has started Java, before the process is recorded.
        stop(running if running.process else replace(running, process=_launched(temporary)))
        raise
    return running


def _launch(
    running: RunningServer, model_store: Path, environment: Mapping[str, str], python: str, timeout: float
) -> RunningServer:
    """Start the Java process with TorchServe's own launcher, and record it."""
    assert running.console is not None
    command = [python, "-m", "ts.model_server", "--start", "--ncs"]
    command += ["--model-store", str(model_store.resolve()), "--ts-config", str(running.config.path)]
    if not exists(running.folder / LOG_CONFIG):  # Java itself finds one in the folder
        command += ["--log-config", str(log_config())]
    try:
        with running.console.open("wb") as output:
            launched = subprocess.run(
                command,
                cwd=running.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in this terminal must not reach it
                timeout=timeout,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise ServerNotStarted(f"TorchServe's launcher did not end within {timeout:g} s") from None
    process = _launched(running.temporary)
    if launched.returncode != 0 or process is None:
        raise _ended(running)
    running = replace(running, process=process)
    write_state(running)
    return running


def _launched(temporary: Path) -> Process | None:
    """Return the process that TorchServe's launcher started; None if there is none, or it has ended."""
    pid = read_pid(temporary / ".model_server.pid")
    return None if pid is None else identify(pid)


def stop(running: RunningServer, *, timeout: float = 30.0) -> None:
    """Terminate a server and its workers, and kill what is left after `timeout` seconds.

    TorchServe closes all connections at once and does not drain: stop sending requests first.
    """
    process = running.java()
    if process is not None:
        import psutil

        try:
            everyone = [process, *_children(process)]
            process.terminate()
            _, left = psutil.wait_procs(everyone, timeout=timeout)
            for survivor in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    survivor.kill()
            psutil.wait_procs(left, timeout=5)
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied:
            raise ServerError(f"process {running.pid} belongs to another user: it was not stopped") from None
    if running.console is None:
        _remove(running.folder / "key_file.json")
        _remove(running.temporary / ".model_server.pid")
        return
    if not is_replaced(running):
        _remove(running.folder / "key_file.json")
        _remove(state_file(running.folder))
    _remove_temporary(running.temporary)


def _remove(path: Path) -> None:
    """Remove a file or a folder. Ignores failures, because leftovers do no harm."""
    with contextlib.suppress(OSError):
        if is_folder(path) and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)


# -- while it starts ----------------------------------------------------------------------------


def _wait(running: RunningServer, timeout: float) -> None:
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + timeout
    addresses = [running.config.inference, running.config.management]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while addresses:
        if not running.is_alive():
            raise _ended(running)
        if time.monotonic() > deadline:
            raise ServerNotStarted(f"{addresses[0]} did not answer within {timeout:g} s:{_why(running)}")
        try:
            if addresses[0].startswith("unix:"):
                _socket_answers(addresses[0].removeprefix("unix:"))
            elif addresses[0].startswith("https"):
                _tcp_answers(addresses[0])
            else:
                with opener.open(f"{addresses[0]}/ping", timeout=5):
                    pass
            answered = True
        except urllib.error.HTTPError:
            answered = True  # any response will do: without a token it is a 400
        except (OSError, ValueError):
            answered = False
        if answered and _listens(running.pid, addresses[0]):
            addresses.pop(0)
        else:
            time.sleep(0.05)


def _listens(pid: int, address: str) -> bool:
    """Return whether this process listens there, and not a faster server."""
    import psutil

    if address.startswith("unix:"):
        return True
    try:
        process = psutil.Process(pid)
        own = {c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    except psutil.AccessDenied:
        return True  # this system hides it
    except psutil.Error:
        return False
    return urlsplit(address).port in own


def _tcp_answers(address: str) -> None:
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 443), timeout=5):
        pass


def _socket_answers(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(path)


def _ended(running: RunningServer) -> ServerNotStarted:
    printed = "\n".join(_printed(running.console))
    cause = ""
    if "Address already in use" in printed:
        cause = ", because another program now uses one of its ports"
    elif os.strerror(errno.ENOSPC) in printed or is_full(running.folder) or is_full(running.temporary):
        cause = f", because a disk is full: {_free_on_disks(running)}"
    return ServerNotStarted(f"TorchServe ended while starting{cause}:{_why(running)}")


def _free_on_disks(running: RunningServer) -> str:
    return ", ".join(free_where(folder) for folder in (running.folder, running.temporary))


def _why(running: RunningServer) -> str:
    """Return the last of its output, the most important first."""
    lines = _printed(running.console)
    causes = [line for line in lines if "Caused by" in line or "Exception:" in line or "[ERROR]" in line]
    last = [*causes[-5:], *([] if causes else lines[-10:])]
    rest = "" if running.console is None else f"\n  (all of it in {running.console})"
    return "".join(f"\n  {line.strip()}" for line in last) + rest


def _printed(console: Path | None) -> list[str]:
    try:
        return [] if console is None else console.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _children(process: psutil.Process) -> list[psutil.Process]:
    import psutil

    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _clear_leftovers(folder: Path) -> None:
    """Remove what a server left in this folder that did not end normally."""
    _remove(folder / "key_file.json")  # the new server's clients would read the old keys
    temporary = forget(folder)
    if temporary is not None:
        _remove_temporary(temporary)


def _remove_temporary(folder: Path) -> None:
    """Remove sockets and unpacked archives. Checks the prefix, because the state file may name any folder."""
    if folder.name.startswith(PREFIX):
        _remove(folder)
