"""Find the fewest layers to leave in float."""

from __future__ import annotations

from collections.abc import Callable


def fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 1 to `most` that holds, if every larger one does, too; None for none.

    It asks for 1, 2, 4, … and halves what lies between the last two: about 2 log2(most) times. Where larger
    numbers do not always hold, what it returns holds, and may not be the smallest.
    """
    low, high = 0, 1
    while high < most and not holds(high):
        low, high = high, min(2 * high, most)
    if high >= most and (most < 1 or not holds(most)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
