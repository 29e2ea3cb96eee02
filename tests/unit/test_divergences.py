"""Drift: each distance is what scipy says, or its definition, and chance alone is no drift."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.drift.divergences import (
    _kolmogorov,
    counts_of,
    edges_of,
    jensen_shannon,
    ks,
    mmd,
    psi,
    psi_noise,
)

COUNTS = st.integers(2, 12).flatmap(
    lambda bins: st.tuples(*[st.lists(st.integers(0, 500), min_size=bins, max_size=bins)] * 2)
)
NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)


def gauss(count: int, seed: int, mean: float = 0.0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(mean, 1) for _ in range(count)]


# -- bins ---------------------------------------------------------------------------------------


@given(NUMBERS, NUMBERS)
def test_each_value_is_in_one_bin(reference: list[float], found: list[float]) -> None:
    edges = edges_of(reference)
    assert edges == sorted(set(edges))
    counts = counts_of(found, edges)
    assert (len(counts), sum(counts)) == (len(edges) + 1, len(found))


def test_bins_hold_equally_many() -> None:
    values = list(range(1000))
    assert counts_of(values, edges_of(values)) == [100] * 10


def test_what_is_always_the_same_has_a_bin_of_its_own() -> None:
    edges = edges_of([5.0] * 100)
    assert edges == [5.0]
    assert counts_of([4.9, 5.0, 5.1], edges) == [1, 2]


# -- counts -------------------------------------------------------------------------------------


@given(COUNTS)
def test_psi_is_symmetric_and_never_negative(counts: tuple[list[int], list[int]]) -> None:
    one, other = counts
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert psi(one, other) >= -1e-12
    assert psi(one, one) == 0.0


def test_psi_by_hand() -> None:
    """Half an observation more in each bin of 9 + 1 and of 4 + 6."""
    p, q = [9.5 / 11, 1.5 / 11], [4.5 / 11, 6.5 / 11]
    expected = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert psi([9, 1], [4, 6]) == pytest.approx(expected)


def test_ten_requests_raise_no_alarm() -> None:
    """In 20 runs of unchanged data psi stays below its bound of chance, for few and for many requests."""
    reference = gauss(2000, 1)
    edges = edges_of(reference)
    counts = counts_of(reference, edges)
    for few in (10, 100, 1000):
        alarms = 0
        for seed in range(20):
            found = counts_of(gauss(few, 100 + seed), edges)
            alarms += psi(counts, found) > max(0.1, psi_noise(counts, found))
        assert alarms <= 1, few


def test_a_shift_raises_an_alarm() -> None:
    reference = gauss(2000, 1)
    edges = edges_of(reference)
    counts = counts_of(reference, edges)
    found = counts_of(gauss(500, 2, mean=0.7), edges)
    assert psi(counts, found) > max(0.25, psi_noise(counts, found))


@pytest.mark.parametrize("bins", [2, 5, 10])
def test_the_bound_of_chance(bins: int) -> None:
    """It is the quantile of chi-squared that scipy gives, to one part in fifty."""
    from scipy import stats

    counts, found = [100] * bins, [10] * bins
    scale = 1 / sum(counts) + 1 / sum(found)
    assert psi_noise(counts, found) == pytest.approx(scale * stats.chi2.ppf(0.99, bins - 1), rel=0.02)


@given(COUNTS)
def test_jensen_shannon_is_scipys(counts: tuple[list[int], list[int]]) -> None:
    from scipy.spatial.distance import jensenshannon

    one, other = counts
    if sum(one) and sum(other):
        assert jensen_shannon(one, other) == pytest.approx(jensenshannon(one, other, base=2) ** 2, abs=1e-9)
    else:
        assert jensen_shannon(one, other) == 0.0


def test_counts_of_other_bins() -> None:
    for distance in (psi, jensen_shannon):
        with pytest.raises(ValueError, match="expected counts of the same bins: 1 and 2"):
            distance([1], [1, 2])


# -- samples ------------------------------------------------------------------------------------


@given(NUMBERS, NUMBERS)
def test_ks_is_scipys(one: list[float], other: list[float]) -> None:
    from scipy import stats

    assert ks(one, other).distance == pytest.approx(stats.ks_2samp(one, other, method="asymp").statistic)


@given(st.floats(0.01, 5))
def test_kolmogorovs_distribution_is_scipys(scaled: float) -> None:
    from scipy import stats

    assert _kolmogorov(scaled) == pytest.approx(stats.kstwobign.sf(scaled), abs=1e-9)


def test_ks_tells_a_shift_from_chance() -> None:
    assert ks(gauss(300, 1), gauss(300, 2)).p > 0.01
    assert ks(gauss(300, 1), gauss(300, 2, mean=0.5)).p < 1e-4
    with pytest.raises(ValueError, match="at least one value"):
        ks([], [1.0])


# -- vectors ------------------------------------------------------------------------------------


def vectors(count: int, seed: int, mean: float = 0.0) -> Any:
    return np.random.default_rng(seed).normal(mean, 1, (count, 8))


def test_mmd_by_its_definition() -> None:
    """The mean of the kernel within each sample, less twice that between them."""
    one, other = vectors(6, 1), vectors(5, 2)
    both = np.concatenate([one, other])
    squares = ((both[:, None] - both[None]) ** 2).sum(-1)
    width = np.median(squares[np.triu_indices(11, 1)])
    kernel = np.exp(-squares / width)
    pairs = [(i, j) for i in range(11) for j in range(11) if i != j]
    within = [
        np.mean([kernel[i, j] for i, j in pairs if (i < 6) == (j < 6) == side]) for side in (True, False)
    ]
    between = np.mean([kernel[i, j] for i, j in pairs if (i < 6) != (j < 6)])
    assert mmd(one, other).distance == pytest.approx(sum(within) - 2 * between)


def test_mmd_tells_a_shift_from_chance() -> None:
    assert mmd(vectors(100, 1), vectors(100, 2)).p > 0.05
    assert mmd(vectors(100, 1), vectors(100, 2, mean=0.6)).p < 0.01
    assert mmd(vectors(1200, 1), vectors(900, 2)) == mmd(vectors(1200, 1), vectors(900, 2)), "it repeats"
    with pytest.raises(ValueError, match="at least two vectors"):
        mmd(vectors(1, 1), vectors(5, 1))


def test_mmd_of_what_is_all_the_same() -> None:
    assert mmd(np.ones((5, 3)), np.ones((5, 3))).p == 1.0
