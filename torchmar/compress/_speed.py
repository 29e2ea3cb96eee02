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

BATCHES = (1, 8)
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

    Each model runs for `seconds` at each batch size. `files` are their parts' files, and `feeds` a batch for
    each part's graph.
    """
    reference = both[FLOAT]
    sizes = BATCHES if reference.batched else BATCHES[:1]
    latency: dict[str, dict[str, Latency]] = {name: {} for name in both}
    for size in sizes:
        batch = batch_of(reference, instances, size)
        for name, found in zip(both, latencies([*both.values()], batch, seconds), strict=True):
            latency[name][str(size)] = found
    return Speed(
        processor=processor(),
        threads=threads,
        versions={name: version(name) for name in ("numpy", "onnxruntime")},
        latency=latency,
        peak_rss_mb={name: _memory(files[name], feeds, folder) for name in both},
    )


def batch_of(handler: Any, instances: Sequence[Any], size: int) -> Any:
    """Return a batch of so many instances that can be together, repeated where there are fewer."""
    alike = max(handler.alike(instances), key=len)
    return handler.collate([instances[alike[n % len(alike)]] for n in range(size)])


def latencies(handlers: Sequence[Any], batch: Any, seconds: float) -> list[Latency]:
    """Return the latency of each handler for a batch.

    Each runs for `seconds`, divided among five rounds in which they take turns: so whatever else this machine
    does meanwhile slows them alike.
    """
    taken: list[list[list[float]]] = [[] for _ in handlers]
    for handler in handlers:
        handler.infer(batch)  # the first one also allocates
    for number in range(_ROUNDS):
        for place in range(len(handlers))[:: 1 if number % 2 else -1]:
            taken[place].append(_timed(handlers[place], batch, seconds / _ROUNDS))
    return [Latency.of(rounds) for rounds in taken]


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
