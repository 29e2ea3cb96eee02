"""Start TorchServe, wait until it answers, stop it.

Each server has its own temporary folder: two that share one take each other's worker sockets and pid file,
and `torchserve --start` keeps every archive that it ever unpacked in there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import ServerAlreadyRunning, ServerError, ServerNotStarted
from ._config import LOG_CONFIG, ServerConfig, config_or_defaults, log_config
from ._java import Java, find_java
from ._ports import port_is_free

if TYPE_CHECKING:
    import psutil

_MAIN_CLASS = "org.pytorch.serve.ModelServer"
_PREFIX = "torchmar-"


@dataclass(frozen=True)
class RunningServer:
    """A TorchServe process of this machine. `folder` is its working directory."""

    pid: int
    folder: Path
    config: ServerConfig
    temporary: Path
    console: Path | None = None

    @property
    def key_file(self) -> Path | None:
        """Where its tokens are; None where it runs without."""
        return None if self.config.is_true("disable_token_authorization") else self.folder / "key_file.json"

    @property
    def logs(self) -> Path:
        """The folder with its logs; model_log.log is what its workers print."""
        return self.folder / "logs"

    @property
    def model_store(self) -> Path | None:
        """The folder that it takes archives from; None where it was started without one."""
        process = _server_process(self.pid)
        arguments = [] if process is None else process.cmdline()
        for option in ("-s", "--model-store"):
            if option in arguments[:-1]:
                return self.folder / arguments[arguments.index(option) + 1]
        return None

    def is_alive(self) -> bool:
        """Whether the process is still there, and still TorchServe."""
        return _server_process(self.pid) is not None


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
    folder = folder.resolve()
    running = find_running(folder)
    if running is not None:
        where = running.config.inference
        raise ServerAlreadyRunning(
            f"a server started in {folder} is running already: process {running.pid}, {where} "
            "(`torchmar stop` ends it)"
        )
    java = java or find_java(environment)
    _require_torchserve(python)
    _require_free(config)
    if not model_store.is_dir():
        raise ServerNotStarted(f"model store {model_store}: no such folder; `torchmar archive` makes it")
    if not folder.is_dir():
        raise ServerNotStarted(f"{folder}: no such folder to start the server in")
    if not os.access(folder, os.W_OK):
        raise ServerNotStarted(f"{folder} is not writable: TorchServe writes key_file.json and logs/ there")
    _clear_leftovers(folder)
    (folder / "logs").mkdir(exist_ok=True)
    # Unpredictable and for us alone; and short, because a socket's path may have 107 bytes at most.
    temporary = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
    if config.path is not None and config.path.is_file():
        config = replace(config, path=config.path.resolve())  # it is read in another folder
    else:
        config = config.write(temporary / "config.properties")
    running = RunningServer(0, folder, config, temporary, folder / "logs" / "console.log")
    try:
        running = _launch(
            running, model_store, _environment(environment, java, running, python), python, timeout
        )
        _wait(running, timeout)
    except BaseException:
        # Ctrl-C can come when the launcher has started Java, and nobody has noted which process it is.
        stop(replace(running, pid=running.pid or _read_pid(temporary / ".model_server.pid") or 0))
        raise
    return running


def _launch(
    running: RunningServer, model_store: Path, environment: Mapping[str, str], python: str, timeout: float
) -> RunningServer:
    """Have TorchServe's own launcher start the Java process, and note which one it is."""
    assert running.console is not None
    command = [python, "-m", "ts.model_server", "--start", "--ncs"]
    command += ["--model-store", str(model_store.resolve()), "--ts-config", str(running.config.path)]
    if not (running.folder / LOG_CONFIG).exists():  # Java finds one that is there by itself
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
    pid = _read_pid(running.temporary / ".model_server.pid")
    if launched.returncode != 0 or pid is None:
        raise ServerNotStarted(f"TorchServe did not start:{_why(running.console)}")
    running = replace(running, pid=pid)
    _write_state(running)
    return running


def stop(running: RunningServer, *, timeout: float = 30.0) -> None:
    """End a server and its workers: politely, and after `timeout` seconds not politely.

    TorchServe closes all connections at once and does not drain: send it no requests by then.
    """
    process = _server_process(running.pid) if running.pid else None
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
    (running.folder / "key_file.json").unlink(missing_ok=True)
    if running.console is not None:  # the temporary folder is ours: sockets and unpacked archives, no data
        _state_file(running.folder).unlink(missing_ok=True)
        shutil.rmtree(running.temporary, ignore_errors=True)
    else:
        (running.temporary / ".model_server.pid").unlink(missing_ok=True)


def find_running(folder: Path) -> RunningServer | None:
    """The server that was started in `folder`, by `start` or by `torchserve --start`."""
    folder = folder.resolve()
    state = _read_state(folder)
    if state is not None and state.is_alive():
        return state
    shared = Path(tempfile.gettempdir())
    pid = _read_pid(shared / ".model_server.pid")
    process = None if pid is None else _server_process(pid)
    if process is None or pid is None:
        return None
    import psutil

    with contextlib.suppress(psutil.Error):
        # Anyone may write that file: a server of another user must not be taken for ours, and be sent tokens.
        if process.uids().real == os.getuid() and Path(process.cwd()) == folder:
            return RunningServer(pid, folder, _config_of(process, folder), shared)
    return None


