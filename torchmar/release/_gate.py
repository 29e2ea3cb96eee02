"""Is the candidate as good as what is served now? By golden requests, and by requests that were recorded."""

from __future__ import annotations

from ..errors import ReleaseError
from ..measure.answers import judge_agreement, judge_errors
from ..measure.judge import judge
from ..measure.latency import TAIL_SAMPLES, judge_first_part, judge_latency
from ..measure.queues import Queues
from ..measure.recorded import read_recorded
from ..measure.replay import replay_golden, replay_recorded, several, warm_up
from ..measure.samples import Judgement, Outcome, Sample
from ._host import observe
from ._plan import requests_in_words
from ._watch import traffic
from ._work import Work

_PATIENCE = 60  # times as long where there are too few samples to pass: of a slow model, or under load
_MARGIN = 1.2  # how much longer it may take than what was seen would have it
NOTHING_ASKED = "nothing was asked of it: the archive carries no golden requests"


def warm(work: Work) -> str:
    """Golden requests to all workers; those that fail end the release here."""
    sent = warm_up(work.host.server, work.model, work.version, work.requests, work.request_timeout)
    work.sent += len(sent)
    failed = judge_errors(None, sent)
    if failed.outcome is Outcome.FAIL:
        raise ReleaseError(f"{work.model} {work.version} does not answer on {work.host.name}: {failed.text}")
    if not sent:
        return NOTHING_ASKED
    versions = 1 if work.default in {None, work.version} else 2
    seconds = min(sample.seconds for sample in sent) * versions * TAIL_SAMPLES
    slow = f"; the gate takes about {seconds:.0f} s" if seconds > work.options.gate_seconds else ""
    return f"{len(sent)} requests{slow if versions == 2 else ''}"


def gate(work: Work) -> str:
    """Golden requests to both versions, judged."""
    server = work.host.server
    before = traffic(server, work.model)
    against = work.default if work.default not in {None, work.version} else None
    default, candidate, judgement, more = _sampled(work, against)
    now = observe(server, work.model).default  # is it there still, and as it was?
    if now not in {work.default, work.version}:  # the candidate, where a release goes on after the switch
        raise ReleaseError(
            f"{work.model}: the default became {now} on {work.host.name}: somebody else sets it"
        )
    after = traffic(server, work.model)
    work.before = None if before is None or after is None else after - before
    work.candidate_samples, work.default_samples = candidate, default or ()
    if not work.requests:
        return f"{NOTHING_ASKED}: {work.decide('gate', judgement)}"
    to_each = "" if against is None else " to each"
    asked = requests_in_words(len(work.golden), len(work.options.request))
    return f"{len(candidate)} times{to_each}, {asked}: {work.decide('gate', judgement, more)}"


def _sampled(work: Work, against: str | None) -> tuple[list[Sample] | None, list[Sample], Judgement, str]:
    """Samples of the default version and of the candidate, what they come to, and how to have more.

    More are taken while chance could explain what is seen, as long as there is time; and for longer where
    they are fewer than it takes to pass, for a slow model needs as many, unless they could not be had in that
    time either. Whoever promotes in any case waits for neither.
    """
    options, server = work.options, work.host.server
    versions = [work.version] if against is None else [against, work.version]
    found: dict[str, list[Sample]] = {version: [] for version in versions}
    queues = Queues(server, work.model, versions)
    begin = work.clock()
    samples, seconds = options.samples, options.gate_seconds
    while True:
        more = replay_golden(
            queues,
            versions,
            work.requests,
            samples=samples,
            seconds=begin + seconds - work.clock(),
            timeout=work.request_timeout,
            clock=work.clock,
        )
        for version in versions:
            found[version] += more[version]
        work.sent += len(more[work.version])
        default, candidate = None if against is None else found[against], found[work.version]
        judgement = judge(
            default,
            candidate,
            work.expected,
            max_slowdown=options.max_slowdown,
            min_agreement=work.min_agreement,
            comparator=work.comparator,
            given=len(work.options.request),
        )
        elapsed, few = work.clock() - begin, min(map(len, found.values()))
        # By what these took: so long until there are enough to pass, or else four times as many.
        enough = TAIL_SAMPLES if few < TAIL_SAMPLES else 4 * few
        needed = _MARGIN * enough * elapsed / max(1, few)
        more_by = f"--gate-seconds {max(2 * options.gate_seconds, needed):.0f}"
        if (
            judgement.outcome is Outcome.FAIL
            or not judgement.is_noisy
            or not work.requests
            or options.promote_inconclusive
        ):
            break
        answered = all(sample.ok for several in more.values() for sample in several)
        if few < TAIL_SAMPLES and answered:
            samples, seconds = TAIL_SAMPLES - few, _PATIENCE * options.gate_seconds
            if needed > seconds:
                break
        else:
            samples, seconds = options.samples, options.gate_seconds
        if elapsed >= seconds:
            break
    return default, candidate, judgement, more_by


def shadow(work: Work) -> str:
    """Recorded requests to both versions: nobody waits for these answers."""
    if work.default is None or work.default == work.version:
        return "the first version: nothing to compare it with"
    options = work.options
    found = replay_recorded(
        Queues(work.host.server, work.model, [work.default, work.version]),
        work.default,
        work.version,
        several(read_recorded(options.shadow, work.model, options.shadow_limits), options.shadow_limit),
        timeout=work.request_timeout,
        clock=work.clock,
    )
    work.shadow_samples = (found.default, found.candidate)
    work.sent += len(found.candidate)
    findings = (
        judge_errors(found.default, found.candidate),
        judge_agreement(
            found.default, found.candidate, minimum=options.shadow_agreement, comparator=work.comparator
        ),
        *judge_latency(found.default, found.candidate, max_slowdown=options.max_slowdown),
        *judge_first_part(found.default, found.candidate, max_slowdown=options.max_slowdown),
    )
    more = f"--shadow-limit {4 * options.shadow_limit}"
    decided = work.decide("shadow", Judgement(findings), more)
    return f"{len(found.candidate)} recorded requests to each: {decided}"
