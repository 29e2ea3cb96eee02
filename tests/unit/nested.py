"""Folders in folders, deeper than Python's calls and than a path may be long."""

from __future__ import annotations

import os
from pathlib import Path


def nest(top: Path, levels: int, file: str = "") -> None:
    """Make so many folders below one that is there, each in the one before, and a file in the last."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    if file:
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
