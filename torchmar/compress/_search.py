"""Find the fewest layers to leave in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def fewest(
    most: int, noisiest: Callable[[Sequence[str]], Sequence[str]], holds: Callable[[Sequence[str]], bool]
) -> list[str] | None:
    """Return as few layers to leave in float as it takes for `holds`, at most `most`; None if none do.

    `noisiest` returns the other layers, the noisiest first, with those left in float that `holds` was asked
    about last. It leaves out 1, 2, 4, … of them, ranks again each time, and halves what the last step added:
    about 2 log2(most) tries. Where more layers in float do not always help, there may be fewer.
    """
    left: list[str] = []
    enough = bad = 0
    while not enough and len(left) < most:
        bad = len(left)
        left += noisiest(left)[: min(max(1, bad), most - bad)]
        enough = len(left) if holds(left) else 0
    while enough - bad > 1:
        middle = (bad + enough) // 2
        if holds(left[:middle]):
            enough = middle
        else:
            bad = middle
    return left[:enough] if enough else None
