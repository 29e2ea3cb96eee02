"""Compute intervals of metrics, and whether two archives differ.

A share of the examples has Wilson's score interval (Journal of the American Statistical Association 22,
1927), as a bootstrap of a share that is 1 would be sure of it. Other metrics have the percentiles of a
bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..measure.statistics import interval
from ._evidence import Metric

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Score:
    """A metric's value and its interval, of 95 % unless said; `higher` says whether more is better."""

    name: str
    value: float
    low: float
    high: float
    higher: bool = True


def score(
    metric: Metric,
    indices: Sequence[int],
    *,
    resamples: int,
    seed: int,
    confidence: float = CONFIDENCE,
) -> Score:
    """Return a metric of the examples with these indices, and its interval of that confidence."""
    import numpy as np
    from scipy.stats import binomtest

    chosen = np.array(indices)
    value = metric.of(chosen)
    if metric.is_share:
        right = binomtest(round(value * len(chosen)), len(chosen))
        bounds = right.proportion_ci(confidence, method="wilson")
        return Score(metric.name, value, float(bounds.low), float(bounds.high), metric.higher)
    low, high = _bootstrap(metric.of, chosen, value, resamples, seed, confidence)
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
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Return the bounds of the middle `confidence` of resamples; those without a metric say nothing."""
    import numpy as np

    generator = np.random.default_rng(seed)
    drawn = (of(chosen[generator.integers(0, len(chosen), len(chosen))]) for _ in range(resamples))
    defined = [one for one in drawn if not math.isnan(one)]
    return interval(defined, confidence) if defined else (value, value)


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p of McNemar's exact test (Psychometrika 12, 1947).

    Of the examples that exactly one of two classifiers gets right, `only_one` and `only_other` are theirs.
    """
    from scipy.stats import binomtest

    both = only_one + only_other
    return float(binomtest(only_one, both).pvalue) if both else 1.0
