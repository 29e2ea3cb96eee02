"""Compare two models' answers to the same labelled requests."""

from __future__ import annotations

from dataclasses import dataclass

from ._classes import Classes
from ._evidence import Evidence
from ._significance import difference, mcnemar, sign_flip_test


@dataclass(frozen=True)
class Paired:
    """How one model's primary metric differs from another one's on the same examples.

    `by` is how much better it is now, from `low` to `high` with 95 % confidence by a paired bootstrap. `p` is
    that of McNemar's exact test for classes, else of a paired permutation test. Of classes `gained` are right
    now and were wrong, `lost` the other way round.
    """

    metric: str
    before: float
    now: float
    by: float
    low: float
    high: float
    p: float
    gained: int | None = None
    lost: int | None = None


def paired(before: Evidence, now: Evidence, *, seed: int = 0) -> Paired:
    """Return how `now` differs from `before`; both are of the same examples and the same kind."""
    import numpy as np

    count = len(now.each)
    sign = 1.0 if now.primary.higher else -1.0
    by, *bounds = difference(before.primary, now.primary, count, resamples=now.resamples, seed=seed)
    low, high = sorted(sign * bound for bound in bounds)
    gained = lost = None
    if isinstance(before, Classes) and isinstance(now, Classes):
        gained, lost = int((now.right & ~before.right).sum()), int((before.right & ~now.right).sum())
        p = mcnemar(lost, gained)
    else:
        p = sign_flip_test([b - a for a, b in zip(before.each, now.each, strict=True)], seed=seed)
    every = np.arange(count)
    values = before.primary.of(every), now.primary.of(every)
    return Paired(now.primary.name, *values, sign * by, low, high, p, gained, lost)
