"""Find the TorchServe of a folder: its process, and whether it still runs.

A process's number and start time identify it. Numbers recur, and a restarted container gives out the same few
again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ServerError
from ..files import is_file
from ..processes import Process, identify
from ._config import ServerConfig, config_or_defaults

if TYPE_CHECKING:
    import psutil

MAIN_CLASS = "org.pytorch.serve.ModelServer"


@dataclass(frozen=True)
class RunningServer:
    """A TorchServe process on this machine. `folder` is its working directory.

    If `start` started it, `temporary` is its own folder and `console` holds its output. `notes` say where the
    start departed from the request.
    """

    process: Process | None
    folder: Path
    config: ServerConfig
    temporary: Path
    console: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def pid(self) -> int:
        """Return its process number; 0 before it has one."""
        return 0 if self.process is None else self.process.pid

    @property
    def key_file(self) -> Path | None:
        """Return the path of its tokens; None if it runs without tokens."""
        return None if self.config.is_true("disable_token_authorization") else self.folder / "key_file.json"

    @property
    def logs(self) -> Path:
        """Return the folder of its logs; model_log.log holds what its workers print."""
        return self.folder / "logs"

    @property
    def model_store(self) -> Path | None:
        """Return its model store; None if it was started without one."""
        arguments = self._arguments()
        for option in ("-s", "--model-store"):
            if option in arguments[:-1]:
                return self.folder / arguments[arguments.index(option) + 1]
        return None

    @property
    def python(self) -> str:
        """Return its workers' Python; this process's if unknown or another user's."""
        java = self.java()
        arguments = [] if java is None or not _is_ours(java) else _arguments(java)
        return arguments[arguments.index("--python") + 1] if "--python" in arguments[:-1] else sys.executable

    @property
    def unpacks_into(self) -> Path:
        """Return the folder that it unpacks archives into: Java's temporary folder, not the model store."""
        option = "-Djava.io.tmpdir="
        for argument in reversed(self._arguments()):
            if argument.startswith(option):
                return self.folder / argument.removeprefix(option)
        return Path(tempfile.gettempdir() if sys.platform == "darwin" else "/tmp")  # noqa: S108 (Java's)

    def is_alive(self) -> bool:
        """Return whether the process still runs and is TorchServe."""
        return self.java() is not None

    def java(self) -> psutil.Process | None:
        """Return its process; None if it has ended, even if another process has its number."""
        return None if self.process is None or not self.process.is_alive() else java_process(self.process.pid)

    def _arguments(self) -> Sequence[str]:
        java = self.java()
        return [] if java is None else _arguments(java)


def find_running(folder: Path) -> RunningServer | None:
    """Return the server that `start` or `torchserve --start` started in `folder`."""
    folder = folder.resolve()
    state = _read_state(folder)
    if state is not None and _runs(state, folder):
        return state.server
    return _started_by_hand(folder)


def died(folder: Path) -> int | None:
    """Return the process of a server in `folder` that ended without `stop`; None if none did.

    Nobody can say afterwards whether it was killed or got SIGTERM.
    """
    folder = folder.resolve()
    state = _read_state(folder)
    return None if state is None or _runs(state, folder) else state.pid


def _started_by_hand(folder: Path) -> RunningServer | None:
    try:
        shared = Path(tempfile.gettempdir())
    except OSError:  # no temporary folder is writable
        return None
    pid = read_pid(shared / ".model_server.pid")
    process = None if pid is None else identify(pid)
    java = None if process is None else java_process(process.pid)
    if java is None:
        return None
    import psutil

    with suppress(psutil.Error):
        # Anyone may write that file: never send tokens to another user's server.
        if _is_ours(java) and _is_same(java.cwd(), folder):
            return RunningServer(process, folder, _config_of(java, folder), shared)
    return None


def java_process(pid: int) -> psutil.Process | None:
    """Return the process of this number, if it runs TorchServe."""
    try:
        import psutil
    except ModuleNotFoundError:
        raise ServerError("psutil is not installed here: pip install 'torchmar[serve]'") from None
    try:
        process = psutil.Process(pid)
        if MAIN_CLASS in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (psutil.Error, ValueError, OverflowError):
        pass
    return None


