"""Judge latencies and error rates: tell a real difference from chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .samples import Finding, Outcome, Sample
from .statistics import (
    binomial_head,
    bootstrap_medians,
    hypergeometric_tail,
    interval,
    nearest_rank,
    rank,
)

SIGNIFICANCE = 0.01
"""Significance level: p below this counts as a real difference."""
MIN_SAMPLES = 20
"""Fewer samples say nothing about a rate or a median: of 20, the median's interval already spans half."""
SLOW_SHARE = 0.05
"""A tail passes if, with 95 % confidence, fewer than this share of responses exceeds its limit."""
TAIL_SAMPLES = 59
"""The fewest samples that can show it: 0.95 ** 59 < 0.05, if none of them exceeds the limit."""
NEGLIGIBLE_SECONDS = 0.002
"""Smaller differences never count: nobody notices them, and a busy machine causes them at random."""
_DOUBT = 0.05  # the largest probability that a tail passes wrongly


def judge_latency(
    default: Sequence[Sample] | None,
    candidate: Sequence[Sample],
    *,
    max_slowdown: float,
    negligible_seconds: float = NEGLIGIBLE_SECONDS,
    seed: int = 0,
) -> tuple[Finding, Finding]:
    """Judge median and tail of the successful responses; both versions got the requests in turn.

    Time in the queue behind others does not count, because the default version's queue has real traffic and
    the candidate's has none. Samples with an unknown queue time do not count. `max_slowdown` is a ratio; a
    difference of at most `negligible_seconds` never counts.
    """
    before, after = _own(default or ()), _own(candidate)
    few = len(after) if default is None else min(len(before), len(after))
    if few < (1 if default is None else MIN_SAMPLES):
        text = f"{few} answers are too few to tell: {MIN_SAMPLES} of each version are needed"
        unknown = sum(sample.ok and sample.waited is None for sample in (*(default or ()), *candidate))
        if unknown:
            text += f"; {unknown} more met real traffic, so their own time is unknown"
        return Finding("p50", Outcome.INCONCLUSIVE, text), Finding("p99", Outcome.INCONCLUSIVE, text)
    if default is None:
        return _first("p50", after, 0.5), _first("p99", after, 0.99)

    def limit(seconds: float) -> float:
        return max(seconds * max_slowdown, seconds + negligible_seconds)

    return _judge_median(before, after, limit, seed), _judge_tail(before, after, limit)


def judge_first_part(
    default: Sequence[Sample] | None, candidate: Sequence[Sample], *, max_slowdown: float
) -> tuple[Finding, ...]:
    """Judge the time to the first part like `judge_latency`; returns () if no response came in parts.

    A version that responds at once sends its first part with the last.
    """
    if all(sample.first is None for sample in (*(default or ()), *candidate)):
        return ()

    def of_first(samples: Sequence[Sample]) -> list[Sample]:
        return [one if one.first is None else replace(one, seconds=one.first) for one in samples]

    before = None if default is None else of_first(default)
    found = judge_latency(before, of_first(candidate), max_slowdown=max_slowdown)
    return tuple(replace(finding, what=f"{finding.what} to first part") for finding in found)


def _own(samples: Sequence[Sample]) -> list[float]:
    own = (sample.own_seconds for sample in samples if sample.ok)
    return sorted(seconds for seconds in own if seconds is not None)


def _first(what: str, seconds: Sequence[float], share: float) -> Finding:
    value = nearest_rank(seconds, share)
    figures = {"candidate_ms": _rounded(value), "samples": len(seconds)}
    return Finding(what, Outcome.PASS, f"{_ms(value)}; the first version: nothing to compare with", figures)


def _judge_median(
    before: Sequence[float], after: Sequence[float], limit: Callable[[float], float], seed: int
) -> Finding:
    """Judge the median by the bootstrap interval of its distance from the limit."""
    pairs = bootstrap_medians(before, after, seed=seed)
    least, most = interval([new - limit(old) for old, new in pairs], 1 - 2 * SIGNIFICANCE)
    one, other = nearest_rank(before, 0.5), nearest_rank(after, 0.5)
    low, high = interval([new - old for old, new in pairs], 1 - 2 * SIGNIFICANCE)
    figures = {
        "default_ms": _rounded(one),
        "candidate_ms": _rounded(other),
        "difference_ms": [_rounded(low), _rounded(high)],
        "limit_ms": _rounded(limit(one)),
        "samples": [len(before), len(after)],
    }
    text = f"{_ms(other)} against {_ms(one)}, a difference of {low * 1e3:+.1f} to {high * 1e3:+.1f} ms"
    if least > 0:
        return Finding("p50", Outcome.FAIL, f"{text}; at most {_ms(limit(one))} is allowed", figures)
    if most > 0:
        text += f"; noise hides whether it is within {_ms(limit(one))}"
        return Finding("p50", Outcome.INCONCLUSIVE, text, figures)
    return Finding("p50", Outcome.PASS, text, figures)


