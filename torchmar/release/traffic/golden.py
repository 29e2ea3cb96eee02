"""Golden requests: sent to versions of a model, and what came back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ... import mar
from ...client import Server
from ...mar import Archive
from ..judge import Sample
from .queues import Queues
from .send import send

_ROUNDS = 2  # batches to each worker that is warmed up
_MOST_AT_ONCE = 256  # requests, each with a thread
_JSON, _BYTES = "application/json", "application/octet-stream"


@dataclass(frozen=True)
class GoldenRequest:
    """One request of an archive. `expected` as in its answers.json; None where it says nothing of it."""

    name: str
    body: bytes
    expected: Any = None

    @property
    def content_type(self) -> str:
        """By its name."""
        return _JSON if self.name.endswith(".json") else _BYTES


def golden_of(archive: Archive) -> tuple[GoldenRequest, ...]:
    """Those that an archive carries. Raises ArchiveCorrupt."""
    bodies, expected = mar.golden_requests(archive)
    return tuple(GoldenRequest(name, body, expected.get(name)) for name, body in bodies.items())


def replay(
    queues: Queues,
    versions: Sequence[str],
    requests: Sequence[GoldenRequest],
    *,
    samples: int,
    seconds: float,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, list[Sample]]:
    """Send each request to each version in turn, so that all meet the same moments of the machine.

    Goes on until each version has `samples`, or `seconds` are over; every request is sent at least
    once. It stops early where a request fails: nothing is learned from more of them.
    """
    found: dict[str, list[Sample]] = {version: [] for version in versions}
    begin = clock()
    order = list(versions)
    while requests and len(found[order[0]]) < samples:
        for request in requests:
            first_round = len(found[order[0]]) < len(requests)
            if not first_round and (clock() - begin > seconds or len(found[order[0]]) >= samples):
                return found
            for version in order:
                sample = queues.ask(version, request, timeout)
                found[version].append(sample)
                if sample.status == 0:  # it waited for nothing as long as can be
                    return found
            order.reverse()
        if any(not sample.ok for version in versions for sample in found[version]):
            return found
    return found


def warm_up(
    server: Server, model: str, version: str, requests: Sequence[GoldenRequest], timeout: float
) -> list[Sample]:
    """Requests to every worker: none can be addressed by itself, and the first that is free takes a batch.

    So as many at once as fill a batch for each, twice: while one worker is at its batch, others wait for
    theirs. Never more at once than the queue has room for.
    """
    if not requests:
        return []
    described = server.management.describe(model, version)
    batches = described.ready_workers * max(1, described.batch_size)
    at_once = max(1, min(batches, described.queue.remaining_capacity, _MOST_AT_ONCE))
    several = [requests[index % len(requests)] for index in range(_ROUNDS * batches)]
    with ThreadPoolExecutor(at_once) as pool:
        return list(
            pool.map(lambda request: send(server.inference, model, version, request, timeout), several)
        )
