"""Measure the memory of a tree of processes: PSS, the proportional set size.

PSS divides a shared page among the processes that share it, so the sum over a tree is what the tree holds.
RSS would count the libraries of forked workers once for each. Only Linux reports PSS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path


def pss_bytes(pid: int, proc: Path = Path("/proc")) -> int:
    """Return one process's PSS in bytes; 0 if it is gone."""
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return parse_smaps_rollup(text)


def parse_smaps_rollup(text: str) -> int:
    """Return the PSS in /proc/PID/smaps_rollup, in bytes. Raises ValueError if there is none."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == "Pss":
            number, unit = rest.split()
            if unit != "kB":
                raise ValueError(f"smaps_rollup: {line!r}: expected kB")
            return int(number) * 1024
    raise ValueError("smaps_rollup: no line `Pss:`")


def peak_rss_bytes(pid: int | str = "self", proc: Path = Path("/proc")) -> int | None:
    """Return the largest resident set that a process has had since it began its program, in bytes.

    getrusage would count what its parent had when it forked. None where /proc tells nothing.
    """
    try:
        text = (proc / str(pid) / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    lines = (line.split() for line in text.splitlines() if line.startswith("VmHWM:"))
    return next((int(number) * 1024 for _, number, _ in lines), None)


def tree(pid: int) -> list[int]:
    """Return a process and all its living descendants. Needs psutil."""
    import psutil

    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        found = [process.pid, *(child.pid for child in process.children(recursive=True))]
    return found


def tree_mb(pids: Iterable[int]) -> float:
    """Return the PSS of these processes and all their descendants, in MB (10^6 bytes)."""
    everyone = {member for pid in pids for member in tree(pid)}
    return sum(pss_bytes(member) for member in everyone) / 1e6
