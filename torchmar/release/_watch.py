"""Watch the new default version: is it as good under the real traffic as under the golden requests?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from http import HTTPStatus

from ..errors import QueueFull
from ..measure.ask import send
from ..measure.latency import NEGLIGIBLE_SECONDS, judge_rate
from ..measure.samples import Finding, Judgement, Outcome
from ..names import shown
from ._gate import CandidateRun, Traffic, traffic

_PAUSE = 0.2  # seconds between two looks
_BUSY_LOOKS = 5  # in a row
_FEW_MEANS = 5
_FEW = 20  # requests; of fewer a mean says nothing


def watch(run: CandidateRun) -> str:
    """Watch the default version for `--watch` seconds. Raises ReleaseError where it fails; ClientError."""
    judgement = _watched(run)
    run.require_pass("watch", judgement)
    return judgement.findings[0].text


def _watched(run: CandidateRun) -> Judgement:
    """Look at the default version until the time is over, or until it fails."""
    start = last = traffic(run.host.server, run.model)
    begin, seconds = run.clock(), run.options.watch
    looks = busy = 0
    means: list[float] = []
    while True:
        try:
            broken = _broken(run, looks)
            busy = 0
        except QueueFull as error:  # a full queue is the load's fault; for long it may be the version's
            busy += 1
            broken = str(error) if busy >= _BUSY_LOOKS else ""
        if broken:
            return Judgement((Finding("watch", Outcome.FAIL, broken),))
        looks += 1
        now = traffic(run.host.server, run.model)
        if now is not None and last is not None and (now - last).requests:
            means.append((now - last).seconds / (now - last).requests)
        last = now
        run.on_progress(f"{run.clock() - begin:.0f} s of {seconds:.0f} s")
        if run.clock() - begin >= seconds:
            break
        run.sleep(min(_PAUSE, seconds))
    asked = "; nothing was asked of it, as the archive has no golden requests"
    if run.requests:
        asked = ", requests answered"
    ready = "1 worker" if run.workers == 1 else f"{run.workers} workers"
    text = f"{looks} look{'' if looks == 1 else 's'} in {run.clock() - begin:.1f} s: {ready} READY{asked}"
    if run.before is None or start is None or last is None:
        text += f"; errors and latency of the traffic are not judged: {_why_unseen(start)}"
        return Judgement((Finding("watch", Outcome.PASS, text),))
    found, unsaid = _under_traffic(run.before, last - start, means, run.options.max_slowdown)
    return Judgement((Finding("watch", Outcome.PASS, "; ".join([text, *unsaid])), *found))


def _why_unseen(now: Traffic | None) -> str:
    if now is None:
        return "the server tells no metrics (give --metrics, and set metrics_mode=prometheus)"
    return "nothing is known of the traffic before the switch"


def _broken(run: CandidateRun, look: int) -> str:
    """Return why the version is not as it should be; '' where it is. Raises QueueFull, ClientError."""
    described = run.host.server.management.describe(run.model)
    if described.version != run.version:
        return f"the default is {shown(described.version)} now: somebody changed it"
    if described.ready_workers < run.workers:
        return (
            f"{described.ready_workers} of {run.workers} workers are READY: see model_log.log on the server"
        )
    if run.requests:
        request = run.requests[look % len(run.requests)]
        # By its version: counted apart from the traffic, whose latency is held against that of before.
        sample = send(run.host.server.inference, run.model, run.version, request, run.watch_timeout)
        if sample.status == HTTPStatus.SERVICE_UNAVAILABLE and "queue" in sample.error:
            raise QueueFull(sample.error, status=sample.status)
        if not sample.ok:
            return f"request {request.name}: {sample.error}"
    return ""


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
