"""Define candidates, limits and trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "slow", "memory", "given up", "failed"]
"""ok: holds all limits. slow: its p99 is above the target. memory: takes more than allowed.

given up: a short probe showed that it cannot win. failed: it did not load, or answered wrongly.
"""

NOISE = 0.03
"""The fraction by which two measurements of a rate or a latency differ at random in a few seconds."""


@dataclass(frozen=True)
class Candidate:
    """One way to serve a model. `max_batch_delay` is in ms; 0 without batching.

    `threads` is None if the handler's own code decides on them.
    """

    workers: int
    threads: int | None
    batch_size: int = 1
    max_batch_delay: int = 0

    def __str__(self) -> str:
        text = f"{self.workers} × {self.threads}"
        if self.threads is None:
            text = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        return text if self.batch_size == 1 else f"{text}, batch {self.batch_size}, {self.max_batch_delay} ms"


@dataclass(frozen=True)
class Limits:
    """The limits of a configuration: `p99_ms` in ms, `memory` in bytes or None for any."""

    p99_ms: float
    memory: int | None = None


@dataclass(frozen=True)
class Trial:
    """The result of a candidate in requests/s, ms and bytes; None if not measured.

    `default` marks the archive as it is.
    """

    candidate: Candidate
    verdict: Verdict
    rps: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    memory: int | None = None
    reason: str = ""
    default: bool = False

    @property
    def holds(self) -> bool:
        """Return whether it was measured and keeps all limits."""
        return self.verdict == "ok"

    @property
    def rate(self) -> float:
        """Return requests/s; 0 if not measured."""
        return self.rps or 0.0

    @property
    def tail(self) -> float:
        """Return the p99 in ms; infinite if not measured."""
        return self.p99_ms if self.p99_ms is not None else float("inf")


def better(one: Trial, other: Trial, margin: float = NOISE) -> bool:
    """Return whether `one` beats `other` by more than `margin`, a fraction.

    Trials within their limits come first. Among those the higher rate wins; among the others, the lower p99.
    """
    if one.holds != other.holds:
        return one.holds
    if one.holds:
        return one.rate > other.rate * (1 + margin)
    return one.tail < other.tail * (1 - margin)


_LADDER: tuple[Verdict, ...] = ("ok", "slow", "given up", "memory", "failed")


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Return the best first: those within the limits by rate, then the others by how near they came."""

    def key(trial: Trial) -> tuple[int, float]:
        return _LADDER.index(trial.verdict), -trial.rate if trial.holds else trial.tail

    return sorted(trials, key=key)


def frontier(trials: Sequence[Trial]) -> list[Trial]:
    """Return the measured trials that no other beats in both rate and p99, by rate."""
    measured = [trial for trial in trials if trial.verdict in {"ok", "slow", "memory"}]
    kept = [trial for trial in measured if not any(_dominates(other, trial) for other in measured)]
    return sorted(kept, key=lambda trial: trial.rate)


def _dominates(one: Trial, other: Trial) -> bool:
    as_good = one.rate >= other.rate and one.tail <= other.tail
    return as_good and (one.rate > other.rate or one.tail < other.tail)
