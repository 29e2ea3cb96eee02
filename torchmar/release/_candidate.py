"""The candidate of a release on one host, under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..compare import Comparator
from ..errors import ReleaseError, ReleaseInconclusive
from ..golden import GoldenRequest, request_of
from ..mar import Accepted, Archive, accepted, golden_requests
from ..measure.samples import Judgement, Outcome, Sample
from ..routers import Logged
from ._fleet import Host
from ._options import Options
from ._watch import Traffic

# A request counts as hung after these seconds, or so many times the gate's slowest, whichever is more.
_HANGS, _HANGS_TIMES = 10.0, 10.0
_MORE = 2.0  # seconds that a request may take besides: it waits for its batch, and crosses a network

# The option that accepts answers that differ from the default's, by step.
_AGREEMENT = {
    "gate": "--min-agreement 0 (or accept.agreement in its model.yaml)",
    "shadow": "--shadow-agreement 0",
}


def request_in(file: str) -> GoldenRequest:
    """Read a request that was given as a file; its path is its name. Raises ReleaseError."""
    try:
        return request_of(file, Path(file).read_bytes())
    except OSError as error:
        raise ReleaseError(f"--request {file}: cannot be read: {error.strerror}") from None


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
    _golden: tuple[GoldenRequest, ...] | None = None
    _request_timeout: float | None = None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.archive.name

    @property
    def version(self) -> str:
        """The candidate."""
        return self.archive.version

    @property
    def golden(self) -> tuple[GoldenRequest, ...]:
        """The golden requests of the archive, read once."""
        if self._golden is None:
            self._golden = golden_requests(self.archive)
        return self._golden

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

    @property
    def request_timeout(self) -> float:
        """Seconds after which a request gets no answer any more.

        TorchServe itself gives up on a worker, but never on a request that waits for one.
        """
        if self._request_timeout is None:
            described = self.host.server.management.describe(self.model, self.version)
            self._request_timeout = described.answer_bound + _MORE
        return self._request_timeout

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

    def decide(self, what: str, judgement: Judgement, more: str = "") -> str:
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
