"""Define what metrics are computed from: the answers to examples, with their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A figure of some of the examples.

    `of` takes their indices, int64, in which one may stand several times. `higher` says whether more is
    better. `is_share` says that it is a share of the examples, each of which counts or does not.
    """

    name: str
    of: Callable[[Any], float]
    higher: bool = True
    is_share: bool = False


@dataclass(frozen=True)
class Evidence:
    """Answers and labels of one archive, from which metrics are computed.

    `metrics` begin with the one that decides. `each` is a figure for each example: more is better.
    `resamples` is how often a bootstrap may ask for a metric.
    """

    metrics: Sequence[Metric]
    each: Sequence[float]
    resamples: int = 1000

    @property
    def primary(self) -> Metric:
        """Return the metric that decides."""
        return self.metrics[0]


def mean_of(name: str, each: Sequence[float], *, is_share: bool = False) -> Metric:
    """Return the mean of one figure for each example as a metric."""
    import numpy as np

    array = np.array(each, dtype=float)
    return Metric(name, lambda indices: float(array[indices].mean()), is_share=is_share)
