"""What samples of two versions come to: a judgement with three outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """A judgement has three: what cannot be told from noise is not called good."""

    PASS = "pass"  # noqa: S105 (no password)
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """One thing that was judged; `text` is a sentence for people, `figures` what it rests on."""

    what: str
    outcome: Outcome
    text: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """All findings: one failure fails it, and else one that is inconclusive makes it so."""

    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of them; INCONCLUSIVE where nothing was judged."""
        outcomes = {finding.outcome for finding in self.findings}
        if Outcome.FAIL in outcomes:
            return Outcome.FAIL
        return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE

    @property
    def failed(self) -> list[str]:
        """What failed it."""
        return [finding.what for finding in self.findings if finding.outcome is Outcome.FAIL]

    @property
    def is_noisy(self) -> bool:
        """Whether more samples may decide something: how fast it is."""
        doubtful = [one.what for one in self.findings if one.outcome is Outcome.INCONCLUSIVE]
        return any(what.startswith(("p50", "p99")) for what in doubtful)

    def reasons(self) -> list[str]:
        """Why it did not pass; where something failed, that alone: it may have ended the rest too early."""
        reasons = {Outcome.FAIL} if self.outcome is Outcome.FAIL else {Outcome.INCONCLUSIVE}
        return [f"{f.what}: {f.text}" for f in self.findings if f.outcome in reasons]


@dataclass(frozen=True)
class Sample:
    """One request that was sent to one version. `status` is 0, and `error` says why, where no answer came.

    `seconds` from sending it until the whole answer was there, and `first` until its first part was where it
    came in parts. `body` is the answer. `waited` is how many of those it spent in the queue behind others,
    and not for its own batch to fill; None where that cannot be told.
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
        """What the version itself took: without the time that it waited behind others."""
        return None if self.waited is None else max(0.0, self.seconds - self.waited)

    @property
    def ok(self) -> bool:
        """Whether it was answered with success."""
        return 200 <= self.status < 300
