"""Acts under the load of the proof: with torchmar, or as TorchServe's documentation suggests."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from torchmar import mar
from torchmar.client import Management, Server
from torchmar.errors import ReleaseError, ServerFailed
from torchmar.release import Fleet, Host, Options, release, retire, rollback
from torchmar.workers import WaitPolicy, scale

from .proof_archive import NAME
from .proof_load import Switch

DWELL = 0.2  # seconds between two acts, in which the default answers
WORKERS = (3, 1)


class Recording(Management):
    """Notes when a management client changes the default version, for any caller."""

    def __init__(self, management: Management) -> None:
        vars(self).update(vars(management))
        self.switches: list[Switch] = []

    def set_default(self, name: str, version: str) -> None:
        """Set the default version, and note the times before and after."""
        begin = time.monotonic()
        try:
            super().set_default(name, version)
        finally:
            self.switches.append(Switch(version, begin, time.monotonic()))


@dataclass
class Took:
    """Holds the seconds until the new version, and then the old one again, was the default."""

    release: list[float] = field(default_factory=list)
    rollback: list[float] = field(default_factory=list)


class Acts(Protocol):
    """Describes one way to do all acts."""

    took: Took

    def cycle(self, old: str, new: str) -> None:
        """Switch to the new version, back, and to the new one again; then remove the old one."""

    def scaling(self) -> None:
        """Scale from 1 worker to 3, and back."""


class WithTorchmar:
    """Acts by torchmar.release; an answer takes at most `longest` seconds."""

    def __init__(
        self, server: Server, management: Recording, store: Path, folder: Path, longest: float
    ) -> None:
        self.took = Took()
        self._server = replace(server, management=management)
        self._management = management
        self._store = store
        self._fleet = Fleet((Host("local", self._server, store, local=True),), folder)
        self._longest = longest
        # The proof is not about the gate, which judges answers and times: these versions answer differently.
        self._options = Options(
            samples=5,
            gate_seconds=2.0,
            max_slowdown=1000.0,
            min_agreement=0.0,
            watch=DWELL,
            longest=longest,
            promote_inconclusive=True,
        )

    def cycle(self, old: str, new: str) -> None:
        """Release, roll back, release again, and retire."""
        self.took.release.append(self._release(new))
        begin = time.monotonic()
        rollback(self._fleet, NAME)
        self.took.rollback.append(self._management.switches[-1].end - begin)
        time.sleep(DWELL)
        self._release(new)
        retire(self._fleet, NAME, old, self._options)

    def _release(self, version: str) -> float:
        """Release a version; return the seconds until it was the default. Raises ReleaseError."""
        begin = time.monotonic()
        result = release(self._fleet, mar.verify(self._store / f"{NAME}-{version}.mar"), self._options)
        if result.outcome != "promoted":
            raise ReleaseError(f"{NAME} {version} was not promoted: {result.outcome}: {result.reason}")
        return self._management.switches[-1].end - begin

    def scaling(self) -> None:
        """Scale the default version, with a standby."""
        for workers in WORKERS:
            scale(self._server, self._store, NAME, workers, WaitPolicy(self._longest))
            time.sleep(DWELL)


class ByHand:
    """Acts by hand: registers, sets the default, unregisters the old version at once, scales directly."""

    def __init__(self, management: Recording) -> None:
        self.took = Took()
        self._management = management

    def cycle(self, old: str, new: str) -> None:
        """Make the calls, and wait for READY workers."""
        begin = time.monotonic()
        self._management.register(f"{NAME}-{new}.mar")
        self._management.wait_until_ready(NAME, new)
        self._management.set_default(NAME, new)
        self.took.release.append(time.monotonic() - begin)
        time.sleep(DWELL)
        begin = time.monotonic()
        self._management.set_default(NAME, old)
        self.took.rollback.append(time.monotonic() - begin)
        time.sleep(DWELL)
        self._management.set_default(NAME, new)
        self._management.unregister(NAME, old)
        self._management.wait_until_gone(NAME, old)

    def scaling(self) -> None:
        """Scale with one call."""
        for workers in WORKERS:
            try:
                self._management.scale(NAME, workers)
            except ServerFailed:
                # TorchServe reads a worker's jobs while the worker clears them, and fails.
                self._management.scale(NAME, workers)
            self._management.wait_until_ready(NAME, workers=workers)
            time.sleep(DWELL)
