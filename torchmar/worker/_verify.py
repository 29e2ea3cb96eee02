"""Verify an archive: its digests, who signed it, and whether a worker loads it and answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import mar
from ..signature import verify_signature
from ._check import Check, check_archive


@dataclass(frozen=True)
class Verified:
    """Holds the result for an archive that has not been refused; `check` is None if it was not loaded."""

    archive: mar.Archive
    check: Check | None

    @property
    def outcome(self) -> str:
        """Return `ok`, `not loaded`, `failed`, or `unasked`: nothing failed, but no request was sent."""
        if self.check is None:
            return "not loaded"
        return "failed" if not self.check.ok else "ok" if self.check.asked else "unasked"


def verify(
    path: Path,
    *,
    public_key: Path | None = None,
    load: bool = True,
    timeout: float = 300.0,
    python: str = sys.executable,
    requests: Sequence[Path] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> Verified:
    """Verify an archive's digests and its signature, and load it with check_archive, which runs its code.

    Raises ArchiveError, SignatureError for an archive that is not loaded because of them.
    """
    progress("reading")
    archive = mar.verify(path)
    if public_key is not None:
        verify_signature(archive, public_key)
    if not load:
        return Verified(archive, None)
    progress("loading in a worker")
    return Verified(archive, check_archive(path, timeout=timeout, python=python, requests=requests))
