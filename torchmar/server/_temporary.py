"""Choose a server's temporary folder, which holds its workers' sockets and unpacked archives.

TorchServe hides both causes of failure. If a socket's path is too long, no worker starts. If a disk is full,
TorchServe answers a registration with `Failed to save model` and leaves partial files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ServerError
from ..files import free_bytes, is_folder
from ..names import shown
from ._settings import SOCKET_PATH

PREFIX = "torchmar-"

# The number is initial_worker_port, plus one for each worker.
_OURS = len(f"/{PREFIX}12345678/.ts.sock.1234567")
_BLOCK = 4096
_LEAST = 2**20


@dataclass(frozen=True)
class Place:
    """A folder that gets a server's temporary folder. `why` explains the problem of the usual one."""

    folder: Path
    why: str = ""


def temporary_place(environment: Mapping[str, str]) -> Place:
    """Return the first folder for temporary files in which workers can start. Raises ServerError."""
    problems: dict[Path, str] = {}
    for folder in _places(environment):
        if folder not in problems:
            problems[folder] = _problem(folder)
        if not problems[folder]:
            break
    else:
        folder = next((one for one, problem in problems.items() if problem == _NO_EXEC), Path())
        if folder == Path():
            reasons = "".join(f"\n  {folder}: {problem}" for folder, problem in problems.items())
            raise ServerError(
                f"no folder for temporary files, set TMPDIR to one that is short and writable:{reasons}"
            )
    return Place(folder, next((f"{shown(str(one), 200)}: {why}" for one, why in problems.items() if why), ""))


def _places(environment: Mapping[str, str]) -> Iterator[Path]:
    for name in ("TMPDIR", "TEMP", "TMP"):
        if environment.get(name):
            yield Path(environment[name]).absolute()
            break
    with suppress(OSError):  # none is usable, for example because all disks are full
        yield Path(tempfile.gettempdir()).absolute()
    yield from (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (a folder with a random name is made there)
    if environment.get("XDG_RUNTIME_DIR"):
        yield Path(environment["XDG_RUNTIME_DIR"])


_NO_EXEC = "nothing may be run from there (noexec), which libraries of TorchServe and of archives need"


def _problem(folder: Path) -> str:
    if not is_folder(folder):
        return "is no folder that can be used"
    if not os.access(folder, os.W_OK | os.X_OK):
        return "is not writable"
    length = len(os.fsencode(folder)) + _OURS
    if length > SOCKET_PATH:
        return (
            f"is too long: a worker's socket would have a path of {length} bytes, and may have {SOCKET_PATH}"
        )
    free = free_bytes(folder)
    if free is not None and free < _LEAST:
        return "its disk is full"
    return _NO_EXEC if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0) else ""


def room_needed(sizes: Iterable[int]) -> int:
    """Return the disk space in bytes for files of these sizes, each in its own folder at worst."""
    return sum(-(-size // _BLOCK) * _BLOCK + _BLOCK for size in sizes)
