"""Turn the outputs of a model into vectors of bounded size, which keep their distances."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

LENGTH = 64
"""The most numbers of a vector."""
MOST = 4096
"""The most numbers of an output that becomes a vector: pictures, masks and the like are none."""


def is_vector(array: Any) -> bool:
    """Return whether an output is an array of 2 to 4,096 floats, as an embedding or scores of classes."""
    import numpy as np

    return isinstance(array, np.ndarray) and array.dtype.kind == "f" and 2 <= array.size <= MOST


def projected(array: Any) -> list[float]:
    """Return an array's numbers, or 64 random projections of more of them.

    Projecting keeps the squared distance of two vectors to about a fifth, and an embedding is not determined
    by so few numbers. The signs are random and always the same: Achlioptas, Database-friendly random
    projections, Journal of Computer and System Sciences 66, 2003.
    """
    import numpy as np

    flat = np.asarray(array, dtype=np.float64).ravel()
    found = flat if flat.size <= LENGTH else _signs(flat.size) @ flat
    return [float(one) for one in found]


@lru_cache(maxsize=8)
def _signs(size: int) -> Any:
    """Return a matrix (64, size) of signs, scaled so that lengths stay on average."""
    import numpy as np

    count = LENGTH * size
    drawn = random.Random(size).getrandbits(count)  # noqa: S311 (no secret)
    bits = np.frombuffer(drawn.to_bytes((count + 7) // 8, "little"), dtype=np.uint8)
    return (np.unpackbits(bits)[:count].reshape(LENGTH, size) * 2.0 - 1.0) / LENGTH**0.5
