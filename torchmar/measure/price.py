"""Compute what compressing a model costs, and what it gains, from measured figures.

The cost of a model f on N examples is the mean distance of its outputs from those that are right,

    C = (1/N) Σ |f(x_i) − y_i|,

where |·| is the sum of absolute differences over all outputs of an instance. With y_i by the examples' labels
it is taken of both models; with y_i = the uncompressed model's outputs it is what compressing alone costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ..mar import Accepted
from .statistics import bootstrap_means, interval, nearest_rank

CONFIDENCE = 0.95
_DIGITS = 3
FLOAT, COMPRESSED = "float", "compressed"
"""The names of both models in a price."""


@dataclass(frozen=True)
class Mean:
    """A mean or another figure, and the bounds of its 95 % interval, with three significant digits.

    More would vary between machines.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Return the mean of at least one value; the draws of its interval are the same each time."""
        low, high = interval(bootstrap_means(values), CONFIDENCE)
        return cls.within(math.fsum(values) / len(values), low, high)

    @classmethod
    def within(cls, value: float, low: float, high: float) -> Mean:
        """Return a figure with the bounds that were found for it."""
        return cls(*(shortened(one) + 0.0 for one in (value, low, high)))  # -0.0 becomes 0.0


@dataclass(frozen=True)
class MetricPrice:
    """The task's metric of both models on the labelled examples, such as accuracy or RMSE.

    `higher` says whether more is better. `drop` is how much worse the compressed model's is, in the metric's
    own unit, with its interval: below 0 it is better. `p` is that of the paired comparison, which for classes
    is McNemar's exact test, else a permutation test.
    """

    name: str
    higher: bool
    examples: int
    values: Mapping[str, Mean]
    drop: Mean
    p: float


@dataclass(frozen=True)
class Price:
    """What compressing a model costs. It is the same each time, for the same inputs on one kind of machine.

    `calibrated_on` is how many examples the ranges are from, and `apart` whether none of them is among
    the `examples` of the cost. `bytes` are the artifacts' sizes. `cost` is against the uncompressed
    model's outputs, None where these have no fixed shape; `cost_by_labels` is against the labels, None
    where there are none, or the handler cannot tell what is right for one. `metric` is the task's, None
    where there are no labels that suit the answers. `agreement` is the share of
    examples with the uncompressed model's answer, by the handler's comparison. `golden_differing` names
    the golden requests with another answer than the module's. Errors are differences of any output of a
    part of the model, relative to the largest of its outputs if that exceeds 1. `multiply_adds` of one
    instance and `parameters` are those before and after pruning; None where nothing was pruned.
    """

    quantize: str | None
    bits: int | None
    calibration: str | None
    calibrated_on: int
    layers: int
    layers_in_float: tuple[str, ...]
    data_sha256: str
    examples: int
    apart: bool
    bytes: Mapping[str, int]
    cost: Mean | None
    cost_by_labels: Mapping[str, Mean] | None
    metric: MetricPrice | None
    agreement: float
    golden: int
    golden_differing: tuple[str, ...]
    max_abs_error: float
    mean_abs_error: float
    multiply_adds: tuple[int, int] | None = None
    parameters: tuple[int, int] | None = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a batch: the median over all rounds of each round's p50, and of its p99."""

    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, rounds: Sequence[Sequence[float]]) -> Latency:
        """Return it for the seconds that were measured in each round."""
        ordered = [sorted(seconds) for seconds in rounds]
        found = (
            nearest_rank(sorted(nearest_rank(one, share) for one in ordered), 0.5) for share in (0.5, 0.99)
        )
        return cls(*(shortened(1000 * seconds) for seconds in found))


@dataclass(frozen=True)
class Speed:
    """How fast both models are on this machine, and how much memory they take: measured, never the same.

    `latency` is by model and batch size. `peak_rss_mb` (10^6 bytes) is that of a process which loads the
    model and runs one batch; None where the system does not tell it.
    """

    processor: str
    threads: int
    versions: Mapping[str, str]
    latency: Mapping[str, Mapping[str, Latency]]
    peak_rss_mb: Mapping[str, float | None]

    def slower(self) -> list[str]:
        """Return sentences on the batch sizes at which the compressed model is slower than the other."""
        return [
            f"slower here: a batch of {size} takes {now.p50_ms:g} ms compressed, {before.p50_ms:g} ms in "
            f"float, on {self.processor}"
            for size, now in self.latency[COMPRESSED].items()
            if now.p50_ms > (before := self.latency[FLOAT][size]).p50_ms
        ]


def shortened(value: float, digits: int = _DIGITS) -> float:
    """Round to so many significant digits."""
    return float(f"{value:.{digits}g}")


def shortfalls(price: Mapping[str, Any], accepts: Accepted) -> dict[str, str]:
    """Return, by key of `accept`, in what a price is not accepted: "agreement 0.9 is below 0.95".

    `price` is the content of a price.json, and may be a stranger's: what it does not tell is not accepted.
    """
    found: dict[str, str] = {}
    least = 1.0 if accepts.agreement is None else accepts.agreement
    golden, differing = price.get("golden"), price.get("golden_differing")
    shares = {"agreement": price.get("agreement")}
    if not isinstance(golden, int) or not isinstance(differing, list | tuple):
        shares["agreement of golden requests"] = None
    elif golden:
        shares["agreement of golden requests"] = 1 - len(differing) / golden
    for name, share in shares.items():
        if not _is_number(share) or share < least:
            found["agreement"] = f"{name} {_shown(share)} is below {least:g}"
    for key, value, most in (
        ("max_abs_error", price.get("max_abs_error"), accepts.max_abs_error),
        ("cost", _within(price, "cost", "value"), accepts.cost),
        ("metric_drop", _within(price, "metric", "drop", "value"), accepts.metric_drop),
    ):
        if most is not None and not (_is_number(value) and value <= most):
            found[key] = f"{key} {_shown(value)} exceeds {most:g}"
    return found


def metric_in_words(price: Mapping[str, Any]) -> str:
    """Return the metric of both models as "accuracy 0.986 → 0.983 …"; '' where a price has none.

    `price` is the content of a price.json, and may be a stranger's.
    """
    name, examples = _within(price, "metric", "name"), _within(price, "metric", "examples")
    p = _within(price, "metric", "p")
    bounds = {
        model: [_within(price, "metric", "values", model, one) for one in ("value", "low", "high")]
        for model in (FLOAT, COMPRESSED)
    }
    if not all(map(_is_number, (p, *bounds[FLOAT], *bounds[COMPRESSED]))):
        return ""
    both = " → ".join("{:g} [{:g}, {:g}]".format(*figures) for figures in bounds.values())
    return f"{name} {both} on {examples} labelled examples, p = {p:.2g}"


def _within(found: Any, *keys: str) -> Any:
    """Return what a mapping holds under these keys, one inside the other; None if it does not."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else "unknown"
