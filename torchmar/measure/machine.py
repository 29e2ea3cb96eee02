"""Name the machine that something is measured on."""

from __future__ import annotations

import platform
from pathlib import Path


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of this machine's processor, or else its kind."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
