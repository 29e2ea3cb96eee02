"""Measure how far new data is from a reference: in counts per bin, in samples of numbers, and in vectors.

    psi, jensen_shannon    counts in the same bins, as of live counters
    ks                     two samples of numbers
    mmd                    two samples of vectors, as of embeddings

Those of counts need nothing, the others numpy alone; scipy is the oracle of their tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

_BINS = 10
MOST_VALUES, MOST_VECTORS = 500, 200
"""The most of a sample: of numbers, and of vectors, as `mmd` takes the square of them."""
_PERMUTATIONS = 999
_AT_ONCE, _ENOUGH = 1000, 20  # permutations; of these as large ones, after which p is plainly not small


@dataclass(frozen=True)
class Difference:
    """A distance between two samples, and the probability of one as large if they had one origin."""

    distance: float
    p: float


def edges_of(values: Sequence[float], bins: int = _BINS) -> list[float]:
    """Return the inner edges of bins that hold equally many of the values: at most `bins` - 1, ascending.

    Values that are often the same make fewer bins. A value belongs to the bin that begins with its edge.
    """
    import numpy as np

    shares = np.arange(1, bins) / bins
    return [float(edge) for edge in np.unique(np.quantile(np.asarray(values, dtype=float), shares))]


def counts_of(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Return how many of the values are in each of the bins between the edges; one more than edges."""
    import numpy as np

    places = np.searchsorted(edges, np.asarray(values, dtype=float), side="right")
    return [int(count) for count in np.bincount(places, minlength=len(edges) + 1)]


