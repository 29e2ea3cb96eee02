"""Identify processes by number and start time, because numbers recur."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process at the time it was identified.

    `started` distinguishes it from others with the same number.
    """

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Return whether it still runs; another process with its number does not count."""
        return identify(self.pid) == self

    @property
    def token(self) -> str:
        """Return number and start as one word for a file name: 4711-3f2a9c1e."""
        return f"{self.pid}-{hashlib.sha256(self.started.encode()).hexdigest()[:8]}"


def own_token() -> str:
    """Return the token of this process."""
    own = identify(os.getpid())
    return f"{os.getpid()}-unknown" if own is None else own.token


def by_token(token: str) -> Process | None:
    """Return the process with this token; None if it has ended, or the text is no token."""
    number = token.partition("-")[0]
    found = identify(int(number)) if number.isascii() and number.isdigit() and len(number) < 10 else None
    return found if found is not None and found.token == token else None


def identify(pid: int) -> Process | None:
    """Return the process that has this number now; None if there is none, or it is a zombie."""
    if pid <= 0:
        return None
    started = _started_by_proc(pid) if _PROC.joinpath("self", "stat").exists() else _started_by_ps(pid)
    return Process(pid, started) if started else None


def _started_by_proc(pid: int) -> str:
    """Return the machine's boot id, and the clock ticks until the start; Linux only, see proc(5)."""
    try:
        # The second field is the program's name in parentheses, which may hold any character.
        stat = (_PROC / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
        fields = stat.rpartition(")")[2].split()
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    state, ticks = fields[0], fields[19]
    return "" if state in {"Z", "X"} else f"{boot}:{ticks}"


def _started_by_ps(pid: int) -> str:
    """Return the start by ps, to the second; for other systems."""
    try:
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    state, _, started = done.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else " ".join(started.split())


@contextmanager
def handling(handler: Callable[[int, FrameType | None], object], *signals: int) -> Iterator[None]:
    """Handle signals by `handler` during the block, and as before after it; only the main thread can."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in signals if is_main}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def lock_folder() -> Path | None:
    """Return a folder for locks between all processes of this user; None where none can be made."""
    try:
        folder = Path(tempfile.gettempdir()) / f"torchmar-locks-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder if folder.stat().st_uid == os.getuid() else None
    except OSError:  # nothing can be written anywhere
        return None
