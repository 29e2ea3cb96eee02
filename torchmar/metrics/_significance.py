"""Compute intervals of metrics, and whether two archives differ.

A share of the examples has Wilson's score interval (Journal of the American Statistical Association 22,
1927), as a bootstrap of a share that is 1 would be sure of it. Other metrics have the percentiles of a
bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ..measure.statistics import interval
from ._evidence import Metric

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """A metric's value and its 95 % interval; `higher` says whether more is better."""

    name: str
    value: float
    low: float
    high: float
    higher: bool = True


def score(metric: Metric, indices: Sequence[int], *, resamples: int, seed: int) -> Score:
    """Return a metric of the examples with these indices."""
    import numpy as np
    from scipy.stats import binomtest

    chosen = np.array(indices)
    value = metric.of(chosen)
    if metric.is_share:
        right = binomtest(round(value * len(chosen)), len(chosen))
        bounds = right.proportion_ci(CONFIDENCE, method="wilson")
        return Score(metric.name, value, float(bounds.low), float(bounds.high), metric.higher)
    low, high = _bootstrap(metric.of, chosen, value, resamples, seed)
    return Score(metric.name, value, low, high, metric.higher)


def difference(
    one: Metric, other: Metric, count: int, *, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return how much `other` exceeds `one`, with its 95 % interval: a paired bootstrap.

    Both are asked for the same of the `count` examples in each resample.
    """
    import numpy as np

    def apart(indices: Any) -> float:
        return other.of(indices) - one.of(indices)

    every = np.arange(count)
    value = apart(every)
    return value, *_bootstrap(apart, every, value, resamples, seed)


def _bootstrap(
    of: Callable[[Any], float],
    chosen: Any,
    value: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Return the bounds of the middle 95 % of resamples; those without a metric say nothing."""
    import numpy as np

    generator = np.random.default_rng(seed)
    drawn = (of(chosen[generator.integers(0, len(chosen), len(chosen))]) for _ in range(resamples))
    defined = [one for one in drawn if not math.isnan(one)]
    return interval(defined, CONFIDENCE) if defined else (value, value)


def sign_flip_test(differences: Sequence[float], *, seed: int) -> float:
    """Return the two-sided p of a paired permutation test: how often chance signs give as large a mean.

    `differences` are one for each example. All signs are tried for up to 12 that are not 0, else 4,000 draws
    (Good, Permutation, Parametric, and Bootstrap Tests of Hypotheses, 2005, chapter 3).
    """
    import numpy as np

    apart = np.array([one for one in differences if one])
    if not len(apart):
        return 1.0
    if len(apart) <= 12:
        signs = np.array(list(product((-1.0, 1.0), repeat=len(apart))))
    else:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (4000, len(apart)))
    sums = np.abs(signs @ apart)
    as_large = int((sums >= abs(apart.sum()) - 1e-12 * np.abs(apart).sum()).sum())
    return as_large / len(signs) if len(apart) <= 12 else (1 + as_large) / (1 + len(signs))


def p_of_worse(some: Sequence[float], rest: Sequence[float]) -> float:
    """Return the one-sided p that `some` figures are as large as the rest: Fisher's exact test for shares.

    Figures that are not all 0 or 1 have Welch's t-test (Biometrika 34, 1947).
    """
    from scipy.stats import fisher_exact, ttest_ind

    if {*some, *rest} <= {0.0, 1.0}:
        right, other = sum(some), sum(rest)
        table = [[right, len(some) - right], [other, len(rest) - other]]
        return float(fisher_exact(table, alternative="less").pvalue)
    if len({*some}) == 1 and len({*rest}) == 1:  # without any spread there is no such test
        return 0.0 if some[0] < rest[0] else 1.0
    return float(ttest_ind(some, rest, equal_var=False, alternative="less").pvalue)


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p of McNemar's exact test (Psychometrika 12, 1947).

    Of the examples that exactly one of two classifiers gets right, `only_one` and `only_other` are theirs.
    """
    from scipy.stats import binomtest

    both = only_one + only_other
    return float(binomtest(only_one, both).pvalue) if both else 1.0
