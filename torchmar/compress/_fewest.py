"""Find the fewest layers to leave in float."""

from __future__ import annotations

from collections.abc import Callable


def fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 1 to `most` that holds, if every larger one does, too; None for none.

    It tries 1, 2, 4, … and halves what lies between the last two: about 2 log2(most) times. Where larger
    numbers do not always hold, the one that it returns does, and may not be the smallest.
    """
    bad, good = 0, 1
    while good <= most and not holds(good):
        bad, good = good, most if good < most < 2 * good else 2 * good
    if good > most:
        return None
    while good - bad > 1:
        middle = (bad + good) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good
