"""Types torchmar's command line into processes that fork from one that has imported it.

Such a process has its own memory, standard streams, folder and end, as any other; only the imports, most of
what a short command costs, are not made again. What depends on how Python is started needs one of its own.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_PRELOADED = ("torchmar.cli", "torchmar.manage", "torchmar.archive", "torchmar.adopt", "torchmar.doctor")
_OF_PYTHON = ("PYTHON", "LANG", "LC_", "COLUMNS", "TERM", "FORCE_COLOR", "NO_COLOR", "TTY_")
_ROOT = Path(__file__).resolve().parent.parent
_lock = threading.Lock()


def torchmar(
    arguments: Sequence[str | Path],
    *,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """What `torchmar …` prints in a folder, and its exit code. Raises TimeoutExpired."""
    environment = dict(os.environ if environment is None else environment)
    typed = ["torchmar", *map(str, arguments)]
    told = json.dumps([typed, str(cwd), environment]).encode()
    of_python = tuple(sorted(one for one in environment.items() if one[0].startswith(_OF_PYTHON)))
    with (
        _lock,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        Path(os.devnull).open() as none,
    ):
        connection = _origin(of_python)
        files = [none.fileno(), out.fileno(), err.fileno()]
        socket.send_fds(connection, [len(told).to_bytes(4, "big")], files)
        connection.sendall(told)
        pid = _number(connection, timeout)
        assert pid is not None, "the process that commands fork from does not answer"
        code = _number(connection, timeout)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            _number(connection, 60)
            raise subprocess.TimeoutExpired(typed, timeout)
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode("utf-8", "replace"))
        return subprocess.CompletedProcess(typed, code, *said)


def _number(connection: socket.socket, timeout: float) -> int | None:
    if not select.select([connection], [], [], timeout)[0]:
        return None
    raw = b""
    while len(raw) < 4:
        part = connection.recv(4 - len(raw))
        assert part, "the process that commands fork from has ended"
        raw += part
    return int.from_bytes(raw, "big", signed=True)


@cache
def _origin(of_python: tuple[tuple[str, str], ...]) -> socket.socket:
    """The connection to a process that has begun with such variables, which only count when it begins."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
        cwd=_ROOT,
        env={**{k: v for k, v in os.environ.items() if not k.startswith(_OF_PYTHON)}, **dict(of_python)},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(60)

    atexit.register(end)
    return ours


# -- in the process that commands fork from -----------------------------------------------------


def _serve(connection: socket.socket) -> None:
    """Fork for each command, until the other side closes."""
    while True:
        head, files, _, _ = socket.recv_fds(connection, 4, 3)
        if not head:
            return
        size, told = int.from_bytes(head, "big"), b""
        while len(told) < size:
            part = connection.recv(size - len(told))
            if not part:
                return
            told += part
        pid = os.fork()
        if pid == 0:
            connection.close()
            typed, folder, environment = json.loads(told)
            _run(typed, folder, environment, files)
        for file in files:
            os.close(file)
        connection.sendall(pid.to_bytes(4, "big"))
        _, status = os.waitpid(pid, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))


def _run(typed: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    """Be the command, and end."""
    code: Any = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os.closerange(3, max(files) + 1)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = typed
        from torchmar.cli import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    from importlib import import_module

    sys.path[0] = str(Path(sys.executable).parent)  # as it is for the installed command
    for name in _PRELOADED:
        import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
