"""Choose between the default and the winner by the last rounds, which measured both in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from ._values import Candidate, Limits, Trial

Kind = Literal["better", "rescued", "as good", "none"]
"""better: more requests/s. rescued: keeps a limit that the default breaks. as good: no change.

none: no configuration keeps the limits.
"""


@dataclass(frozen=True)
class Rounds:
    """One configuration, measured several times: medians, and the spread from lowest to highest."""

    candidate: Candidate
    trials: tuple[Trial, ...]

    @property
    def failure(self) -> str:
        """Return why it failed in some round; '' if it never did."""
        return next((trial.reason for trial in self.trials if trial.verdict == "failed"), "")

    @property
    def rps(self) -> float:
        """Return requests/s."""
        return median(trial.rate for trial in self.trials)

    @property
    def spread(self) -> float:
        """Return the requests/s between the lowest and the highest round."""
        rates = [trial.rate for trial in self.trials]
        return max(rates) - min(rates)

    @property
    def p99_ms(self) -> float:
        """Return the p99 in ms."""
        return median(trial.tail for trial in self.trials)

    @property
    def memory(self) -> int:
        """Return bytes; 0 if the system does not report them."""
        return round(median(trial.memory or 0 for trial in self.trials))

    def holds(self, limits: Limits) -> bool:
        """Return whether it answered in every round, and its medians keep the limits."""
        within = limits.memory is None or self.memory <= limits.memory
        return not self.failure and self.p99_ms <= limits.p99_ms and within


def decide(default: Rounds | None, winner: Rounds | None, limits: Limits) -> Kind:
    """Choose one of both. `default` is None if it did not even load."""
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
    """Return the rounds; None if there are no trials."""
    return Rounds(trials[0].candidate, tuple(trials)) if trials else None
