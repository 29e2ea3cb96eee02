"""Shadow: the same recorded requests to two versions, to compare their answers before a switch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...measure.latency import TAIL_SAMPLES
from ...measure.samples import Sample
from .queues import Queues
from .recorded import RecordedRequest


@dataclass(frozen=True)
class ShadowResult:
    """What each version made of the requests: two samples of the same request have the same place."""

    default: tuple[Sample, ...]
    candidate: tuple[Sample, ...]


def replay(
    queues: Queues,
    default: str,
    candidate: str,
    requests: Sequence[RecordedRequest],
    *,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
) -> ShadowResult:
    """Send the requests to both versions; each may take `timeout` seconds. Ends early where one is not
    answered at all; `clock` is looked at before each.

    One request at a time, or one batch, which takes little from those whom the server serves meanwhile. Who
    is asked second may find what the first has warmed up, so they take turns at being first. Raises as
    `send`.
    """
    of_default: list[Sample] = []
    of_candidate: list[Sample] = []
    for number, request in enumerate(requests):
        turns = [(default, of_default), (candidate, of_candidate)]
        for version, samples in turns if number % 2 == 0 else turns[::-1]:
            clock()  # raises where the release is stopped
            samples.append(queues.ask(version, request, timeout))
        if not (of_default[-1].status and of_candidate[-1].status):
            break
    return ShadowResult(tuple(of_default), tuple(of_candidate))


def several(requests: Sequence[RecordedRequest], limit: int) -> list[RecordedRequest]:
    """The first `limit` of them; again from the start where they are fewer than it takes to judge a tail."""
    count = min(limit, max(len(requests), TAIL_SAMPLES))
    return [requests[number % len(requests)] for number in range(count)] if requests else []
