"""The gate: judges the candidate of a release on one host, by golden and by recorded requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..client import Server, total
from ..compare import Comparator
from ..errors import ClientError, ReleaseError, ReleaseInconclusive
from ..golden import GoldenRequest, request_of
from ..mar import Accepted, Archive, accepted, golden_requests
from ..measure.answers import judge_agreement, judge_errors
from ..measure.judge import judge
from ..measure.latency import TAIL_SAMPLES, judge_first_part, judge_latency
from ..measure.queues import Queues
from ..measure.recorded import read_recorded
from ..measure.replay import replay_golden, replay_recorded, several, warm_up
from ..measure.samples import Judgement, Outcome, Sample
from ..routers import Logged
from ._fleet import Host, observe
from ._options import Options

# A request counts as hung after these seconds, or so many times the gate's slowest, whichever is more.
_HANGS, _HANGS_TIMES = 10.0, 10.0
_MORE = 2.0  # seconds that a request may take besides: it waits for its batch, and crosses a network

_SLOW_FACTOR = 60  # gate_seconds are multiplied by it while a slow model has too few samples to pass
_MARGIN = 1.2  # factor on the time that more samples are expected to take
# The option that accepts answers that differ from the default's, by step.
_AGREEMENT = {
    "gate": "--min-agreement 0 (or accept.agreement in its model.yaml)",
    "shadow": "--shadow-agreement 0",
}
NOTHING_ASKED = "nothing was asked of it: the archive carries no golden requests"


def request_in(file: str) -> GoldenRequest:
    """Read a request that was given as a file; its path is its name. Raises ReleaseError."""
    try:
        return request_of(file, Path(file).read_bytes())
    except OSError as error:
        raise ReleaseError(f"--request {file}: cannot be read: {error.strerror}") from None


def requests_in_words(golden: int, given: int) -> str:
    """Return what is sent, as "2 golden requests and 1 that was given"."""
    words = [f"{golden} golden request{'' if golden == 1 else 's'}"] if golden or not given else []
    if given:
        unit = "" if words else f" request{'' if given == 1 else 's'}"
        words.append(f"{given}{unit} that {'was' if given == 1 else 'were'} given")
    return " and ".join(words)


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


@dataclass
class CandidateRun:
    """Holds a release on one host while it runs. `default` is the version that was the default before.

    `sent` counts the requests that the step under way has sent to the candidate.
    """

    host: Host
    archive: Archive
    file: str
    workers: int
    default: str | None
    options: Options
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    candidate_samples: Sequence[Sample] = ()
    default_samples: Sequence[Sample] = ()
    shadow_samples: tuple[Sequence[Sample], Sequence[Sample]] = ((), ())
    canary_baseline: Logged | None = None
    judgements: dict[str, Judgement] = field(default_factory=dict)
    before: Traffic | None = None
    sent: int = 0
    on_progress: Callable[[str], None] = lambda _text: None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.archive.name

    @property
    def version(self) -> str:
        """The candidate."""
        return self.archive.version

    @cached_property
    def golden(self) -> tuple[GoldenRequest, ...]:
        """The golden requests of the archive."""
        return golden_requests(self.archive)

    @cached_property
    def requests(self) -> tuple[GoldenRequest, ...]:
        """The requests for both versions: golden ones, and the files of --request. Raises ReleaseError."""
        return (*self.golden, *map(request_in, self.options.request))

    @cached_property
    def comparator(self) -> Comparator:
        """How answers are compared: as the archive says; numbers by --tolerance, or accept.max_abs_error."""
        tolerance = self.options.tolerance
        if tolerance is None:
            tolerance = self._accepted.max_abs_error
        found = self.archive.comparator
        return found if tolerance is None else replace(found, tolerance=tolerance)

    @property
    def min_agreement(self) -> float:
        """The share of golden requests to be answered as now: --min-agreement, or accept.agreement."""
        if self.options.min_agreement is not None:
            return self.options.min_agreement
        accepted = self._accepted.agreement
        return 1.0 if accepted is None else accepted

    @cached_property
    def _accepted(self) -> Accepted:
        return accepted(self.archive)

    @cached_property
    def request_timeout(self) -> float:
        """Seconds after which a request gets no answer any more.

        TorchServe itself gives up on a worker, but never on a request that waits for one.
        """
        return self.host.server.management.describe(self.model, self.version).answer_bound + _MORE

    @property
    def watch_timeout(self) -> float:
        """Seconds after which a default version counts as hung that has not answered a golden request.

        That is far longer than any request took in the gate, behind real traffic too; and far shorter than
        what TorchServe gives a worker, as nobody is answered meanwhile.
        """
        seconds = [sample.seconds for sample in (*self.default_samples, *self.candidate_samples)]
        if not seconds:
            return self.request_timeout
        return min(self.request_timeout, max(_HANGS, _HANGS_TIMES * max(seconds)))

    @property
    def expected(self) -> dict[str, Any]:
        """The answers to the golden requests, by name."""
        return {request.name: request.expected for request in self.golden if request.expected is not None}

    def require_workers(self, then: str) -> None:
        """Raise ReleaseError where fewer workers are READY than planned; `then` is part of its message."""
        described = self.host.server.management.describe(self.model, self.version)
        if described.ready_workers < self.workers:
            raise ReleaseError(
                f"{self.model} {self.version}: {described.ready_workers} of {self.workers} workers are READY "
                f"on {self.host.name}{then}; see model_log.log on the server"
            )

    def require_pass(self, what: str, judgement: Judgement, more: str = "") -> str:
        """Return the outcome of what passed; `more` is the option that takes more samples.

        Raises ReleaseError where the candidate failed, ReleaseInconclusive where that cannot be decided.
        """
        self.judgements[what] = judgement
        who, where = f"{self.model} {self.version}", self.host.name
        reasons = "\n  ".join(judgement.reasons())
        if judgement.outcome is Outcome.FAIL:
            if "agreement" in judgement.failed and (option := _AGREEMENT.get(what)):
                reasons += f"\n  If it is meant to answer otherwise than {self.default}: {option}"
            raise ReleaseError(f"{who} did not pass the {what} on {where}:\n  {reasons}")
        if judgement.outcome is Outcome.INCONCLUSIVE and not self.options.promote_inconclusive:
            if more and judgement.is_noisy:
                reasons += f"\n  More samples may tell: {more}"
            raise ReleaseInconclusive(
                f"{who}: the {what} on {where} could not decide whether it is good:\n  {reasons}\n"
                "  It is promoted all the same with --promote-inconclusive"
            )
        return str(judgement.outcome.value)


# -- judged by requests ------------------------------------------------------------------------


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
    default, candidate, judgement, more = _sample_until_decided(run, against)
    now = observe(server, run.model).default  # is it there still, and as it was?
    if now not in {run.default, run.version}:  # the candidate, where a release goes on after the switch
        raise ReleaseError(f"{run.model}: the default became {now} on {run.host.name}: somebody else sets it")
    after = traffic(server, run.model)
    run.before = None if before is None or after is None else after - before
    run.candidate_samples, run.default_samples = candidate, default or ()
    if not run.requests:
        return f"{NOTHING_ASKED}: {run.require_pass('gate', judgement)}"
    to_each = "" if against is None else " to each"
    asked = requests_in_words(len(run.golden), len(run.options.request))
    return f"{len(candidate)} times{to_each}, {asked}: {run.require_pass('gate', judgement, more)}"


def _sample_until_decided(
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
    decided = run.require_pass("shadow", Judgement(findings), more)
    return f"{len(found.candidate)} recorded requests to each: {decided}"
