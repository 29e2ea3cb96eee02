"""A machine that several people measure on: one at a time, by a lock file, as flock(1) does it."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

_HOLD_SECONDS = 120.0
"""For so long one measurement follows the other in one hold; then the others have their turn."""


class MachineLock:
    """Held while something is measured. Without a file it does nothing."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._handle: IO[str] | None = None
        self._since = 0.0

    def __enter__(self) -> MachineLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else measures or builds in here. It stays locked for the next one, unless it was long."""
        if self._handle is None:
            self._lock(fcntl.LOCK_EX)
        try:
            yield
        finally:
            if time.monotonic() - self._since > _HOLD_SECONDS:
                self._release()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Nobody measures in here; others may build."""
        self._lock(fcntl.LOCK_SH)
        try:
            yield
        finally:
            self._release()

    def _lock(self, how: int) -> None:
        if self._file is not None:
            self._handle = self._file.open("a")
            fcntl.flock(self._handle, how)
            self._since = time.monotonic()

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None
