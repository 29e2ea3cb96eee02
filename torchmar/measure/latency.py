"""How fast, and how often not at all: what chance alone could do is told from what it could not."""

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
"""What chance would bring about less often than this is no chance: a release is not stopped for noise."""
MIN_SAMPLES = 20
"""Fewer say nothing of a rate or a median: of 20, the interval of the median already spans half of them."""
SLOW_SHARE = 0.05
"""A tail is good where it is sure, but for 5 %, that fewer than this share of answers is beyond its limit."""
TAIL_SAMPLES = 59
"""The fewest that can say so: 0.95 ** 59 < 0.05, where none of them is beyond it."""
FLOOR_SECONDS = 0.002
"""What nobody minds, and what a busy machine adds for no reason: 1.6 ms is no slowdown from 1 ms."""
_DOUBT = 0.05  # what is called good is not, this often at most


def judge_latency(
    default: Sequence[Sample] | None,
    candidate: Sequence[Sample],
    *,
    max_slowdown: float,
    floor_seconds: float = FLOOR_SECONDS,
    seed: int = 0,
) -> tuple[Finding, Finding]:
    """The median and the tail of answers with success, of which those of both versions were sent in turn.

    What they waited behind others is left out: the default has real traffic in its queue, and the candidate
    none. Those of which it is not known do not count.
    `max_slowdown` is a ratio; a difference of at most `floor_seconds` never counts.
    """
    before, after = _own(default or ()), _own(candidate)
    few = len(after) if default is None else min(len(before), len(after))
    if few < (1 if default is None else MIN_SAMPLES):
        text = f"{few} answers are too few to tell: {MIN_SAMPLES} of each version are needed"
        unknown = sum(sample.ok and sample.waited is None for sample in (*(default or ()), *candidate))
        if unknown:
            text += f"; {unknown} more met real traffic, and their own time cannot be told"
        return Finding("p50", Outcome.INCONCLUSIVE, text), Finding("p99", Outcome.INCONCLUSIVE, text)
    if default is None:
        return _first("p50", after, 0.5), _first("p99", after, 0.99)

    def limit(seconds: float) -> float:
        return max(seconds * max_slowdown, seconds + floor_seconds)

    return _judge_median(before, after, limit, seed), _judge_tail(before, after, limit)


def judge_first_part(
    default: Sequence[Sample] | None, candidate: Sequence[Sample], *, max_slowdown: float
) -> tuple[Finding, ...]:
    """The time to the first part, as `judge_latency` judges that to the last one; () of answers at once.

    A version whose answers come at once brings the first part with the last.
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
    """By the bootstrap interval of how far the median is above its limit."""
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
    """By how many are slower than the default's p99 allows: too many to be chance, surely few, or neither.

    Too many by a precedence test. If the candidate were exactly as slow as allowed, its samples and the
    default's, each moved to its limit, would be shuffled evenly. How many of the candidate's then come after
    the default's p99 follows from counting alone, whatever the distribution (Nelson, Technometrics 5, 1963).
    To expect 1 % of them there would not do: the p99 of a hundred samples is itself uncertain, and that is
    no fault of the candidate's.

    Surely few by the exact binomial bound: were SLOW_SHARE of all answers slower, so few of these would be
    only once in twenty times (Clopper & Pearson, Biometrika 26, 1934).
    """
    edge = limit(nearest_rank(before, 0.99))
    slower = sum(seconds > edge for seconds in after)
    beyond = len(before) - rank(len(before), 0.99)  # of the default's own samples
    # `slower` or more come after it exactly where the last `slower + beyond` of all have that many of them.
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
    """(errors, requests) of the baseline's traffic and of the candidate's: Fisher's exact test, one-sided.

    Where there was less than MIN_SAMPLES of baseline, what is missing counts as answered with success: what
    was never seen to fail is not known to fail. Without, nothing could be held against a first version.
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
    """In ms."""
    return round(seconds * 1e3, 3)
