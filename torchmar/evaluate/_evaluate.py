"""Evaluate answers on labelled examples: metrics, slices, and the difference between two archives."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..compare import Comparator
from ..dataset import Example, labels_of
from ..errors import DatasetError
from ._answers import Answer
from ._classes import Classes
from ._evidence import Evidence
from ._intervals import CONFIDENCE, Score, difference, mcnemar, score
from ._kinds import evidence, kind_of

_FEWEST = 10  # examples of a slice
_MOST_VALUES = 20  # of an attribute that makes slices; numbers with more are cut into quarters
_SLICES, _WORST, _CHANGED = 10, 20, 50  # kept at most
_RESAMPLES = 200  # for each slice


@dataclass(frozen=True)
class Slice:
    """Examples that have something in common: `what` says what, `score` is their primary metric.

    `is_worse` says whether its whole interval is worse than the metric of all examples.
    """

    what: str
    count: int
    score: Score
    is_worse: bool


@dataclass(frozen=True)
class Wrong:
    """One of the worst examples, with its label, the answer, and a figure: the more, the better."""

    name: str
    label: Any
    answer: Any
    figure: float


@dataclass(frozen=True)
class Changed:
    """An example that two archives answer differently by the comparator."""

    name: str
    label: Any
    before: Any
    now: Any


@dataclass(frozen=True)
class Comparison:
    """How an archive differs from another one on the same examples.

    `by` is how much better its primary metric is, from `low` to `high` with 95 % confidence. `p` is that of
    McNemar's exact test, None for answers that are no classes. `gained` are right now and were wrong,
    `lost` the other way round. `count` examples were answered by both.
    """

    name: str
    version: str
    metric: str
    before: float
    now: float
    by: float
    low: float
    high: float
    count: int
    differing: int
    p: float | None = None
    gained: int | None = None
    lost: int | None = None
    changed: tuple[Changed, ...] = ()

    @property
    def verdict(self) -> str:
        """Return better, worse, or undecided where noise may explain the difference; same without one."""
        if self.low > 0 and (self.p is None or self.p < 0.05):
            return "better"
        if self.high < 0 and (self.p is None or self.p < 0.05):
            return "worse"
        return "same" if self.low == self.high == 0 else "undecided"


@dataclass(frozen=True)
class Evaluation:
    """What an archive's answers to examples show.

    `scores` begin with the primary metric. `failed` are examples without an answer, which no metric counts.
    `names` and `confusion` are of classes; `reliability` has (confidence, share right, count).
    """

    kind: str
    count: int
    scores: tuple[Score, ...]
    failed: tuple[tuple[str, str], ...] = ()
    slices: tuple[Slice, ...] = ()
    worst: tuple[Wrong, ...] = ()
    names: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    reliability: tuple[tuple[float, float, int], ...] = ()
    against: Comparison | None = field(default=None)


def judged(
    examples: Sequence[Example],
    answers: Sequence[Answer],
    comparator: Comparator,
    *,
    metric: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Return what an archive's answers to labelled examples show; `seed` makes the intervals repeatable.

    `metric` is one of KINDS; None chooses it by the archive's comparator. Raises DatasetError where labels
    are missing or do not suit, and where nothing was answered.
    """
    labels_of(examples)
    answered = [number for number, answer in enumerate(answers) if not answer.problem]
    failed = tuple((examples[n].name, one.problem) for n, one in enumerate(answers) if one.problem)
    if not answered:
        raise DatasetError(f"no request was answered, the first one as {failed[0][1]}")
    kept = [examples[number] for number in answered]
    found = [answers[number].content for number in answered]
    kind = kind_of(comparator, found[0], metric)
    shown = evidence(kind, found, [one.label for one in kept], comparator)
    every = range(len(kept))
    first, *rest = (score(one, every, resamples=shown.resamples, seed=seed) for one in shown.metrics)
    of_classes = shown if isinstance(shown, Classes) else Classes((), ())
    return Evaluation(
        kind.name,
        len(kept),
        (first, *rest),
        failed,
        tuple(_slices(kept, shown, first, seed)),
        tuple(_worst(kept, found, shown)),
        tuple(of_classes.names),
        tuple(map(tuple, of_classes.confusion)),
        tuple(of_classes.reliability),
    )


