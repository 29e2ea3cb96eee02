"""Measures how long a worker takes from `register` to READY, a second one to join it, and their memory.

One server serves some archives in turn: each is registered with one worker, gets a request, is scaled to two
workers and unregistered. The memory of a worker is measured after its first answer.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from torchmar.client import Server
from torchmar.measure.memory import pss_bytes

from .report import spread
from .systems import Failed
from .systems.torchserve import Installation, clients


@dataclass(frozen=True)
class Candidate:
    """Names an archive with one worker."""

    name: str
    archive: Path
    model: str
    version: str


def measure(
    installation: Installation, candidates: Sequence[Candidate], picture: Path, runs: int
) -> list[dict[str, Any]]:
    """Return an entry for each candidate, medians of `runs`; all share one server and one model store."""
    settings = {"enable_model_api": "true"}  # stock refuses to register otherwise
    found: dict[str, list[dict[str, float]]] = {candidate.name: [] for candidate in candidates}
    failure = ""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="torchmar-bench-", ignore_cleanup_errors=True) as temporary,
            installation.running(Path(temporary), candidates[0].archive.parent, settings) as server,
            clients(server) as connected,
        ):
            for _ in range(runs):
                for candidate in candidates:
                    found[candidate.name].append(_once(connected, candidate, picture))
    except Failed as error:
        failure = str(error)
    return [_entry(candidate.name, found[candidate.name], failure) for candidate in candidates]


def _once(server: Server, candidate: Candidate, picture: Path) -> dict[str, float]:
    model, version = candidate.model, candidate.version
    begin = time.perf_counter()
    server.management.register(candidate.archive.name, initial_workers=1)
    described = server.management.wait_until_ready(model, version, workers=1)
    ready = time.perf_counter() - begin
    server.inference.predict(model, picture, version=version)
    pid = described.workers[0].pid
    held = {"pss_mb": pss_bytes(pid) / 1e6, "rss_mb": psutil.Process(pid).memory_info().rss / 1e6}
    begin = time.perf_counter()
    server.management.scale(model, 2, version)
    server.management.wait_until_ready(model, version, workers=2)
    scaled = time.perf_counter() - begin
    server.management.unregister(model, version)
    server.management.wait_until_gone(model, version)
    return {"ready_s": ready, "scale_s": scaled, **held}


def _entry(name: str, found: Sequence[Mapping[str, float]], failure: str) -> dict[str, Any]:
    return {
        "name": name,
        "ready_s": spread(one["ready_s"] for one in found),
        "scale_s": spread(one["scale_s"] for one in found),
        "worker_pss_mb": spread(one["pss_mb"] for one in found),
        "worker_rss_mb": spread(one["rss_mb"] for one in found),
        "runs": len(found),
        "failure": failure or None,
    }
