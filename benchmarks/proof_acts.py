"""What is done under the load of the proof: with torchmar, or as TorchServe's documentation suggests."""

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
    """A management client that notes when it changed the default version, whoever asked for it."""

    def __init__(self, management: Management) -> None:
        vars(self).update(vars(management))
        self.switches: list[Switch] = []

    def set_default(self, name: str, version: str) -> None:
        """As it is, between two looks at the clock."""
        begin = time.monotonic()
        try:
            super().set_default(name, version)
        finally:
            self.switches.append(Switch(version, begin, time.monotonic()))


@dataclass
class Took:
    """How long it took until the new version, and the old one again, was the default. Seconds."""

    release: list[float] = field(default_factory=list)
    rollback: list[float] = field(default_factory=list)


class Acts(Protocol):
    """One way to do it all."""

    took: Took

    def cycle(self, old: str, new: str) -> None:
        """From the old version to the new one, back, again to the new one; the old one goes."""

    def scaling(self) -> None:
        """From 1 worker to 3 and back."""


class WithTorchmar:
    """By torchmar.release; `longest` in seconds is what an answer takes at most."""

    def __init__(
        self, server: Server, management: Recording, store: Path, folder: Path, longest: float
    ) -> None:
        self.took = Took()
        self._server = replace(server, management=management)
        self._management = management
        self._store = store
        self._fleet = Fleet((Host("local", self._server, store, local=True),), folder)
        self._longest = longest
        # Not the gate is to be proved: it judges answers and times, and these versions answer differently.
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
        """Release, roll back, release again, retire."""
        self.took.release.append(self._release(new))
        begin = time.monotonic()
        rollback(self._fleet, NAME)
        self.took.rollback.append(self._management.switches[-1].end - begin)
        time.sleep(DWELL)
        self._release(new)
        retire(self._fleet, NAME, old, self._options)

    def _release(self, version: str) -> float:
        """Seconds until it was the default. Raises ReleaseError."""
        begin = time.monotonic()
        result = release(self._fleet, mar.verify(self._store / f"{NAME}-{version}.mar"), self._options)
        if result.outcome != "promoted":
            raise ReleaseError(f"{NAME} {version} was not promoted: {result.outcome}: {result.reason}")
        return self._management.switches[-1].end - begin

    def scaling(self) -> None:
        """The default version, by a standby."""
        for workers in WORKERS:
            scale(self._server, self._store, NAME, workers, WaitPolicy(self._longest))
            time.sleep(DWELL)


class ByHand:
    """Register, set the default, unregister the old version at once; scale directly."""

    def __init__(self, management: Recording) -> None:
        self.took = Took()
        self._management = management

    def cycle(self, old: str, new: str) -> None:
        """Four calls, and waiting for READY."""
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
        """One call."""
        for workers in WORKERS:
            try:
                self._management.scale(NAME, workers)
            except ServerFailed:
                # TorchServe goes through what a worker has in hand while that worker clears it, and gives up.
                self._management.scale(NAME, workers)
            self._management.wait_until_ready(NAME, workers=workers)
            time.sleep(DWELL)
