"""Compute what samples can show, and with what confidence; each formula names its source."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the ordered values that `share` of them do not exceed."""
    return ordered[rank(len(ordered), share) - 1]


def rank(count: int, share: float) -> int:
    """Return that value's position, counted from 1."""
    return max(1, math.ceil(share * count))


def bootstrap_medians(
    before: Sequence[float], after: Sequence[float], *, resamples: int = 1000, seed: int = 0
) -> list[tuple[float, float]]:
    """Resample the medians of `before` and of `after`.

    The percentiles of a statistic over these pairs are its bootstrap interval (Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13). `seed` makes the draws repeatable.
    """
    generator = random.Random(seed)  # noqa: S311 - no secret depends on it
    one, other = sorted(before), sorted(after)
    return [(_resampled(one, generator), _resampled(other, generator)) for _ in range(resamples)]


def bootstrap_means(values: Sequence[float], *, resamples: int = 1000, seed: int = 0) -> list[float]:
    """Resample the mean of `values`, as `bootstrap_medians` does medians."""
    generator = random.Random(seed)  # noqa: S311 - no secret depends on it
    count = len(values)
    return [math.fsum(generator.choices(values, k=count)) / count for _ in range(resamples)]


def interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the bounds of the middle `confidence` of the values."""
    ordered, tail = sorted(values), (1 - confidence) / 2
    return nearest_rank(ordered, tail), nearest_rank(ordered, 1 - tail)


def _resampled(ordered: Sequence[float], generator: random.Random) -> float:
    """Return the median of as many draws with replacement.

    That is the draw whose index is the median of as many uniform numbers, and the k-th smallest of n uniform
    numbers is Beta(k, n + 1 - k) (David & Nagaraja, Order Statistics, 2003). So one draw is enough.
    """
    count = len(ordered)
    middle = rank(count, 0.5)
    position = generator.betavariate(middle, count + 1 - middle)
    return ordered[min(count - 1, int(position * count))]


def hypergeometric_tail(least: int, *, draws: int, marked: int, total: int) -> float:
    """Return P(at least `least` of `draws` are marked), drawn from `total`, of which `marked` are marked.

    Sums logarithms of factorials, because counts of requests overflow a float.
    """
    first, last = max(least, draws + marked - total), min(draws, marked)
    everything = _log_choose(total, draws)
    terms = (
        math.exp(_log_choose(marked, n) + _log_choose(total - marked, draws - n) - everything)
        for n in range(first, last + 1)
    )
    return min(1.0, math.fsum(terms))


def binomial_head(most: int, *, draws: int, share: float) -> float:
    """Return P(at most `most` of `draws` are marked), if `share` of all are."""
    one, other = math.log(share), math.log1p(-share)
    terms = (math.exp(_log_choose(draws, n) + n * one + (draws - n) * other) for n in range(most + 1))
    return min(1.0, math.fsum(terms))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
