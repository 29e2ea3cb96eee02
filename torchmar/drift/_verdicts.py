"""Tell whether new requests are like those of a reference, figure by figure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ._figures import Figures
from ._reference import OTHERS, Numbers, Reference
from .divergences import counts_of, jensen_shannon, ks, mmd, psi, psi_noise

Verdict = Literal["same", "moved", "drifted"]

PSI_MODERATE, PSI_SIGNIFICANT = 0.1, 0.25
"""Below the first a PSI is commonly taken for none, above the second for a change (see `divergences.psi`)."""
_ALPHA = 0.01  # of all tests together
_FEWEST = 5  # values
_MOST_CLASSES = 50
_PERMUTATIONS = 5  # times as many as make the smallest p that is told


@dataclass(frozen=True)
class Drift:
    """How far one figure has moved.

    `psi` is the population stability index, `bound` what chance alone brings it to, `divergence` that of
    Jensen and Shannon in bits. `before` and `now` are counts in `bins`, which are classes, or begin with
    these numbers. Vectors have none of these, but `mmd`, the squared maximum mean discrepancy. `p` is that
    of the Kolmogorov-Smirnov test for numbers, of a permutation test for vectors; None for classes.
    """

    figure: str
    verdict: Verdict
    psi: float | None = None
    bound: float | None = None
    divergence: float | None = None
    p: float | None = None
    bins: tuple[str, ...] = ()
    before: tuple[int, ...] = ()
    now: tuple[int, ...] = ()
    mmd: float | None = None


def drifts(reference: Reference, found: Figures) -> list[Drift]:
    """Return how far each figure has moved, the farthest first.

    A figure has drifted if its PSI is above 0.25, and moved if it is above 0.1; in both cases only if it is
    beyond what chance brings it to, and for numbers if a Kolmogorov-Smirnov test says so, too: ten requests
    raise no alarm. Vectors have drifted if a permutation test of their MMD says so. All tests together err
    with 1 % (Bonferroni). A figure with fewer than five values on either side says nothing.
    """
    numbers = _in_both(reference.numbers, found.numbers)
    classes = _in_both(reference.classes, found.classes)
    vectors = [
        name
        for name in _in_both(reference.vectors, found.vectors)
        if min(len(reference.vectors[name]), len(found.vectors[name])) >= _FEWEST
        and len(reference.vectors[name][0]) == len(found.vectors[name][0])
    ]
    alpha = _ALPHA / max(1, len(numbers) + len(classes) + len(vectors))
    moved = [_of_numbers(name, reference.numbers[name], found.numbers[name], alpha) for name in numbers]
    moved += [
        _of_classes(name, reference.classes[name], Counter(found.classes[name]), alpha) for name in classes
    ]
    moved = [one for one in moved if min(sum(one.before), sum(one.now)) >= _FEWEST]
    moved += [_of_vectors(name, reference.vectors[name], found.vectors[name], alpha) for name in vectors]
    return _sorted(moved)


def drifts_of_counts(
    reference: Reference,
    numbers: Mapping[str, Sequence[int]],
    classes: Mapping[str, Mapping[str, int]],
) -> list[Drift]:
    """Return how far figures have moved by counts alone, as of live counters, the farthest first.

    `numbers` are counts in the bins of the reference's edges, `classes` counts by class; figures that the
    reference lacks say nothing. The verdicts are those of `drifts` without the Kolmogorov-Smirnov test, and
    need no numpy. Raises ValueError for counts of other bins.
    """
    alpha = _ALPHA / max(1, len(numbers) + len(classes))
    moved = [
        _judged(name, _bins(known.edges), known.counts, numbers[name], alpha)
        for name, known in reference.numbers.items()
        if name in numbers
    ]
    moved += [
        _of_classes(name, known, Counter(classes[name]), alpha)
        for name, known in reference.classes.items()
        if name in classes
    ]
    return _sorted(one for one in moved if min(sum(one.before), sum(one.now)) >= _FEWEST)


def _in_both(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [name for name in one if name in other]


def _sorted(found: Iterator[Drift] | Sequence[Drift]) -> list[Drift]:
    return sorted(found, key=lambda one: (one.verdict == "same", -(one.psi or 0.0)))


def _of_numbers(name: str, known: Numbers, now: Sequence[float], alpha: float) -> Drift:
    p = ks(known.sample, now).p
    counts = counts_of(now, known.edges)
    return _judged(name, _bins(known.edges), known.counts, counts, alpha, p)


def _bins(edges: Sequence[float]) -> tuple[str, ...]:
    return ("below", *(f"{edge:.4g}" for edge in edges))


def _of_classes(name: str, before: Mapping[str, int], now: Mapping[str, int], alpha: float) -> Drift:
    both = Counter(before) + Counter(now)
    known = [label for label, _ in both.most_common() if label != OTHERS][:_MOST_CLASSES]
    sides = [[side.get(label, 0) for label in known] for side in (before, now)]
    rest = [sum(side.values()) - sum(some) for side, some in zip((before, now), sides, strict=True)]
    if any(rest):
        known.append(OTHERS)
        sides = [[*some, more] for some, more in zip(sides, rest, strict=True)]
    old, new = sides
    return _judged(name, tuple(known), old, new, alpha)


def _of_vectors(
    name: str, before: Sequence[tuple[float, ...]], now: Sequence[tuple[float, ...]], alpha: float
) -> Drift:
    found = mmd(before, now, permutations=math.ceil(_PERMUTATIONS / alpha))
    return Drift(name, "drifted" if found.p < alpha else "same", p=found.p, mmd=found.distance)


def _judged(
    name: str,
    bins: tuple[str, ...],
    before: Sequence[int],
    now: Sequence[int],
    alpha: float,
    p: float | None = None,
) -> Drift:
    """Return the verdict on counts in the same bins, and on the p of another test, if there is one."""
    value, bound = psi(before, now), psi_noise(before, now, alpha)
    verdict: Verdict = "same"
    if (p is None or p < alpha) and value > max(PSI_MODERATE, bound):
        verdict = "drifted" if value > PSI_SIGNIFICANT else "moved"
    divergence = jensen_shannon(before, now)
    return Drift(name, verdict, value, bound, divergence, p, bins, tuple(before), tuple(now))