def read_pid(file: Path) -> int | None:
    """Return the number in a pid file; None if there is no such file or no number in it."""
    if not is_file(file):  # anyone may make a pipe in /tmp, and reading it would block
        return None
    try:
        return int(file.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _is_ours(java: psutil.Process) -> bool:
    import psutil

    try:
        return bool(java.uids().real == os.getuid())
    except psutil.Error:
        return False


def _arguments(java: psutil.Process) -> list[str]:
    import psutil

    try:
        found: list[str] = java.cmdline()
    except psutil.Error:
        return []
    return found


def _config_of(java: psutil.Process, folder: Path) -> ServerConfig:
    """Return the configuration that `torchserve --start` reads: -f, or config.properties beside it."""
    arguments = _arguments(java)
    file = folder / "config.properties"
    if "-f" in arguments[:-1]:
        file = folder / arguments[arguments.index("-f") + 1]
    return config_or_defaults(file, by_java=True)


def _is_same(one: str | Path, other: Path) -> bool:
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return False


# -- a server's state file in its folder --------------------------------------------------------


@dataclass(frozen=True)
class _State:
    """What `start` recorded. `started` is None if an older torchmar wrote it."""

    server: RunningServer
    pid: int
    started: str | None
    config: str


def state_file(folder: Path) -> Path:
    """Return the file that records which server was started in a folder."""
    return folder / "logs" / "server.json"


def write_state(running: RunningServer) -> None:
    """Record which server was started, for `find_running`. Raises OSError."""
    assert running.process is not None
    settings = {key: value for key, value in running.config.settings.items() if "pass" not in key.lower()}
    content = {
        "pid": running.process.pid,
        "started": running.process.started,
        "config": str(running.config.path),
        "settings": settings,
        "temporary": str(running.temporary),
        "console": str(running.console),
    }
    state_file(running.folder).write_text(json.dumps(content), encoding="utf-8")


def _read_state(folder: Path) -> _State | None:
    try:
        content: Mapping[str, Any] = json.loads(state_file(folder).read_text(encoding="utf-8"))
        pid, started, settings = content["pid"], content.get("started"), content.get("settings")
        config, temporary, console = (Path(content[key]) for key in ("config", "temporary", "console"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(pid, int) or not (started is None or isinstance(started, str)):
        return None
    process = identify(pid) if started is None else Process(pid, started)
    server = RunningServer(process, folder, _config_then(config, settings), temporary, console)
    return _State(server, pid, started, str(config))


def _config_then(path: Path, settings: Any) -> ServerConfig:
    """Return the configuration that the server started with: the file may have changed since."""
    if isinstance(settings, dict):
        return ServerConfig(path, {str(key): str(value) for key, value in settings.items()})
    try:
        return config_or_defaults(path)
    except ServerError:
        return ServerConfig(None, {})


def _runs(state: _State, folder: Path) -> bool:
    """Return whether that server runs in this folder: the file may be a copy of another folder's."""
    java = state.server.java()
    if java is None:
        return False
    import psutil

    try:
        in_here = _is_same(java.cwd(), folder)
        return in_here and (state.started is not None or state.config in _arguments(java))
    except psutil.AccessDenied:  # another user's process, with the right number and start time
        return state.started is not None
    except psutil.Error:
        return False


def is_replaced(running: RunningServer) -> bool:
    """Return whether another server was started in its folder since, which then owns the keys there."""
    state = _read_state(running.folder)
    return state is not None and running.process is not None and state.server.process != running.process


def forget(folder: Path) -> Path | None:
    """Forget a server that did not end normally. Returns its temporary folder, or None if still in use."""
    state = _read_state(folder)
    with suppress(OSError):
        state_file(folder).unlink(missing_ok=True)
    if state is None:
        return None
    temporary = state.server.temporary
    pid = read_pid(temporary / ".model_server.pid")
    java = None if pid is None else java_process(pid)
    in_use = java is not None and f"-Djava.io.tmpdir={temporary}" in _arguments(java)
    return None if in_use else temporary
