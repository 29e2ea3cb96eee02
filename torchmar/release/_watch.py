"""Watch the new default version: is it as good under the real traffic as under the golden requests?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from ..client import Server, total
from ..errors import ClientError, QueueFull
from ..golden import GoldenRequest
from ..measure.ask import send
from ..measure.latency import NEGLIGIBLE_SECONDS, judge_rate
from ..measure.samples import Finding, Judgement, Outcome
from ..names import shown

_PAUSE = 0.2  # seconds between two looks
_BUSY_LOOKS = 5  # in a row
_FEW_MEANS = 5
_FEW = 20  # requests; of fewer a mean says nothing


@dataclass(frozen=True)
class Traffic:
    """Holds TorchServe's counters at one moment: answers to others, and the model's unpinned requests.

    Errors are answers with 5xx, of whatever model: TorchServe does not count them apart. `seconds` is the
    sum that unpinned requests took from their arrival to their answer.
    """

    answers: int
    errors: int
    requests: int
    seconds: float

    def __sub__(self, earlier: Traffic) -> Traffic:
        # An answer may be counted here a moment before it is counted there.
        errors = max(0, self.errors - earlier.errors)
        return Traffic(
            max(errors, self.answers - earlier.answers),
            errors,
            self.requests - earlier.requests,
            self.seconds - earlier.seconds,
        )


def traffic(server: Server, model: str) -> Traffic | None:
    """Return the counters now, without answers to ourselves; None where the server shows none.

    It shows none without a metrics address, and an empty page where metrics_mode is not prometheus.
    """
    own = server.answers  # before the look: what answers it is counted there later, too
    try:
        samples = server.metrics.samples()
    except ClientError:
        return None
    if not samples:
        return None
    unpinned = {"model_name": model, "model_version": "default"}
    answers = [int(total(samples, f"Requests{kind}XX")) - own[kind] for kind in (2, 4, 5)]
    return Traffic(
        answers=sum(answers),
        errors=answers[-1],
        requests=int(total(samples, "ts_inference_requests_total", unpinned)),
        seconds=total(samples, "ts_inference_latency_microseconds", unpinned) / 1e6,
    )


def watch(
    server: Server,
    model: str,
    version: str,
    workers: int,
    *,
    seconds: float,
    requests: Sequence[GoldenRequest],
    before: Traffic | None,
    max_slowdown: float,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    on_progress: Callable[[str], None] = lambda _text: None,
) -> Judgement:
    """Look at the default version until `seconds` are over, or until it fails.

    `before` is the traffic of a while before the switch, None where it is not known. Raises ClientError where
    the server does not answer.
    """
    start = last = traffic(server, model)
    begin = clock()
    looks = busy = 0
    means: list[float] = []
    while True:
        try:
            broken = _broken(server, model, version, workers, requests, looks, timeout)
            busy = 0
        except QueueFull as error:  # a full queue is the load's fault; for long it may be the version's
            busy += 1
            broken = Finding("watch", Outcome.FAIL, str(error)) if busy >= _BUSY_LOOKS else None
        if broken is not None:
            return Judgement((broken,))
        looks += 1
        now = traffic(server, model)
        if now is not None and last is not None and (now - last).requests:
            means.append((now - last).seconds / (now - last).requests)
        last = now
        on_progress(f"{clock() - begin:.0f} s of {seconds:.0f} s")
        if clock() - begin >= seconds:
            break
        sleep(min(_PAUSE, seconds))
    golden = (
        ", requests answered"
        if requests
        else "; nothing was asked of it, as the archive has no golden requests"
    )
    ready = "1 worker" if workers == 1 else f"{workers} workers"
    text = f"{looks} look{'' if looks == 1 else 's'} in {clock() - begin:.1f} s: {ready} READY{golden}"
    if before is None or start is None or last is None:
        text += f"; errors and latency of the traffic are not judged: {_why_unseen(start)}"
        return Judgement((Finding("watch", Outcome.PASS, text),))
    found, unsaid = _under_traffic(before, last - start, means, max_slowdown)
    return Judgement((Finding("watch", Outcome.PASS, "; ".join([text, *unsaid])), *found))


def _why_unseen(now: Traffic | None) -> str:
    if now is None:
        return "the server tells no metrics (give --metrics, and set metrics_mode=prometheus)"
    return "nothing is known of the traffic before the switch"


def _broken(
    server: Server,
    model: str,
    version: str,
    workers: int,
    requests: Sequence[GoldenRequest],
    look: int,
    timeout: float,
) -> Finding | None:
    described = server.management.describe(model)
    if described.version != version:
        return Finding(
            "watch", Outcome.FAIL, f"the default is {shown(described.version)} now: somebody changed it"
        )
    if described.ready_workers < workers:
        text = f"{described.ready_workers} of {workers} workers are READY: see model_log.log on the server"
        return Finding("watch", Outcome.FAIL, text)
    if requests:
        request = requests[look % len(requests)]
        # By its version: counted apart from the traffic, whose latency is held against that of before.
        sample = send(server.inference, model, version, request, timeout)
        if sample.status == HTTPStatus.SERVICE_UNAVAILABLE and "queue" in sample.error:
            raise QueueFull(sample.error, status=sample.status)
        if not sample.ok:
            return Finding("watch", Outcome.FAIL, f"request {request.name}: {sample.error}")
    return None


def _under_traffic(
    before: Traffic, after: Traffic, means: Sequence[float], max_slowdown: float
) -> tuple[list[Finding], list[str]]:
    """Judge real requests after the switch by those before; also return what they are too few to judge.

    `means` are mean seconds between two looks: in their median, one slow request counts once.
    """
    found, unjudged = [], []
    rate = judge_rate((before.errors, before.answers), (after.errors, after.answers))
    if rate.outcome is Outcome.INCONCLUSIVE:
        unjudged.append("errors")
    else:
        found.append(rate)
    if before.requests >= _FEW and after.requests >= _FEW and len(means) >= _FEW_MEANS:
        was, now = before.seconds / before.requests, statistics.median(means)
        slow = now > max_slowdown * was and now - was > NEGLIGIBLE_SECONDS
        text = f"{after.requests} requests took about {now * 1e3:.1f} ms, {was * 1e3:.1f} ms before"
        found.append(Finding("traffic", Outcome.FAIL if slow else Outcome.PASS, text))
    else:
        unjudged.append("latency")
    if not unjudged:
        return found, []
    counted = f"{before.requests} requests before the switch, {after.requests} since"
    return found, [f"too little traffic to judge its {' and '.join(unjudged)}: {counted}"]
