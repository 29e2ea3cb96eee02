"""Golden requests: sent to versions of a model, and what came back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ...client import Server
from ...golden import GoldenRequest
from ...measure.samples import Sample
from .queues import Queues
from .send import send

_ROUNDS = 2  # batches to each worker that is warmed up
_MOST_AT_ONCE = 256  # requests, each with a thread


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
