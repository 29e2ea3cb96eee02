"""Describe what an archive was built from: MAR-INF/lineage.json.

    parent          name, version and sha256 of the archive that this one follows
    data            the digest of each data set by its role, as train, test, calibration
    revision        the code's revision
    seed            the seed of its training
    weights_sha256  the digest of the file that its weights were read from
    metrics         how good it was: value, low, high, examples, data_sha256

All of it was given to who built the archive, and none of it changes how the archive is served.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .names import named, shown

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"([0-9a-f]{12})[0-9a-f]{28,52}(-dirty)?")
_LONGEST = 200  # characters of a revision
_SHORT = 12  # digits of a digest for people


@dataclass(frozen=True)
class Parent:
    """The archive that another one follows; `sha256` is that of its .mar, or of a folder's contents."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        """Return its name and version for one line."""
        return named(self.name, self.version)


@dataclass(frozen=True)
class Metric:
    """A metric's value with its 95 % interval, on so many examples of the data set with this digest."""

    value: float
    low: float
    high: float
    examples: int
    data_sha256: str

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] on {self.examples} examples"


@dataclass(frozen=True)
class Lineage:
    """What an archive was built from. The first of `metrics` is the main one; None is what is not known."""

    parent: Parent | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None
    seed: int | None = None
    weights_sha256: str | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the content of lineage.json."""
        return {**asdict(self), "data": dict(sorted(self.data.items()))}

    def as_bytes(self) -> bytes:
        """Return lineage.json. Metrics stay in their order, so that the main one is the first."""
        return (json.dumps(self.as_json(), indent=2) + "\n").encode()

    @classmethod
    def of(cls, content: Any) -> Lineage:
        """Return the lineage that a lineage.json describes, a stranger's too; unknown keys are left out.

        Raises ValueError with the key, what is expected there, and what was found.
        """
        found = _object(content, "the file")
        parent, metrics = found.get("parent"), _object(found.get("metrics", {}), "metrics")
        revision, seed, weights = (found.get(key) for key in ("revision", "seed", "weights_sha256"))
        return cls(
            parent=None if parent is None else _parent(parent),
            data={
                role: _sha256(digest, f"data.{role}")
                for role, digest in _object(found.get("data", {}), "data").items()
            },
            revision=None if revision is None else _revision(revision),
            seed=None if seed is None else _whole(seed, "seed"),
            weights_sha256=None if weights is None else _sha256(weights, "weights_sha256"),
            metrics={name: _metric(one, f"metrics.{name}") for name, one in metrics.items()},
        )

    def origin(self) -> str:
        """Return what it was built from in words, without the metrics; '' where nothing is known."""
        return ", ".join(self._origin())

    def _origin(self) -> Iterator[str]:
        if self.parent is not None:
            yield f"from {self.parent} (sha256 {self.parent.sha256[:_SHORT]}…)"
        if self.revision is not None:
            yield f"revision {_short(self.revision)}"
        if self.seed is not None:
            yield f"seed {self.seed}"
        if self.weights_sha256 is not None:
            yield f"weights {self.weights_sha256[:_SHORT]}…"
        if self.data:
            yield "data " + ", ".join(f"{shown(role)} {sha[:_SHORT]}…" for role, sha in self.data.items())

    def measured(self) -> list[str]:
        """Return each metric in words, the main one first."""
        return [f"{shown(name)} {metric}" for name, metric in self.metrics.items()]


def _short(revision: str) -> str:
    """Return a revision for one line, git's without most of its digits."""
    found = _GIT.fullmatch(revision)
    return shown(revision) if found is None else f"{found[1]}{found[2] or ''}"


def _parent(content: Any) -> Parent:
    found = _object(content, "parent")
    name, version = (_text(found.get(key), f"parent.{key}") for key in ("name", "version"))
    return Parent(name, version, _sha256(found.get("sha256"), "parent.sha256"))


def _metric(content: Any, where: str) -> Metric:
    found = _object(content, where)
    value, low, high = (_number(found.get(key), f"{where}.{key}") for key in ("value", "low", "high"))
    if low > high:
        raise _wrong(where, "low that is at most high", f"{low:g} and {high:g}")
    examples = _whole(found.get("examples"), f"{where}.examples")
    return Metric(value, low, high, examples, _sha256(found.get("data_sha256"), f"{where}.data_sha256"))


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(where, "a text", value)
    return value


def _revision(value: Any) -> str:
    if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST):
        raise _wrong("revision", f"one line of at most {_LONGEST} characters", value)
    return value


def _sha256(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _wrong(where, "a SHA-256 of 64 lower-case hexadecimal digits", value)
    return value


def _number(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        if is_number and math.isfinite(number := float(value)):
            return number
    except OverflowError:
        pass
    raise _wrong(where, "a finite number", value)


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise _wrong(where, "a whole number of at least 0", value)
    return value


def _wrong(where: str, expected: str, found: Any) -> ValueError:
    return ValueError(f"{shown(where)}: expected {expected}, found {shown(repr(found))}")
