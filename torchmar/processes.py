"""Processes of this machine, each known by its number and by when it started: numbers are used again."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process that was there when it was identified. `started` tells it from others of the same number."""

    pid: int
    started: str

    def is_alive(self) -> bool:
        """Whether it is still there; another process that has its number by now is not it."""
        return identify(self.pid) == self

    @property
    def token(self) -> str:
        """Number and start as one word, fit for the name of a file: 4711-3f2a9c1e."""
        return f"{self.pid}-{hashlib.sha256(self.started.encode()).hexdigest()[:8]}"


def own_token() -> str:
    """The token of this process."""
    own = identify(os.getpid())
    return f"{os.getpid()}-unknown" if own is None else own.token


def by_token(token: str) -> Process | None:
    """The process that wrote this token somewhere; None where it has ended, or the text is none."""
    number = token.partition("-")[0]
    found = identify(int(number)) if number.isascii() and number.isdigit() and len(number) < 10 else None
    return found if found is not None and found.token == token else None


def identify(pid: int) -> Process | None:
    """The process that has this number now; None where none has, or it has ended and waits for its parent."""
    if pid <= 0:
        return None
    started = _started_by_proc(pid) if _PROC.joinpath("self", "stat").exists() else _started_by_ps(pid)
    return Process(pid, started) if started else None


def _started_by_proc(pid: int) -> str:
    """Linux: the boot of the machine, and the clock ticks from there to the start; see proc(5)."""
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
    """Elsewhere: what ps tells, to the second."""
    try:
        command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    state, _, started = done.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else " ".join(started.split())
