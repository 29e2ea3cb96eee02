"""Measure how fast an uncompressed and a compressed model are, interleaved, and how much memory they take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..measure.machine import processor
from ..measure.price import FLOAT, Latency, Speed, shortened
from ._alone import peak_mb
from ._quantise import Feeds

_BATCHES = (1, 8)
_ROUNDS = 5


def speed_of(
    both: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Path]],
    feeds: Mapping[str, Feeds],
    instances: Sequence[Any],
    folder: Path,
    *,
    threads: int,
    seconds: float,
) -> Speed:
    """Return the latency and memory of the handlers in `both`, by model.

    Each model runs for `seconds` at each batch size, divided among five rounds in which the models take
    turns: so whatever else this machine does meanwhile slows them alike. `files` are their parts' files,
    and `feeds` a batch for each part's graph.
    """
    reference = both[FLOAT]
    alike = max(reference.alike(instances), key=len)
    sizes = _BATCHES if reference.batched else _BATCHES[:1]
    batches = {
        size: reference.collate([instances[alike[i % len(alike)]] for i in range(size)]) for size in sizes
    }
    taken: dict[str, dict[int, list[list[float]]]] = {name: {size: [] for size in sizes} for name in both}
    for handler in both.values():
        for batch in batches.values():
            handler.infer(batch)  # the first one also allocates
    for number in range(_ROUNDS):
        for size, batch in batches.items():
            for name in list(both)[:: 1 if number % 2 else -1]:
                taken[name][size].append(_timed(both[name], batch, seconds / _ROUNDS))
    return Speed(
        processor=processor(),
        threads=threads,
        versions={name: version(name) for name in ("numpy", "onnxruntime")},
        latency={
            name: {str(size): Latency.of(rounds) for size, rounds in by_size.items()}
            for name, by_size in taken.items()
        },
        peak_rss_mb={name: _memory(files[name], feeds, folder) for name in both},
    )


def _memory(files: Mapping[str, Path], feeds: Mapping[str, Feeds], folder: Path) -> float | None:
    peak = peak_mb(files, feeds, folder)
    return None if peak is None else shortened(peak)


def _timed(handler: Any, batch: Any, seconds: float) -> list[float]:
    """Return the seconds that each forward pass took, at least one."""
    found: list[float] = []
    until = time.perf_counter() + seconds
    while not found or time.perf_counter() < until:
        began = time.perf_counter()
        handler.infer(batch)
        found.append(time.perf_counter() - began)
    return found
