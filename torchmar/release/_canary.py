"""A canary: a share of the real traffic for the candidate, judged by the router's log, step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from ..errors import ModelNotFound, ReleaseError
from ..measure.latency import MIN_SAMPLES, judge_latency, judge_rate
from ..measure.samples import Finding, Judgement, Outcome, Sample
from ..names import shown
from ..routers import Log, Logged, Router, Share
from ..routers.nginx import Nginx
from ._fleet import Fleet, Host
from ._gate import CandidateRun
from ._history import Record
from ._journal import read
from ._options import Options

CANARY = "canary "  # the name of a step: canary 5
ROUTER_STEPS = (CANARY, "nginx")
"""How the names of the steps begin that tell the router something."""

_PAUSE = 0.5  # seconds between two looks into the log
_MORE_TIME = 4  # times as long as a step should last, where it cannot be judged yet


def router_of(options: Options) -> Router | None:
    """Return the router that the options describe; None where they describe none."""
    if options.nginx is None or options.access_log is None:
        return None
    return Nginx(Path(options.nginx), Path(options.access_log), options.nginx_listen, options.nginx_reload)


def options_of(fleet: Fleet, record: Record) -> Options:
    """Return the journaled options of a release, with the command of whoever goes on with it."""
    return replace(read(Options, record.options), nginx_reload=fleet.nginx_reload)


def no_command(fleet: Fleet, record: Record) -> str:
    """Return why the router cannot be told, where the release that goes on had a command for it; else ''."""
    command = record.options.get("nginx_reload")
    if not command or fleet.nginx_reload is not None:
        return ""
    return (
        f"give --nginx-reload again: the journal says `{shown(str(command), 200)}`, and a command is not "
        "taken from a journal, which others may be able to write"
    )


def canary(run: CandidateRun, percent: float) -> str:
    """Give the candidate this share, wait, and judge it by what the router logs of both versions."""
    options, router = run.options, router_of(run.options)
    if router is None or run.default is None:
        raise ReleaseError("a canary needs --nginx FILE and --access-log FILE, and a version to compare with")
    router.set_share(share_of(run.host, run.model, run.version, percent, run.default))
    log = router.log(run.model)
    begin = run.clock()
    while True:
        run.sleep(_PAUSE)
        seconds = run.clock() - begin
        run.on_progress(f"{seconds:.0f} s of {options.canary_seconds:.0f} s")
        run.require_workers(" during the canary")
        if seconds < options.canary_seconds:
            continue
        judgement = judged(run, log)
        if judgement.outcome is not Outcome.INCONCLUSIVE or seconds > _MORE_TIME * options.canary_seconds:
            break
    more = f"--canary-seconds {_MORE_TIME * options.canary_seconds:.0f}"
    decided = run.require_pass(f"canary {percent:g}", judgement, more)
    return f"{percent:g} % of the traffic for {seconds:.0f} s: {decided}"


def end_canary(run: CandidateRun) -> str:
    """Send everything to the default version again, which is the candidate by now."""
    router = router_of(run.options)
    if router is not None:
        router.clear(run.model, run.version)
    return "everything goes to the default version"


def end_share(fleet: Fleet, record: Record, model: str) -> None:
    """Send no request to the candidate of a release any more. Raises ReleaseError where that was not told."""
    router = router_of(options_of(fleet, record))
    if router is not None and router.clear(model, record.version) and (why := no_command(fleet, record)):
        raise ReleaseError(
            f"nginx may send to {model} {record.version} still, as it has not read its file, which gives it "
            f"nothing any more: {why}"
        )


def share_of(host: Host, model: str, candidate: str, percent: float, default: str) -> Share:
    """Return what a router needs to know of a host. Raises ClientError."""
    return Share(
        model=model,
        candidate=candidate,
        percent=percent,
        default=default,
        server=host.server.inference.address,
        response_timeout=_longest_answer(host, model),
        max_body=host.max_body,
    )


def _longest_answer(host: Host, model: str) -> int:
    """Return the seconds of the slowest of the model's versions; 1 where there is none."""
    try:
        versions = host.server.management.versions(model)
    except ModelNotFound:
        versions = []
    return math.ceil(max((one.answer_bound for one in versions), default=1))


def judged(run: CandidateRun, log: Log) -> Judgement:
    """Compare the candidate's errors and latencies in the log with those of the default version."""
    found = log.read()
    candidate, default = found.get(run.version, Logged()), found.get(run.default, Logged())
    if run.canary_baseline is None or default.requests >= MIN_SAMPLES:
        run.canary_baseline = default
    # At 100 % only stragglers ask the default: it counts as in the step before.
    baseline = run.canary_baseline
    findings: tuple[Finding, ...] = (
        judge_rate((baseline.errors, baseline.requests), (candidate.errors, candidate.requests)),
        *judge_latency(_samples(baseline), _samples(candidate), max_slowdown=run.options.max_slowdown),
    )
    return Judgement(findings)


def _samples(logged: Logged) -> list[Sample]:
    return [Sample("", 200, seconds) for seconds in logged.seconds]
