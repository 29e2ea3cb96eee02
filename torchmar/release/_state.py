"""What a server serves of a model: its versions, and which of them is the default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..client import ModelVersion
from ._journal import known_to, require


@dataclass(frozen=True)
class ServedVersion:
    """Describes one version on a server: `ready` workers are READY, of `workers` that are listed."""

    version: str
    archive: str
    ready: int
    workers: int
    batch_size: int = 1
    response_timeout: int = 120
    memory: int = 0
    """Bytes that its largest worker holds; 0 where the server does not tell."""

    @property
    def desired_workers(self) -> int:
        """Workers that it should have; counts those that are restarting, unless all are."""
        return self.workers if self.ready else 0

    @classmethod
    def of(cls, described: ModelVersion) -> ServedVersion:
        """Take what matters from a description."""
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
    """Describes what a server serves of one model, or should; nothing of an unknown model."""

    model: str
    default: str | None = None
    versions: tuple[ServedVersion, ...] = ()

    def get(self, version: str | None) -> ServedVersion | None:
        """Return that version, None where it is not registered."""
        return next((one for one in self.versions if one.version == version), None)

    def with_versions(self, more: Iterable[ServedVersion]) -> ServedState:
        """Add those versions that it lacks."""
        lacking = tuple(one for one in more if self.get(one.version) is None)
        return replace(self, versions=(*self.versions, *lacking))

    def without(self, version: str) -> ServedState:
        """Leave a version out."""
        return replace(self, versions=tuple(one for one in self.versions if one.version != version))

    def as_json(self) -> dict[str, Any]:
        """Return it as the data of a journal's entry."""
        return {"default": self.default, "versions": [asdict(version) for version in self.versions]}

    @classmethod
    def from_json(cls, model: str, content: Mapping[str, Any]) -> ServedState:
        """Read it back. Raises AttributeError, TypeError for data that torchmar does not write."""
        versions = tuple(
            ServedVersion(**known_to(ServedVersion, item)) for item in content.get("versions", ())
        )
        default = content.get("default")
        require(default is None or isinstance(default, str))
        for one in versions:
            require(isinstance(one.version, str) and isinstance(one.archive, str))
            numbers = (one.ready, one.workers, one.batch_size, one.response_timeout, one.memory)
            require(all(type(number) is int and number >= 0 for number in numbers))
        return cls(model, default, versions)
