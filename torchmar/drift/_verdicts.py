"""Tell whether new requests are like those of a reference, figure by figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ._figures import Figures
from .divergences import counts_of, edges_of, jensen_shannon, ks, psi, psi_noise

Verdict = Literal["same", "moved", "drifted"]

PSI_MODERATE, PSI_SIGNIFICANT = 0.1, 0.25
"""Below the first a PSI is commonly taken for none, above the second for a change (see `divergences.psi`)."""
_ALPHA = 0.01  # of all Kolmogorov-Smirnov tests together
_FEWEST = 5  # values
_OTHERS = "(others)"  # classes beyond the most frequent ones
_MOST_CLASSES = 50


@dataclass(frozen=True)
class Drift:
    """How far one figure has moved.

    `psi` is the population stability index, `bound` what chance alone brings it to (99 %), `divergence` that
    of Jensen and Shannon in bits. `p` is that of the Kolmogorov-Smirnov test; None for classes. `before` and
    `now` are counts in `bins`, which are classes, or begin with these numbers.
    """

    figure: str
    verdict: Verdict
    psi: float
    bound: float
    divergence: float
    p: float | None
    bins: tuple[str, ...]
    before: tuple[int, ...]
    now: tuple[int, ...]


def drifts(reference: Figures, found: Figures) -> list[Drift]:
    """Return how far each figure has moved, the farthest first.

    A figure has drifted if its PSI is above 0.25, and moved if it is above 0.1; in both cases only if it is
    beyond what chance brings it to, and for numbers if a Kolmogorov-Smirnov test says so, too: ten requests
    raise no alarm. A figure with fewer than five values on either side says nothing.
    """
    names = [name for name in reference.numbers if name in found.numbers]
    tests = max(1, len(names))
    moved = [
        *(_of_numbers(name, reference.numbers[name], found.numbers[name], tests) for name in names),
        *_of_classes(reference, found),
    ]
    enough = [one for one in moved if min(sum(one.before), sum(one.now)) >= _FEWEST]
    return sorted(enough, key=lambda one: (one.verdict == "same", -one.psi))


def _of_numbers(name: str, before: Sequence[float], now: Sequence[float], tests: int) -> Drift:
    edges = edges_of(before)
    p = ks(before, now).p
    counts = counts_of(before, edges), counts_of(now, edges)
    bins = ("below", *(f"{edge:.4g}" for edge in edges))
    return _judged(name, bins, *counts, p, is_told=p < _ALPHA / tests)


def _of_classes(reference: Figures, found: Figures) -> Iterator[Drift]:
    for name in reference.classes.keys() & found.classes.keys():
        before, now = Counter(reference.classes[name]), Counter(found.classes[name])
        known = [label for label, _ in (before + now).most_common(_MOST_CLASSES)]
        counts = [[side[label] for label in known] for side in (before, now)]
        rest = [sum(side.values()) - sum(some) for side, some in zip((before, now), counts, strict=True)]
        if any(rest):
            known.append(_OTHERS)
            counts = [[*some, more] for some, more in zip(counts, rest, strict=True)]
        old, new = counts
        yield _judged(name, tuple(known), old, new, None, is_told=True)


def _judged(
    name: str,
    bins: tuple[str, ...],
    before: Sequence[int],
    now: Sequence[int],
    p: float | None,
    *,
    is_told: bool,
) -> Drift:
    value, bound = psi(before, now), psi_noise(before, now)
    verdict: Verdict = "same"
    if is_told and value > max(PSI_MODERATE, bound):
        verdict = "drifted" if value > PSI_SIGNIFICANT else "moved"
    divergence = jensen_shannon(before, now)
    return Drift(name, verdict, value, bound, divergence, p, bins, tuple(before), tuple(now))
