"""Start TorchServe, wait until it answers, stop it.

Each server has its own temporary folder: two that share one take each other's worker sockets and pid file,
and `torchserve --start` keeps every archive that it ever unpacked in there.
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
from ._before import free_where, is_full, not_in_store, not_written, require_ready, server_environment
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
    """Start TorchServe in `folder`, where key_file.json and logs/ will be, and wait until it answers.

    It reads `config`, takes no snapshots, which would replace it at the next start, and goes on when this
    process ends. `timeout` in seconds. Raises ServerAlreadyRunning, JavaNotFound, and ServerNotStarted with
    the reason.
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
        raise not_written(error, folder) from None


def _started(
    folder: Path,
    model_store: Path,
    config: ServerConfig,
    environment: Mapping[str, str],
    java: Java,
    python: str,
    timeout: float,
) -> RunningServer:
    """What `start` does once nothing is known to stand in its way. Raises ServerNotStarted, OSError."""
    _clear_leftovers(folder)
    (folder / "logs").mkdir(exist_ok=True)
    place = temporary_place(environment)
    # Unpredictable and for us alone.
    temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place.folder))
    notes = [f"temporary files are in {place.folder}, as {place.why}"] if place.why else []
    notes += not_in_store(config, model_store)
    running = RunningServer(None, folder, config, temporary, folder / "logs" / "console.log")
    try:
        if config.path is None or config.misread or not is_file(config.path):
            if config.misread:
                notes.append(
                    f"{config.path} {config.misread}. This server reads a copy that says what was meant"
                )
            config = config.write(temporary / "config.properties")
        else:
            config = replace(config, path=config.path.resolve())  # it is read in another folder
        running = replace(running, config=config, notes=tuple(notes))
        environment = server_environment(environment, java, temporary, running.logs, python)
        running = _launch(running, model_store, environment, python, timeout)
        _wait(running, timeout)
    except BaseException:
        # Ctrl-C can come when the launcher has started Java, and nobody has noted which process it is.
        stop(running if running.process else replace(running, process=_launched(temporary)))
        raise
    return running


def _launch(
    running: RunningServer, model_store: Path, environment: Mapping[str, str], python: str, timeout: float
) -> RunningServer:
    """Have TorchServe's own launcher start the Java process, and note which one it is."""
    assert running.console is not None
    command = [python, "-m", "ts.model_server", "--start", "--ncs"]
    command += ["--model-store", str(model_store.resolve()), "--ts-config", str(running.config.path)]
    if not exists(running.folder / LOG_CONFIG):  # Java finds one that is there by itself
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
                start_new_session=True,  # Ctrl-C in this terminal is not meant for it
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
    """The process that TorchServe's launcher has started; None where it has not, or it ended already."""
    pid = read_pid(temporary / ".model_server.pid")
    return None if pid is None else identify(pid)


def stop(running: RunningServer, *, timeout: float = 30.0) -> None:
    """End a server and its workers: politely, and after `timeout` seconds not politely.

    TorchServe closes all connections at once and does not drain: send it no requests by then.
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
    """Remove a file or a folder, if that can be done: what is left over stops nobody."""
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
            answered = True  # any answer at all: without a token it is a 400
        except (OSError, ValueError):
            answered = False
        if answered and _listens(running.pid, addresses[0]):
            addresses.pop(0)
        else:
            time.sleep(0.05)


def _listens(pid: int, address: str) -> bool:
    """Whether it is this process that listens there, and not another server that was faster."""
    import psutil

    if address.startswith("unix:"):
        return True
    try:
        process = psutil.Process(pid)
        own = {c.laddr.port for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN}
    except psutil.AccessDenied:
        return True  # this system does not tell
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
        cause = ", as one of its ports is in use by another program by now"
    elif os.strerror(errno.ENOSPC) in printed or is_full(running.folder) or is_full(running.temporary):
        cause = f", as a disk is full: {_free_on_disks(running)}"
    return ServerNotStarted(f"TorchServe ended while starting{cause}:{_why(running)}")


def _free_on_disks(running: RunningServer) -> str:
    return ", ".join(free_where(folder) for folder in (running.folder, running.temporary))


def _why(running: RunningServer) -> str:
    """The last of what it printed, what matters most first."""
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
    """Of a server that was started here and did not end in order."""
    _remove(folder / "key_file.json")  # it would be taken for the new one's
    temporary = forget(folder)
    if temporary is not None:
        _remove_temporary(temporary)


def _remove_temporary(folder: Path) -> None:
    """Remove sockets and unpacked archives, and no other folder that somebody has noted for it."""
    if folder.name.startswith(PREFIX):
        _remove(folder)