def quantiles_of(values: Sequence[float], most: int = MOST_VALUES) -> list[float]:
    """Return the values in ascending order; of more than `most` so many of them, evenly spaced by rank."""
    ordered = sorted(values)
    if len(ordered) <= most:
        return ordered
    return [ordered[(2 * rank + 1) * len(ordered) // (2 * most)] for rank in range(most)]


def psi(reference: Sequence[float], found: Sequence[float]) -> float:
    """Return the population stability index of two counts in the same bins: Σ (q − p) ln(q / p).

    Below 0.1 the two are commonly taken for the same, above 0.25 for different (Siddiqi, Credit Risk
    Scorecards, 2006). Each bin counts half an observation more, so that an empty one is no infinity
    (Jeffreys' prior). 0 without observations.
    """
    _require_alike(reference, found)
    if not sum(reference) or not sum(found):
        return 0.0
    p, q = _smooth(reference), _smooth(found)
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def psi_noise(reference: Sequence[float], found: Sequence[float], alpha: float = 0.01) -> float:
    """Return the bound that `psi` of counts that differ by chance alone exceeds with probability `alpha`.

    psi is then about (1/n + 1/m) times a chi-squared variable with one degree of freedom less than bins
    (Yurdakul, Statistical Properties of the Population Stability Index, 2018), here by Wilson and Hilferty's
    approximation.
    """
    n, m, freedom = sum(reference), sum(found), len(reference) - 1
    if not n or not m:
        return math.inf
    if not freedom:  # all is in one bin, and psi is 0
        return 0.0
    normal = NormalDist().inv_cdf(1 - alpha)
    step = 2 / (9 * freedom)
    return (1 / n + 1 / m) * freedom * (1 - step + normal * math.sqrt(step)) ** 3


def jensen_shannon(reference: Sequence[float], found: Sequence[float]) -> float:
    """Return the Jensen-Shannon divergence of two counts in the same bins, in bits: from 0 to 1.

    Lin, IEEE Transactions on Information Theory 37, 1991. 0 without observations.
    """
    _require_alike(reference, found)
    if not sum(reference) or not sum(found):
        return 0.0
    p, q = ([one / sum(side) for one in side] for side in (reference, found))
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return max(0.0, (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2)


def ks(one: Sequence[float], other: Sequence[float]) -> Difference:
    """Return the Kolmogorov-Smirnov distance of two samples, and its asymptotic p.

    Massey, Journal of the American Statistical Association 46, 1951; the series of Kolmogorov's distribution.
    Raises ValueError for an empty sample.
    """
    import numpy as np

    if not len(one) or not len(other):
        raise ValueError("expected two samples with at least one value each")
    a, b = (np.sort(np.asarray(side, dtype=float)) for side in (one, other))
    both = np.concatenate([a, b])
    steps = [np.searchsorted(side, both, side="right") / len(side) for side in (a, b)]
    distance = float(np.abs(steps[0] - steps[1]).max())
    size = math.sqrt(len(a) * len(b) / (len(a) + len(b)))
    return Difference(distance, _kolmogorov(size * distance))


def mmd(one: Any, other: Any, *, seed: int = 0, permutations: int = _PERMUTATIONS) -> Difference:
    """Return the squared maximum mean discrepancy of two samples of vectors, (n, d) and (m, d), with its p.

    Gretton et al., Journal of Machine Learning Research 13, 2012: the unbiased estimate with a Gaussian
    kernel, as wide as the median distance, and a permutation test, which ends early where p is not small
    (Besag and Clifford, Biometrika 78, 1991). Of larger samples 200 vectors are drawn.
    Raises ValueError for fewer than two vectors.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    a, b = (_drawn(np.asarray(side, dtype=float), generator) for side in (one, other))
    if len(a) < 2 or len(b) < 2:
        raise ValueError("expected two samples with at least two vectors each")
    both = np.concatenate([a, b])
    norms = (both**2).sum(axis=1)
    squares = np.maximum(norms[:, None] + norms[None, :] - 2 * both @ both.T, 0.0)
    apart = squares[np.triu_indices(len(both), 1)]
    width = float(np.median(apart[apart > 0])) if (apart > 0).any() else 1.0
    kernel = np.exp(-squares / width)
    np.fill_diagonal(kernel, 0.0)
    is_first = np.repeat([1.0, 0.0], [len(a), len(b)])
    [found] = _unbiased(kernel, is_first[None])
    as_large = done = 0
    while done < permutations and as_large < _ENOUGH:
        count = min(_AT_ONCE, permutations - done)
        drawn = generator.permuted(np.tile(is_first, (count, 1)), axis=1)
        as_large += int((_unbiased(kernel, drawn) >= found - 1e-12).sum())  # a sum's order may round it
        done += count
    return Difference(float(found), (1 + as_large) / (1 + done))


def _drawn(vectors: Any, generator: Any) -> Any:
    if len(vectors) <= MOST_VECTORS:
        return vectors
    return vectors[generator.choice(len(vectors), MOST_VECTORS, replace=False)]


def _unbiased(kernel: Any, is_first: Any) -> Any:
    """Return the estimates for ways to divide the vectors: rows of 1 for the first sample, 0 for the other.

    `kernel` has the diagonal 0. Sums over pairs are products of matrices, as (Z K Zᵀ) has them.
    """
    n = is_first[0].sum()
    m = len(kernel) - n
    with_first = is_first @ kernel
    within = (with_first * is_first).sum(axis=1)
    between = with_first.sum(axis=1) - within
    rest = kernel.sum() - within - 2 * between
    return within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * between / (n * m)


def _kolmogorov(scaled: float) -> float:
    """Return P(K > `scaled`) of Kolmogorov's distribution."""
    if scaled < 0.2:  # the series does not converge there, and the probability is 1 to twelve digits
        return 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return min(1.0, max(0.0, math.fsum(terms)))


def _smooth(counts: Sequence[float]) -> list[float]:
    whole = sum(counts) + 0.5 * len(counts)
    return [(count + 0.5) / whole for count in counts]


def _relative_entropy(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a)


def _require_alike(one: Sequence[float], other: Sequence[float]) -> None:
    if len(one) != len(other):
        raise ValueError(f"expected counts of the same bins: {len(one)} and {len(other)}")
