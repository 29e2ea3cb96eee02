"""Evaluate answers on labelled examples: metrics, slices, and the difference between two archives."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..compare import Comparator
from ..dataset import Example, labels_of
from ..drift.divergences import edges_of
from ..errors import DatasetError
from ..files import JSON
from ..metrics import (
    CONFIDENCE,
    Classes,
    Evidence,
    Kind,
    Score,
    evidence,
    kind_of,
    p_of_worse,
    paired,
    score,
)
from ._ask import Answer

_FEWEST = 10  # examples of a slice
_MOST_VALUES = 20  # of an attribute that makes slices; numbers with more are cut into quarters
_SLICES, _WORST, _CHANGED = 10, 20, 50  # kept at most
_RESAMPLES = 200  # for each slice


@dataclass(frozen=True)
class Slice:
    """Examples that have something in common: `what` says what, `score` is their primary metric.

    `is_worse` says whether they are worse than the rest beyond chance.
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
    McNemar's exact test for classes, else of a paired permutation test. Of classes `gained` are right now and
    were wrong, `lost` the other way round. `count` examples were answered by both.
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
    p: float = 1.0
    gained: int | None = None
    lost: int | None = None
    changed: tuple[Changed, ...] = ()

    @property
    def verdict(self) -> str:
        """Return better, worse, or undecided where noise may explain the difference; same without one."""
        if self.p < 0.05 and (self.low > 0 or self.high < 0):
            return "better" if self.low > 0 else "worse"
        return "same" if self.low == self.high == 0 else "undecided"


@dataclass(frozen=True)
class Evaluation:
    """What an archive's answers to examples show.

    `scores` begin with the primary metric. `failed` are examples without an answer, which no metric counts.
    `names` and `confusion` are of classes; `reliability` has (confidence, share right, count); `unknown` are
    labels that no answer has in any row.
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
    unknown: tuple[str, ...] = ()
    against: Comparison | None = None


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
    shown = _evidence(kind, kept, found, comparator)
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
        tuple(of_classes.unknown),
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
    both = [n for n in range(len(examples)) if not before[n].problem and not now[n].problem]
    if not both:
        why = next(side[n].problem for n in range(len(examples)) for side in (now, before) if side[n].problem)
        raise DatasetError(f"no request was answered by both archives, the first one as {why}")
    kept = [examples[n] for n in both]
    old, new = ([side[n].content for n in both] for side in (before, now))
    kind = kind_of(comparator, new[0], metric)
    one, other = (_evidence(kind, kept, side, comparator) for side in (old, new))
    found = paired(one, other, seed=seed)
    changed = [
        Changed(example.name, example.label, *pair)
        for example, *pair in zip(kept, old, new, strict=True)
        if not comparator.same(*pair)
    ]
    return Comparison(
        *named,
        found.metric,
        found.before,
        found.now,
        found.by,
        found.low,
        found.high,
        len(kept),
        len(changed),
        found.p,
        found.gained,
        found.lost,
        tuple(changed[:_CHANGED]),
    )


def _evidence(
    kind: Kind, kept: Sequence[Example], answers: Sequence[Any], comparator: Comparator
) -> Evidence:
    """Return what answers and labels show. Raises DatasetError with the name of the example at fault."""
    labels = [one.label for one in kept]
    try:
        return evidence(kind, answers, labels, comparator)
    except DatasetError as error:
        for example, answer in zip(kept, answers, strict=True):
            try:
                evidence(kind, [answer], [example.label], comparator)
            except DatasetError as own:
                raise DatasetError(f"{example.name}: {own}") from None
        raise error from None


# -- where it is worst --------------------------------------------------------------------------


def _worst(kept: Sequence[Example], found: Sequence[Any], shown: Evidence) -> Iterator[Wrong]:
    best = max(shown.each)
    for number in sorted(range(len(kept)), key=lambda n: shown.each[n])[:_WORST]:
        if shown.each[number] < best:
            yield Wrong(kept[number].name, kept[number].label, found[number], shown.each[number])


def _slices(kept: Sequence[Example], shown: Evidence, whole: Score, seed: int) -> Iterator[Slice]:
    """Yield the slices with the worst primary metric, the worst first.

    All tests together err with 5 % (Bonferroni): of many slices one always looks worse by chance.
    """
    groups = [
        (what, members) for what, members in _groups(kept, shown) if _FEWEST <= len(members) < len(kept)
    ]
    valued = [(shown.primary.of(members), what, members) for what, members in groups]
    valued = [one for one in valued if not math.isnan(one[0])]
    valued.sort(key=lambda one: one[0] if whole.higher else -one[0])
    for _, what, members in valued[:_SLICES]:  # intervals take long: of those alone that are shown
        own = score(shown.primary, members, resamples=min(_RESAMPLES, shown.resamples), seed=seed)
        rest = sorted({*range(len(kept))} - {*members})
        p = p_of_worse(*([shown.each[n] for n in side] for side in (members, rest)))
        yield Slice(what, len(members), own, p < (1 - CONFIDENCE) / len(groups))


def _groups(kept: Sequence[Example], shown: Evidence) -> Iterator[tuple[str, list[int]]]:
    """Yield what examples have in common, and their numbers: their class, attributes, the request's size."""
    if isinstance(shown, Classes):
        yield from _by_value("class", shown.wanted)
    for name in dict.fromkeys(name for one in kept for name in one.attributes):
        yield from _by_value(name, [one.attributes.get(name) for one in kept])
    if not any(one.content_type == JSON for one in kept):  # of a row it counts the digits
        yield from _by_quarter("bytes of the request", [one.size() for one in kept])


def _by_value(name: str, values: Sequence[Any]) -> Iterator[tuple[str, list[int]]]:
    distinct = {value for value in values if isinstance(value, str | int | float)}
    if len(distinct) > _MOST_VALUES and name != "class":
        yield from _by_quarter(name, values)
        return
    for value in sorted(distinct, key=str):
        yield f"{name} {value}", [n for n, one in enumerate(values) if one == value]


def _by_quarter(name: str, values: Sequence[Any]) -> Iterator[tuple[str, list[int]]]:
    """Yield quarters of the numbers; values that are the same stay together."""
    numbers = {
        n: float(one) for n, one in enumerate(values) if isinstance(one, int | float) and math.isfinite(one)
    }
    if not numbers:
        return
    edges = edges_of([*numbers.values()], 4)
    quarters: dict[int, list[int]] = {}
    for n, number in numbers.items():
        quarters.setdefault(bisect_right(edges, number), []).append(n)
    for _, members in sorted(quarters.items()):
        inside = [numbers[n] for n in members]
        yield f"{name} {min(inside):g} to {max(inside):g}", members
