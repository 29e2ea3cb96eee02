"""Which configurations are tried, coarse to fine. It measures nothing: it is told what came of each."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace

from ._values import Candidate, Trial, better, ranked

BATCH_SIZES = (2, 4, 8, 16)
DELAYS = (1, 2, 5, 10)  # ms
_SPLITS_TO_REFINE = 2
_NEAR = 0.9  # of the best rate: below that, another delay does not make up for it

Search = Generator[Candidate, Trial, None]
"""Yields candidates, no one twice, and is sent the Trial of each."""


@dataclass(frozen=True)
class Space:
    """What there is to choose from: processors, and at most so many workers and requests in a batch.

    Without `threads` those of a worker are left as they are.
    """

    cpus: int
    max_workers: int | None = None
    max_batch: int = BATCH_SIZES[-1]
    threads: bool = True

    def splits(self) -> list[Candidate]:
        """The processors divided among workers, and one worker more than there are processors."""
        counts = {1 << power for power in range(self.cpus.bit_length())} | {self.cpus, self.cpus + 1}
        allowed = self.cpus + 1 if self.max_workers is None else self.max_workers
        return [
            Candidate(n, max(1, self.cpus // n) if self.threads else None)
            for n in sorted(counts)
            if n <= allowed
        ]

    def batches(self) -> list[int]:
        """Batch sizes above 1."""
        return [size for size in BATCH_SIZES if size <= self.max_batch]

    def bound(self, default: Candidate) -> int:
        """How many candidates are tried at most, the default among them."""
        splits, batches = self.splits(), self.batches()
        # Batches are tried with the first delay already; the default may batch where no others may.
        delays = len(DELAYS) if default.batch_size > 1 else len(DELAYS[1:]) if batches else 0
        return len({default, *splits}) + len(splits[:_SPLITS_TO_REFINE]) * len(batches) + delays


class _Seen:
    """What was tried: nothing is measured twice."""

    def __init__(self) -> None:
        self.trials: dict[Candidate, Trial] = {}

    def visit(self, candidate: Candidate) -> Generator[Candidate, Trial, Trial]:
        if candidate not in self.trials:
            self.trials[candidate] = yield candidate
        return self.trials[candidate]


def search(default: Candidate, space: Space) -> Search:
    """The default; every split without batches; the best two with growing batches; the best with delays."""
    seen = _Seen()
    yield from seen.visit(default)
    splits = []
    for split in space.splits():
        splits.append((yield from seen.visit(split)))
    for trial in _hopeful(splits)[:_SPLITS_TO_REFINE]:
        yield from _growing_batches(seen, trial, space)
    yield from _longer_delays(seen)


def _hopeful(trials: Iterable[Trial]) -> list[Trial]:
    """The best first, without those that more requests in a batch could not help."""
    return [trial for trial in ranked(trials) if trial.verdict not in {"failed", "memory"}]


def _growing_batches(seen: _Seen, last: Trial, space: Space) -> Search:
    """While each size is better than the one before."""
    for size in space.batches():
        now = yield from seen.visit(replace(last.candidate, batch_size=size, max_batch_delay=DELAYS[0]))
        if not better(now, last):
            return
        last = now


def _longer_delays(seen: _Seen) -> Search:
    """For the best that batches, where it is near the best of all; until a delay is worse."""
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
    """Which of those that hold may beat the default, the first choice first.

    Of several within `margin` of the highest rate the one with the lowest p99 is preferred: their order by
    rate is chance. One that is slower than the default by more than `margin` cannot beat it.
    """
    default = next((trial for trial in trials if trial.default), None)
    others = [trial for trial in ranked(trials) if trial.holds and not trial.default]
    if default is not None and default.holds:
        others = [trial for trial in others if not better(default, trial, margin)]
    near = [trial for trial in others if trial.rate * (1 + margin) >= others[0].rate]
    rest = [trial for trial in others if trial not in near]
    return [*sorted(near, key=lambda trial: trial.tail), *rest]