def compared(
    examples: Sequence[Example],
    before: Sequence[Answer],
    now: Sequence[Answer],
    comparator: Comparator,
    named: tuple[str, str],
    *,
    metric: str | None = None,
    seed: int = 0,
) -> Comparison:
    """Return how the answers `now` differ from those `before`, which came from `named`: a name and a version.

    Raises DatasetError.
    """
    import numpy as np

    both = [n for n in range(len(examples)) if not before[n].problem and not now[n].problem]
    if not both:
        raise DatasetError("no request was answered by both archives")
    kept, labels = [examples[n] for n in both], [examples[n].label for n in both]
    old, new = ([side[n].content for n in both] for side in (before, now))
    kind = kind_of(comparator, new[0], metric)
    one, other = (evidence(kind, side, labels, comparator) for side in (old, new))
    sign = 1.0 if other.primary.higher else -1.0
    by, *bounds = difference(one.primary, other.primary, len(kept), resamples=other.resamples, seed=seed)
    low, high = sorted(sign * bound for bound in bounds)
    changed = [
        Changed(example.name, example.label, *pair)
        for example, *pair in zip(kept, old, new, strict=True)
        if not comparator.same(*pair)
    ]
    p = gained = lost = None
    if isinstance(one, Classes) and isinstance(other, Classes):
        gained, lost = int((other.right & ~one.right).sum()), int((one.right & ~other.right).sum())
        p = mcnemar(lost, gained)
    every = np.arange(len(kept))
    return Comparison(
        *named,
        other.primary.name,
        one.primary.of(every),
        other.primary.of(every),
        sign * by,
        low,
        high,
        len(kept),
        len(changed),
        p,
        gained,
        lost,
        tuple(changed[:_CHANGED]),
    )


# -- where it is worst --------------------------------------------------------------------------


def _worst(kept: Sequence[Example], found: Sequence[Any], shown: Evidence) -> Iterator[Wrong]:
    best = max(shown.each)
    for number in sorted(range(len(kept)), key=lambda n: shown.each[n])[:_WORST]:
        if shown.each[number] < best:
            yield Wrong(kept[number].name, kept[number].label, found[number], shown.each[number])


def _slices(kept: Sequence[Example], shown: Evidence, whole: Score, seed: int) -> Iterator[Slice]:
    """Yield the slices with the worst primary metric, the worst first.

    All their intervals together hold with 95 % (Bonferroni): of many slices one is always worse by chance.
    """
    groups = [
        (what, members) for what, members in _groups(kept, shown) if _FEWEST <= len(members) < len(kept)
    ]
    found = []
    for what, members in groups:
        own = score(
            shown.primary,
            members,
            resamples=min(_RESAMPLES, shown.resamples),
            seed=seed,
            confidence=1 - (1 - CONFIDENCE) / len(groups),
        )
        is_worse = own.high < whole.value if whole.higher else own.low > whole.value
        found.append(Slice(what, len(members), own, is_worse))
    found = [one for one in found if not math.isnan(one.score.value)]
    found.sort(key=lambda one: one.score.value if whole.higher else -one.score.value)
    yield from found[:_SLICES]


def _groups(kept: Sequence[Example], shown: Evidence) -> Iterator[tuple[str, list[int]]]:
    """Yield what examples have in common, and their numbers: their class, attributes, the request's size."""
    if isinstance(shown, Classes):
        yield from _by_value("class", shown.wanted)
    for name in dict.fromkeys(name for one in kept for name in one.attributes):
        yield from _by_value(name, [one.attributes.get(name) for one in kept])
    yield from _by_value("bytes of the request", [len(one.read()) for one in kept])


def _by_value(name: str, values: Sequence[Any]) -> Iterator[tuple[str, list[int]]]:
    distinct = {value for value in values if isinstance(value, str | int | float)}
    if len(distinct) <= _MOST_VALUES or name == "class":
        for value in sorted(distinct, key=str):
            yield f"{name} {value}", [n for n, one in enumerate(values) if one == value]
        return
    numbers = [(float(v), n) for n, v in enumerate(values) if isinstance(v, int | float)]
    if len(numbers) < len(values):
        return
    ordered = sorted(numbers)
    edges = [round(len(ordered) * quarter / 4) for quarter in range(5)]
    for first, last in pairwise(edges):
        if members := ordered[first:last]:
            yield f"{name} {members[0][0]:g} to {members[-1][0]:g}", [n for _, n in members]
