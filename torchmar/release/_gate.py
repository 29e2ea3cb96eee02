"""Judge the candidate against the default version, by golden requests and by recorded ones."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ReleaseError
from ..measure.answers import judge_agreement, judge_errors
from ..measure.judge import judge
from ..measure.latency import TAIL_SAMPLES, judge_first_part, judge_latency
from ..measure.queues import Queues
from ..measure.recorded import read_recorded
from ..measure.replay import replay_golden, replay_recorded, several, warm_up
from ..measure.samples import Judgement, Outcome, Sample
from ._candidate import CandidateRun
from ._fleet import observe
from ._plan import requests_in_words
from ._watch import traffic

_SLOW_FACTOR = 60  # gate_seconds are multiplied by it while a slow model has too few samples to pass
_MARGIN = 1.2  # factor on the time that more samples are expected to take
NOTHING_ASKED = "nothing was asked of it: the archive carries no golden requests"


def warm(run: CandidateRun) -> str:
    """Send golden requests to all workers. Raises ReleaseError where one fails."""
    sent = warm_up(run.host.server, run.model, run.version, run.requests, run.request_timeout)
    run.sent += len(sent)
    failed = judge_errors(None, sent)
    if failed.outcome is Outcome.FAIL:
        raise ReleaseError(f"{run.model} {run.version} does not answer on {run.host.name}: {failed.text}")
    if not sent:
        return NOTHING_ASKED
    versions = 1 if run.default in {None, run.version} else 2
    seconds = min(sample.seconds for sample in sent) * versions * TAIL_SAMPLES
    slow = f"; the gate takes about {seconds:.0f} s" if seconds > run.options.gate_seconds else ""
    return f"{len(sent)} requests{slow if versions == 2 else ''}"


def gate(run: CandidateRun) -> str:
    """Send golden requests to both versions, and judge the answers, errors and latency."""
    server = run.host.server
    before = traffic(server, run.model)
    against = run.default if run.default not in {None, run.version} else None
    default, candidate, judgement, more = _sampled(run, against)
    now = observe(server, run.model).default  # is it there still, and as it was?
    if now not in {run.default, run.version}:  # the candidate, where a release goes on after the switch
        raise ReleaseError(f"{run.model}: the default became {now} on {run.host.name}: somebody else sets it")
    after = traffic(server, run.model)
    run.before = None if before is None or after is None else after - before
    run.candidate_samples, run.default_samples = candidate, default or ()
    if not run.requests:
        return f"{NOTHING_ASKED}: {run.decide('gate', judgement)}"
    to_each = "" if against is None else " to each"
    asked = requests_in_words(len(run.golden), len(run.options.request))
    return f"{len(candidate)} times{to_each}, {asked}: {run.decide('gate', judgement, more)}"


def _sampled(
    run: CandidateRun, against: str | None
) -> tuple[list[Sample] | None, list[Sample], Judgement, str]:
    """Return samples of the default version and of the candidate, their judgement, and how to get more.

    More are taken while chance could explain the difference, for gate_seconds; and for longer while a slow
    model has fewer than it takes to pass, unless that would not suffice either. With promote_inconclusive
    neither is waited for.
    """
    options, server = run.options, run.host.server
    versions = [run.version] if against is None else [against, run.version]
    found: dict[str, list[Sample]] = {version: [] for version in versions}
    queues = Queues(server, run.model, versions)
    begin = run.clock()
    samples, seconds = options.samples, options.gate_seconds
    while True:
        more = replay_golden(
            queues,
            versions,
            run.requests,
            samples=samples,
            seconds=begin + seconds - run.clock(),
            timeout=run.request_timeout,
            clock=run.clock,
            on_sample=_teller(run, len(found[run.version]), samples, begin, seconds),
        )
        for version in versions:
            found[version] += more[version]
        run.sent += len(more[run.version])
        default, candidate = None if against is None else found[against], found[run.version]
        judgement = judge(
            default,
            candidate,
            run.expected,
            max_slowdown=options.max_slowdown,
            min_agreement=run.min_agreement,
            comparator=run.comparator,
            given=len(run.options.request),
        )
        elapsed, few = run.clock() - begin, min(map(len, found.values()))
        # Seconds until there are enough to pass, or else four times as many, at this speed.
        enough = TAIL_SAMPLES if few < TAIL_SAMPLES else 4 * few
        needed = _MARGIN * enough * elapsed / max(1, few)
        more_by = f"--gate-seconds {max(2 * options.gate_seconds, needed):.0f}"
        if (
            judgement.outcome is Outcome.FAIL
            or not judgement.is_noisy
            or not run.requests
            or options.promote_inconclusive
        ):
            break
        answered = all(sample.ok for several in more.values() for sample in several)
        if few < TAIL_SAMPLES and answered:
            samples, seconds = TAIL_SAMPLES - few, _SLOW_FACTOR * options.gate_seconds
            if needed > seconds:
                break
        else:
            samples, seconds = options.samples, options.gate_seconds
        if elapsed >= seconds:
            break
    return default, candidate, judgement, more_by


def _teller(
    run: CandidateRun, before: int, samples: int, begin: float, seconds: float
) -> Callable[[int], None]:
    """Return what reports how far the gate is, with each further request."""

    def tell(count: int) -> None:
        spent = run.clock() - begin
        run.on_progress(f"request {before + count} of {before + samples}, {spent:.0f} s of {seconds:.0f} s")

    return tell


def shadow(run: CandidateRun) -> str:
    """Send recorded requests to both versions, and judge: no client waits for these answers."""
    if run.default is None or run.default == run.version:
        return "the first version: nothing to compare it with"
    options = run.options
    recorded = several(read_recorded(options.shadow, run.model, options.shadow_limits), options.shadow_limit)
    found = replay_recorded(
        Queues(run.host.server, run.model, [run.default, run.version]),
        run.default,
        run.version,
        recorded,
        timeout=run.request_timeout,
        on_sample=lambda count: run.on_progress(f"request {count} of {len(recorded)}"),
    )
    run.shadow_samples = (found.default, found.candidate)
    run.sent += len(found.candidate)
    findings = (
        judge_errors(found.default, found.candidate),
        judge_agreement(
            found.default, found.candidate, minimum=options.shadow_agreement, comparator=run.comparator
        ),
        *judge_latency(found.default, found.candidate, max_slowdown=options.max_slowdown),
        *judge_first_part(found.default, found.candidate, max_slowdown=options.max_slowdown),
    )
    more = f"--shadow-limit {4 * options.shadow_limit}"
    decided = run.decide("shadow", Judgement(findings), more)
    return f"{len(found.candidate)} recorded requests to each: {decided}"
