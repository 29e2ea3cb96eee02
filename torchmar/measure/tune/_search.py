"""Choose the configurations to try, coarse to fine. It measures nothing; the caller sends each result."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

from ._values import Candidate, Trial, better, ranked

BATCH_SIZES = (2, 4, 8, 16)
DELAYS = (1, 2, 5, 10)  # ms
_SPLITS_TO_REFINE = 2
_NEAR = 0.9  # of the best rate: below that, no other delay makes up for it

Search = Generator[Candidate, Trial, None]
"""Yields candidates, each once, and receives the Trial of each."""


@dataclass(frozen=True)
class Space:
    """The choices: processors, and the most workers and requests in a batch.

    Without `threads`, each worker keeps its own.
    """

    cpus: int
    max_workers: int | None = None
    max_batch: int = BATCH_SIZES[-1]
    threads: bool = True

    def splits(self) -> list[Candidate]:
        """Divide the processors among workers, also with one worker more than there are processors."""
        counts = {1 << power for power in range(self.cpus.bit_length())} | {self.cpus, self.cpus + 1}
        allowed = self.cpus + 1 if self.max_workers is None else self.max_workers
        return [
            Candidate(n, max(1, self.cpus // n) if self.threads else None)
            for n in sorted(counts)
            if n <= allowed
        ]

    def batches(self) -> list[int]:
        """Return the batch sizes above 1."""
        return [size for size in BATCH_SIZES if size <= self.max_batch]

    def bound(self, default: Candidate) -> int:
        """Return the most candidates that can be tried, with the default."""
        splits, batches = self.splits(), self.batches()
        # Each batch size is tried with the first delay; the default may batch even if no candidate may.
        delays = len(DELAYS) if default.batch_size > 1 else len(DELAYS[1:]) if batches else 0
        return len({default, *splits}) + len(splits[:_SPLITS_TO_REFINE]) * len(batches) + delays


class _Seen:
    """Remembers trials, so that nothing is measured twice."""

    def __init__(self) -> None:
        self.trials: dict[Candidate, Trial] = {}

    def visit(self, candidate: Candidate) -> Generator[Candidate, Trial, Trial]:
        if candidate not in self.trials:
            self.trials[candidate] = yield candidate
        return self.trials[candidate]


def search(default: Candidate, space: Space) -> Search:
    """Yield the default, then splits without batches, the best two with batches, the best with delays."""
    seen = _Seen()
    yield from seen.visit(default)
    splits = []
    for split in space.splits():
        splits.append((yield from seen.visit(split)))
    for trial in _hopeful(splits)[:_SPLITS_TO_REFINE]:
        yield from _growing_batches(seen, trial, space)
    yield from _longer_delays(seen)


def _hopeful(trials: Iterable[Trial]) -> list[Trial]:
    """Return the best first, without those that larger batches could not help."""
    return [trial for trial in ranked(trials) if trial.verdict not in {"failed", "memory"}]


def _growing_batches(seen: _Seen, last: Trial, space: Space) -> Search:
    """Grow the batch while each size beats the one before."""
    for size in space.batches():
        now = yield from seen.visit(replace(last.candidate, batch_size=size, max_batch_delay=DELAYS[0]))
        if not better(now, last):
            return
        last = now


def _longer_delays(seen: _Seen) -> Search:
    """Lengthen the delay for the best batching trial, if it is near the best of all, until it gets worse."""
    best = ranked(seen.trials.values())[0]
    batching = _hopeful(trial for trial in seen.trials.values() if trial.candidate.batch_size > 1)
    if not batching or batching[0].holds != best.holds or batching[0].rate < _NEAR * best.rate:
        return
    last = batching[0]
    for delay in DELAYS:
        now = yield from seen.visit(replace(batching[0].candidate, max_batch_delay=delay))
        if better(last, now):
            return
        last = now


def challengers(trials: list[Trial], margin: float) -> list[Trial]:
    """Return the trials within the limits that may beat the default, the first choice first.

    Among those within `margin` of the highest rate, the lowest p99 comes first, because their order by rate
    is chance. A trial that is slower than the default by more than `margin` cannot beat it.
    """
    default = next((trial for trial in trials if trial.default), None)
    others = [trial for trial in ranked(trials) if trial.holds and not trial.default]
    if default is not None and default.holds:
        others = [trial for trial in others if not better(default, trial, margin)]
    near = [trial for trial in others if trial.rate * (1 + margin) >= others[0].rate]
    rest = [trial for trial in others if trial not in near]
    return [*sorted(near, key=lambda trial: trial.tail), *rest]
