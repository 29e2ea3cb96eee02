"""Send golden and recorded requests to versions of a model, and collect the samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..client import Server
from ..golden import GoldenRequest
from .ask import send
from .latency import TAIL_SAMPLES
from .queues import Queues
from .recorded import RecordedRequest
from .samples import Sample

_ROUNDS = 2  # batches per worker in a warm-up
_MOST_AT_ONCE = 256  # requests, each with a thread


def replay_golden(
    queues: Queues,
    versions: Sequence[str],
    requests: Sequence[GoldenRequest],
    *,
    samples: int,
    seconds: float,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    on_sample: Callable[[int], None] = lambda _count: None,
) -> dict[str, list[Sample]]:
    """Send each request to each version in turn, so that all meet the same moments of the machine.

    Continues until each version has `samples`, or `seconds` are over; sends every request at least once.
    Stops early if a request fails, because more of them add nothing. `on_sample` gets the
    number of requests to each version so far.
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
                if sample.status == 0:  # without a response, it has used up its timeout
                    return found
            order.reverse()
            on_sample(len(found[order[0]]))
        if any(not sample.ok for version in versions for sample in found[version]):
            return found
    return found


def warm_up(
    server: Server, model: str, version: str, requests: Sequence[GoldenRequest], timeout: float
) -> list[Sample]:
    """Send requests until every worker has had some.

    No request can address a worker: the first free one takes a batch. So this sends at once as many as fill a
    batch for each worker, twice: while one worker is busy, others take theirs. It never sends more at once
    than the queue holds.
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


# -- recorded requests --------------------------------------------------------------------------


@dataclass(frozen=True)
class ShadowResult:
    """Each version's samples; two samples of the same request have the same index."""

    default: tuple[Sample, ...]
    candidate: tuple[Sample, ...]


def replay_recorded(
    queues: Queues,
    default: str,
    candidate: str,
    requests: Sequence[RecordedRequest],
    *,
    timeout: float,
    on_sample: Callable[[int], None] = lambda _count: None,
) -> ShadowResult:
    """Send the requests to both versions; each may take `timeout` seconds.

    Ends early if a version does not respond at all. Sends one request at a time, or one batch, to take little
    from the server's other callers. The versions alternate in going first, because the second may profit from
    what the first has warmed up. `on_sample` gets the number of requests to each so far. Raises what `send`
    raises.
    """
    of_default: list[Sample] = []
    of_candidate: list[Sample] = []
    for number, request in enumerate(requests):
        turns = [(default, of_default), (candidate, of_candidate)]
        for version, samples in turns if number % 2 == 0 else turns[::-1]:
            samples.append(queues.ask(version, request, timeout))
        on_sample(number + 1)
        if not (of_default[-1].status and of_candidate[-1].status):
            break
    return ShadowResult(tuple(of_default), tuple(of_candidate))


def several(requests: Sequence[RecordedRequest], limit: int) -> list[RecordedRequest]:
    """Return the first `limit` of them; repeats them if they are too few to judge a tail."""
    count = min(limit, max(len(requests), TAIL_SAMPLES))
    return [requests[number % len(requests)] for number in range(count)] if requests else []