def died(folder: Path) -> int | None:
    """The process of a server that was started in `folder` and did not end in order; None where none did."""
    state = _read_state(folder.resolve())
    return None if state is None or state.is_alive() else state.pid


# -- before and while it starts -----------------------------------------------------------------


def _require_torchserve(python: str) -> None:
    if python == sys.executable:
        import importlib.util

        # Named here, because TorchServe itself says it only after the fact, in a log.
        for module, package in (("ts", "torchserve"), ("yaml", "PyYAML"), ("psutil", "psutil")):
            if importlib.util.find_spec(module) is None:
                raise ServerNotStarted(f"{package} is not installed here: pip install 'torchmar[serve]'")


def _require_free(config: ServerConfig) -> None:
    taken = [f"{key} {port}" for key, port in config.ports().items() if not port_is_free(port)]
    if taken:
        raise ServerNotStarted(
            f"in use by another program: {', '.join(taken)}. Stop it (`torchserve --stop`?), "
            f"change {config.path or 'the configuration'}, or give --free-ports"
        )


def _environment(
    environment: Mapping[str, str], java: Java, running: RunningServer, python: str
) -> dict[str, str]:
    result = dict(environment)
    for name in ("TS_CONFIG_FILE", "PYTHONDONTWRITEBYTECODE"):
        # The first would replace our configuration, the second makes every worker compile its imports anew.
        result.pop(name, None)
    result["JAVA_HOME"] = str(java.home)
    result["TMPDIR"] = result["TEMP"] = str(running.temporary)
    result["LOG_LOCATION"] = result["METRICS_LOCATION"] = str(running.logs)
    result["PATH"] = os.pathsep.join([str(Path(python).parent), result.get("PATH", "")])
    return result


def _wait(running: RunningServer, timeout: float) -> None:
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + timeout
    addresses = [running.config.inference, running.config.management]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while addresses:
        if not running.is_alive():
            raise _ended(running.console)
        if time.monotonic() > deadline:
            raise ServerNotStarted(
                f"{addresses[0]} did not answer within {timeout:g} s:{_why(running.console)}"
            )
        try:
            if addresses[0].startswith("https"):
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


def _ended(console: Path | None) -> ServerNotStarted:
    is_taken = any("Address already in use" in line for line in _printed(console))
    cause = ", as one of its ports is in use by another program by now" if is_taken else ""
    return ServerNotStarted(f"TorchServe ended while starting{cause}:{_why(console)}")


def _why(console: Path | None) -> str:
    """The last of what it printed, what matters most first."""
    lines = _printed(console)
    causes = [line for line in lines if "Caused by" in line or "Exception:" in line or "[ERROR]" in line]
    shown = [*causes[-5:], *([] if causes else lines[-10:])]
    rest = "" if console is None else f"\n  (all of it in {console})"
    return "".join(f"\n  {line.strip()}" for line in shown) + rest


def _printed(console: Path | None) -> list[str]:
    try:
        return [] if console is None else console.read_text(errors="replace").splitlines()
    except OSError:
        return []


# -- whose process is it ------------------------------------------------------------------------


def _server_process(pid: int) -> psutil.Process | None:
    """The process, if it is there and a TorchServe: pids are used again."""
    try:
        import psutil
    except ModuleNotFoundError:
        raise ServerError("psutil is not installed here: pip install 'torchmar[serve]'") from None
    try:
        process = psutil.Process(pid)
        if _MAIN_CLASS in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except psutil.Error:
        pass
    return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    import psutil

    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.Error:
        return []
    return found


def _config_of(process: psutil.Process, folder: Path) -> ServerConfig:
    """The configuration that a `torchserve --start` by hand reads: -f, or config.properties beside it."""
    arguments = process.cmdline()
    file = folder / "config.properties"
    if "-f" in arguments[:-1]:
        file = folder / arguments[arguments.index("-f") + 1]
    return config_or_defaults(file)


def _clear_leftovers(folder: Path) -> None:
    """Of a server that was started here and did not end in order."""
    (folder / "key_file.json").unlink(missing_ok=True)  # it would be taken for the new one's
    state = _read_state(folder)
    if state is not None and state.temporary.name.startswith(_PREFIX):
        shutil.rmtree(state.temporary, ignore_errors=True)
    _state_file(folder).unlink(missing_ok=True)


def _state_file(folder: Path) -> Path:
    return folder / "logs" / "server.json"


def _read_pid(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _write_state(running: RunningServer) -> None:
    content = {
        "pid": running.pid,
        "config": str(running.config.path),
        "temporary": str(running.temporary),
        "console": str(running.console),
    }
    _state_file(running.folder).write_text(json.dumps(content), encoding="utf-8")


def _read_state(folder: Path) -> RunningServer | None:
    try:
        content: Mapping[str, Any] = json.loads(_state_file(folder).read_text(encoding="utf-8"))
        pid, temporary, console = (content[key] for key in ("pid", "temporary", "console"))
        path = Path(content["config"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A configuration that was removed since does not make a running server one that is not there.
    config = config_or_defaults(path)
    return RunningServer(int(pid), folder, config, Path(temporary), Path(console))
