"""Run a server in the foreground, for containers and systemd: pass signals on, return its exit code."""

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
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a closed terminal sends SIGHUP
_SIGNALLED = 128  # shells, Docker and systemd report 128 plus the signal that ended a process


def take_orphans() -> None:
    """Become the parent of this process's orphaned descendants, as a container's first process is.

    TorchServe's launcher leaves Java behind, and only Java's parent learns its exit code. This works on Linux
    only; elsewhere the code stays unknown.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def follow(running: RunningServer, write: Callable[[bytes], object], *, timeout: float = 30.0) -> int:
    """Pass on a server's output, and SIGTERM, SIGHUP and Ctrl-C to it, until it ends. Returns its exit code.

    Call `take_orphans` before the start, and this from the main thread. Kills the server `timeout` seconds
    after the first signal. An unknown exit code becomes 0 after a signal, and 1 otherwise.
    """
    assert running.console is not None
    signalled = threading.Event()
    before = {number: signal.signal(number, lambda *_: signalled.set()) for number in _ENDS}
    deadline: float | None = None
    try:
        with running.console.open("rb") as console:
            while (code := _code_of(running, is_signalled=signalled.is_set())) is None:
                write(console.read())
                if signalled.is_set() and deadline is None:
                    deadline = time.monotonic() + timeout
                    _send(running, signal.SIGTERM)
                elif deadline is not None and time.monotonic() > deadline:
                    _send(running, signal.SIGKILL)
                signalled.wait(_PAUSE) if deadline is None else time.sleep(_PAUSE)
            write(console.read())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end_children()
        stop(running, timeout=0)
    return code


def _code_of(running: RunningServer, *, is_signalled: bool) -> int | None:
    """Return the server's exit code; None while it runs. Also reaps other children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == running.pid:
                return _as_shells_say(status)
            if pid == 0:
                break
    try:
        pid, status = os.waitpid(running.pid, os.WNOHANG)
    except ChildProcessError:  # only its parent, another process, learns the code
        return None if running.is_alive() else int(not is_signalled)
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
    """End the workers of a killed server; they are now children of this process."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()
