"""Turn samples of two versions into a judgement with three outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """A judgement's outcome; INCONCLUSIVE if noise could explain the result."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """One judged aspect; `text` is a sentence for people, `figures` its basis."""

    what: str
    outcome: Outcome
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """Combines all findings: one failure fails it, and otherwise one doubt makes it inconclusive."""

    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """Return the worst outcome; INCONCLUSIVE if there are no findings."""
        outcomes = {finding.outcome for finding in self.findings}
        if Outcome.FAIL in outcomes:
            return Outcome.FAIL
        return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE

    @property
    def failed(self) -> list[str]:
        """Return what failed."""
        return [finding.what for finding in self.findings if finding.outcome is Outcome.FAIL]

    @property
    def is_noisy(self) -> bool:
        """Return whether more samples may decide a finding, namely about latency."""
        doubtful = [one.what for one in self.findings if one.outcome is Outcome.INCONCLUSIVE]
        return any(what.startswith(("p50", "p99")) for what in doubtful)

    def reasons(self) -> list[str]:
        """Return why it did not pass. After a failure, that alone: it may have ended the rest too early."""
        reasons = {Outcome.FAIL} if self.outcome is Outcome.FAIL else {Outcome.INCONCLUSIVE}
        return [f"{f.what}: {f.text}" for f in self.findings if f.outcome in reasons]


@dataclass(frozen=True)
class Sample:
    """One request to one version. Without a response, `status` is 0 and `error` gives the reason.

    `seconds` runs from sending until the whole response arrived, `first` until its first part if it came in
    parts. `body` is the response. `waited` is the time in the queue behind others, without the wait for its
    own batch to fill; None if unknown.
    """

    request: str
    status: int
    seconds: float
    body: bytes = b""
    error: str = ""
    waited: float | None = 0.0
    first: float | None = None

    @property
    def own_seconds(self) -> float | None:
        """Return the version's own time, without the wait behind others."""
        return None if self.waited is None else max(0.0, self.seconds - self.waited)

    @property
    def ok(self) -> bool:
        """Return whether the response was successful."""
        return 200 <= self.status < 300
