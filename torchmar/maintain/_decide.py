"""Decide by stated thresholds what new data asks for, and whether a candidate may replace what is served."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..evaluate import Comparison, Score, bounds, sentence
from ..report.archive import figure

Decision = Literal["nothing", "retrain", "alarm"]


@dataclass(frozen=True)
class Thresholds:
    """What is tolerated. `drop` and `refused` are shares, `least` is a number of labelled requests.

    `drop` is by how much of its value the main metric may be worse than on the old data; `refused` is the
    share of new requests that may be refused; with fewer than `least` labels nothing is trained.
    """

    drop: float = 0.02
    refused: float = 0.05
    least: int = 50


@dataclass(frozen=True)
class Observed:
    """What new data shows of the served archive.

    `requests` were compared with the reference, of which `refused` were refused; `labelled` have a label.
    `then` is its main metric on old data and `now` that on the new; None where the new data has no labels.
    `drifted` are the figures that have.
    """

    requests: int
    refused: int
    refusal: str
    drifted: tuple[str, ...]
    labelled: int = 0
    then: Score | None = None
    now: Score | None = None


def decide(seen: Observed, limits: Thresholds) -> tuple[Decision, tuple[str, ...]]:
    """Return the decision with its reasons.

    Requests that are refused are an alarm: no training mends them. A metric that fell beyond the threshold
    with its whole 95 % interval asks for training, with or without drift. Drift without labels is an alarm,
    since nobody can tell what it does to the answers; with labels it is no more than a reason to look.
    """
    if seen.refused > limits.refused * seen.requests:
        share = f"{seen.refused} of {seen.requests} new requests were refused"
        return "alarm", (f"{share}, the first one as {seen.refusal}",)
    drift = f"drifted: {', '.join(seen.drifted)}" if seen.drifted else "no figure has drifted"
    if seen.then is None or seen.now is None:
        return ("alarm" if seen.drifted else "nothing"), (f"{drift}; the new requests have no labels",)
    if not (math.isfinite(seen.then.value) and math.isfinite(seen.now.value)):
        return "alarm", (f"{seen.now.name} is no number on this data", drift)
    some = "" if seen.labelled == seen.requests else f" with labels ({seen.labelled})"
    both = f"{seen.now.name} {_bounds(seen.now)} on the new data{some}, {figure(seen.then.value)} on the old"
    if not has_fallen(seen.then, seen.now, limits.drop):
        return "nothing", (f"{both}: not worse by more than {limits.drop:.0%}", drift)
    if seen.labelled < limits.least:
        few = f"{seen.labelled} labelled requests are too few to train on, {limits.least} are needed"
        return "alarm", (f"{both}: worse by more than {limits.drop:.0%}", few)
    return "retrain", (f"{both}: worse by more than {limits.drop:.0%}", drift)


def has_fallen(then: Score, now: Score, drop: float) -> bool:
    """Return whether all of a metric's interval is worse than its old value by more than the share `drop`."""
    room = drop * abs(then.value)
    return now.high < then.value - room if then.higher else now.low > then.value + room


def refusals(on_old: Comparison, on_new: Comparison, drop: float) -> tuple[str, ...]:
    """Return why a candidate may not replace its parent; nothing where it may.

    It must be better on the new data beyond chance, and on the old neither worse beyond chance nor by more
    than the share `drop`.
    """
    return tuple(_refusals(on_old, on_new, drop))


def _refusals(on_old: Comparison, on_new: Comparison, drop: float) -> Iterator[str]:
    if not (math.isfinite(on_old.now) and math.isfinite(on_new.now)):
        yield f"its {on_new.metric} is no number"
        return
    if on_old.verdict == "worse" or -on_old.by > drop * abs(on_old.before):
        yield f"on the old data it is {sentence(on_old)}"
    if on_new.verdict != "better":
        yield f"on the new data it is {sentence(on_new)}"


def _bounds(score: Score) -> str:
    return f"{figure(score.value)} ({bounds(score.low, score.high)})"
