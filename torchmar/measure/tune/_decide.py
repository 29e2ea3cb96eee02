"""Default or winner: what the last rounds, in which both were measured in turn, say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from ._values import Candidate, Limits, Trial

Kind = Literal["better", "rescued", "as good", "none"]
"""better: more requests/s. rescued: the default breaks a limit that it keeps. as good: nothing to change.

none: no configuration keeps the limits.
"""


@dataclass(frozen=True)
class Rounds:
    """One configuration, measured several times: medians, with the spread from the lowest to the highest."""

    candidate: Candidate
    trials: tuple[Trial, ...]

    @property
    def failure(self) -> str:
        """Why it failed in some round; '' where it never did."""
        return next((trial.reason for trial in self.trials if trial.verdict == "failed"), "")

    @property
    def rps(self) -> float:
        """Requests/s."""
        return median(trial.rate for trial in self.trials)

    @property
    def spread(self) -> float:
        """Requests/s between the lowest and the highest round."""
        rates = [trial.rate for trial in self.trials]
        return max(rates) - min(rates)

    @property
    def p99_ms(self) -> float:
        """In ms."""
        return median(trial.tail for trial in self.trials)

    @property
    def memory(self) -> int:
        """Bytes; 0 where the system does not tell."""
        return round(median(trial.memory or 0 for trial in self.trials))

    def holds(self, limits: Limits) -> bool:
        """Whether it answered in every round, and its medians keep the limits."""
        within = limits.memory is None or self.memory <= limits.memory
        return not self.failure and self.p99_ms <= limits.p99_ms and within


def decide(default: Rounds | None, winner: Rounds | None, limits: Limits) -> Kind:
    """Which of both it is to be. `default` is None where it would not even load."""
    default_holds = default is not None and default.holds(limits)
    winner_holds = winner is not None and winner.holds(limits)
    if not winner_holds:
        return "as good" if default_holds else "none"
    if not default_holds:
        return "rescued"
    assert default is not None
    assert winner is not None
    return "better" if winner.rps - default.rps > max(winner.spread, default.spread) else "as good"


def rounds_of(trials: Sequence[Trial]) -> Rounds | None:
    """None of none."""
    return Rounds(trials[0].candidate, tuple(trials)) if trials else None
