"""Decide: which points no other one dominates, and which one is best. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_AS_FAST = 1.03  # two measurements of one latency differ by about 3 % at random


@dataclass(frozen=True)
class Figures:
    """What is known of one point; less of each is better.

    `bytes` are the size of its files. `time` is its p50 as a share of the uncompressed model's, measured in
    turn with it. `error` is the cost C(x). `accepted` says whether `accept` takes it.
    """

    name: str
    bytes: int
    time: float
    error: float
    accepted: bool = True


def dominates(one: Figures, other: Figures) -> bool:
    """Return whether `one` is at least as good in size, time and error, and better in one of them."""
    mine, theirs = (one.bytes, one.time, one.error), (other.bytes, other.time, other.error)
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def frontier(points: Sequence[Figures]) -> list[Figures]:
    """Return the points that no other one dominates, in their order (Pareto)."""
    return [one for one in points if not any(dominates(other, one) for other in points)]


def best(points: Sequence[Figures]) -> Figures | None:
    """Return the best of the points that are accepted and not slower than the uncompressed model.

    That is the fastest; of those that take at most 3 % longer the smallest, then the one with the smallest
    error. So no point that is accepted dominates it. None if there is none.
    """
    eligible = [one for one in points if one.accepted and one.time <= 1.0]
    if not eligible:
        return None
    least = min(one.time for one in eligible)
    as_fast = [one for one in eligible if one.time <= _AS_FAST * least]
    return min(as_fast, key=lambda one: (one.bytes, one.error, one.time))
