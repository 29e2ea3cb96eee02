"""What a server serves of a model: its versions, and which of them is the default."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..client import ModelVersion


@dataclass(frozen=True)
class ServedVersion:
    """One version that a server has. `ready` and `workers` are how many are READY and how many are listed."""

    version: str
    archive: str
    ready: int
    workers: int
    batch_size: int = 1
    response_timeout: int = 120
    memory: int = 0
    """Bytes that its largest worker holds; 0 where the server does not tell."""

    @property
    def meant(self) -> int:
        """How many workers it is to have: one that is starting again at the moment is meant, too."""
        return self.workers if self.ready else 0

    @classmethod
    def of(cls, described: ModelVersion) -> ServedVersion:
        """What matters of a description."""
        return cls(
            version=described.version,
            archive=described.archive,
            ready=described.ready_workers,
            workers=len(described.workers),
            batch_size=described.batch_size,
            response_timeout=described.response_timeout,
            memory=max((worker.memory_usage for worker in described.workers), default=0),
        )


@dataclass(frozen=True)
class ServedState:
    """What a server serves of one model: no version and no default where it does not know the model."""

    model: str
    default: str | None = None
    versions: tuple[ServedVersion, ...] = ()

    def with_lost(self, meant: Iterable[ServedVersion]) -> ServedState:
        """And those of `meant` that are not served, as after a restart: they are to be served still."""
        lost = tuple(one for one in meant if self.get(one.version) is None)
        return replace(self, versions=(*self.versions, *lost))

    def get(self, version: str | None) -> ServedVersion | None:
        """That version, where it is registered."""
        return next((one for one in self.versions if one.version == version), None)