def _judge_tail(before: Sequence[float], after: Sequence[float], limit: Callable[[float], float]) -> Finding:
    """Judge the tail: count the responses slower than the default version's p99 allows.

    Too many fail by a precedence test. If the candidate were exactly as slow as allowed, its samples and the
    default version's, each moved to its limit, would be shuffled evenly. Counting alone then gives the
    probability that so many of the candidate's samples come after the default version's p99, whatever the
    distribution (Nelson, Technometrics 5, 1963). Expecting 1 % there would be wrong: the p99 of a hundred
    samples is itself uncertain, and that is not the candidate's fault.

    Few enough pass by the exact binomial bound: if SLOW_SHARE of all responses were slower, so few would
    appear only once in twenty times (Clopper & Pearson, Biometrika 26, 1934).
    """
    edge = limit(nearest_rank(before, 0.99))
    slower = sum(seconds > edge for seconds in after)
    beyond = len(before) - rank(len(before), 0.99)  # counts the default version's own samples
    # `slower` or more come after it exactly if the last `slower + beyond` of all hold that many of them.
    chance = hypergeometric_tail(
        slower, draws=slower + beyond, marked=len(after), total=len(before) + len(after)
    )
    few = binomial_head(slower, draws=len(after), share=SLOW_SHARE)
    one, other = nearest_rank(before, 0.99), nearest_rank(after, 0.99)
    figures = {
        "default_ms": _rounded(one),
        "candidate_ms": _rounded(other),
        "limit_ms": _rounded(edge),
        "slower": slower,
        "p": chance,
        "p_few": few,
        "samples": [len(before), len(after)],
    }
    text = f"{_ms(other)} against {_ms(one)}; {slower} of {len(after)} answers took longer than {_ms(edge)}"
    if chance < SIGNIFICANCE:
        return Finding("p99", Outcome.FAIL, f"{text}: more than chance (p = {chance:.2g})", figures)
    if few > _DOUBT:
        text += f"; that hides whether {SLOW_SHARE:.0%} of all do"
        return Finding("p99", Outcome.INCONCLUSIVE, text, figures)
    return Finding("p99", Outcome.PASS, text, figures)


def judge_rate(before: tuple[int, int], after: tuple[int, int]) -> Finding:
    """Compare (errors, requests) of the baseline and of the candidate by Fisher's exact test, one-sided.

    A baseline below MIN_SAMPLES is filled up with successes, because nothing shows that those requests would
    fail. Otherwise no first version could ever fail.
    """
    (errors, requests), (new_errors, new_requests) = before, after
    figures: dict[str, Any] = {"before": list(before), "after": list(after)}
    text = f"{new_errors} of {new_requests} requests failed, {errors} of {requests} before"
    if new_requests < MIN_SAMPLES:
        text += f"; fewer than {MIN_SAMPLES} requests tell nothing"
        return Finding("error rate", Outcome.INCONCLUSIVE, text, figures)
    assumed = max(requests, MIN_SAMPLES)
    chance = hypergeometric_tail(
        new_errors, draws=new_requests, marked=errors + new_errors, total=assumed + new_requests
    )
    figures["p"] = chance
    if chance < SIGNIFICANCE:
        return Finding("error rate", Outcome.FAIL, f"{text}: more than chance (p = {chance:.2g})", figures)
    if new_errors and requests < MIN_SAMPLES:
        text += "; too few before to tell whether that is usual"
        return Finding("error rate", Outcome.INCONCLUSIVE, text, figures)
    return Finding("error rate", Outcome.PASS, text, figures)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _rounded(seconds: float) -> float:
    """Return milliseconds."""
    return round(seconds * 1e3, 3)
