"""A server in the foreground, for containers and systemd: signals go to it, its exit code comes back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from ._run import stop
from ._running import RunningServer

_PAUSE = 0.1  # seconds between two looks
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last is what a terminal that is closed sends
_SIGNALLED = 128  # and the signal: how shells, Docker and systemd say what ended a process


def take_orphans() -> None:
    """Become the parent of what this process starts by others, as the first process of a container is.

    TorchServe's launcher leaves Java behind: only its parent is told the code that it ends with. Linux alone
    knows this; elsewhere the code stays unknown.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def follow(running: RunningServer, write: Callable[[bytes], object], *, timeout: float = 30.0) -> int:
    """Pass on what a server prints, and SIGTERM, SIGHUP and Ctrl-C to it, until it ends; its exit code.

    Call `take_orphans` before it is started, and this from the main thread. After `timeout` seconds it is
    ended anyway. A code that cannot be known is 0 where the server was told to end, and else 1.
    """
    assert running.console is not None
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in _ENDS}
    deadline: float | None = None
    try:
        with running.console.open("rb") as console:
            while (code := _code_of(running, is_told=told.is_set())) is None:
                write(console.read())
                if told.is_set() and deadline is None:
                    deadline = time.monotonic() + timeout
                    _send(running, signal.SIGTERM)
                elif deadline is not None and time.monotonic() > deadline:
                    _send(running, signal.SIGKILL)
                told.wait(_PAUSE) if deadline is None else time.sleep(_PAUSE)
            write(console.read())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end_children()
        stop(running, timeout=0)
    return code


def _code_of(running: RunningServer, *, is_told: bool) -> int | None:
    """How the server has ended; None where it has not. Others that have ended are taken note of, too."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == running.pid:
                return _as_shells_say(status)
            if pid == 0:
                break
    try:
        pid, status = os.waitpid(running.pid, os.WNOHANG)
    except ChildProcessError:  # another process is its parent, and alone is told
        return None if running.is_alive() else int(not is_told)
    return None if pid == 0 else _as_shells_say(status)


def _as_shells_say(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNALLED - code


def _send(running: RunningServer, number: int) -> None:
    process = running.java()
    if process is not None:
        with contextlib.suppress(OSError):
            os.kill(process.pid, number)


def _end_children() -> None:
    """Workers of a server that was killed are ours now."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()
