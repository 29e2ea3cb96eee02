"""How long the gate takes samples: as many as it takes to tell, of a slow model, too, but not for ever."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from torchmar.client import Prediction
from torchmar.errors import BadAnswer, ReleaseError, ReleaseInconclusive
from torchmar.golden import GoldenRequest
from torchmar.measure.latency import TAIL_SAMPLES
from torchmar.release import Host, Options
from torchmar.release._gate import CandidateRun, gate, warm

from .servers_in_memory import ARCHIVE, Fake, as_server, version


@dataclass
class Slow(Fake):
    """Each request takes `takes` seconds of a clock that nobody waits for, and nothing waits in a queue."""

    takes: float = 0.0
    takes_of: Callable[[str, int], float] | None = None
    asked: int = 0
    status: int = 200
    on_ask: Callable[[], object] = list
    answer: Callable[[str], bytes] = lambda _version: b'{"index": 1}'

    def predict(self, name: str, *data: Any, version: str | None = None, **more: Any) -> Prediction:
        assert version is not None, "the gate asks by the number"
        takes = self.takes if self.takes_of is None else self.takes_of(version, self.asked)
        self.clock.now += takes
        self.asked += 1
        self.on_ask()
        if self.status != 200:
            raise BadAnswer(f"status {self.status}", status=self.status)
        return replace(super().predict(name, *data, version=version, **more), seconds=takes)


def judged(takes: float, **options: Any) -> CandidateRun:
    """Through the gate, against a default that is as slow."""
    work = gated(slow(takes), **options)
    gate(work)
    return work


def slow(takes: float) -> Slow:
    """Two versions, without batches."""
    fake = Slow("local", "1.0", {number: replace(version(number), batch_size=1) for number in ("1.0", "2.0")})
    fake.takes = takes
    return fake


@pytest.mark.parametrize(
    ("takes", "options", "samples"),
    [
        (0.01, {}, 100),
        (0.01, {"samples": 24}, TAIL_SAMPLES),
        (0.5, {}, TAIL_SAMPLES),
        (1.0, {}, TAIL_SAMPLES),
        (1.1, {}, TAIL_SAMPLES),
        (4.0, {}, TAIL_SAMPLES),
        (4.0, {"samples": 5, "promote_inconclusive": True}, 2),
    ],
)
def test_samples_are_taken_until_they_tell(takes: float, options: dict[str, Any], samples: int) -> None:
    """As many as were asked for, or as it takes to pass; who promotes in any case waits for none."""
    work = judged(takes, **options)
    assert len(work.candidate_samples) == len(work.default_samples) == samples


def test_the_gate_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model for which sixty times the time is not enough nothing can be told: that is said at once, and
    which option would do.
    """
    seen: list[CandidateRun] = []
    monkeypatch.setattr(CandidateRun, "require_pass", _noting(seen, CandidateRun.require_pass))
    with pytest.raises(ReleaseInconclusive, match="p99") as told:
        judged(6.0)
    assert 10 <= seen[0].clock() <= 30
    [seconds] = re.findall(r"More samples may tell: --gate-seconds (\d+)\n", str(told.value))
    assert "--promote-inconclusive" in str(told.value)
    judged(6.0, gate_seconds=float(seconds))


def test_noise_is_told_with_the_option_that_has_more_samples() -> None:
    """It stays: four times as many are the next thing to try, and not fewer than there were."""
    fake = slow(0.6)
    drawn = random.Random(1)
    fake.takes_of = lambda number, _: (0.87 if number == "2.0" else 0.6) * math.exp(drawn.gauss(0, 0.8))
    work = gated(fake)
    with pytest.raises(ReleaseInconclusive, match=r"p50: .*noise hides") as told:
        gate(work)
    [seconds] = re.findall(r"More samples may tell: --gate-seconds (\d+)\n", str(told.value))
    assert float(seconds) > 4 * work.clock()


def test_a_slow_gate_is_announced() -> None:
    """Who has warmed it up knows how long an answer takes."""
    assert warm(gated(slow(1.1))) == "2 requests; the gate takes about 130 s"
    assert warm(gated(slow(0.01))) == "2 requests"


def test_another_answer_is_refused_with_the_option_that_allows_it() -> None:
    """And nothing else is said: that it ended early leaves too few samples, which is no news."""
    fake = slow(1.1)
    fake.answer = lambda number: b'{"index": 1, "more": %d}' % (number == "2.0")
    with pytest.raises(ReleaseError) as told:
        gate(gated(fake))
    reason = str(told.value)
    assert "If it is meant to answer otherwise than 1.0: --min-agreement 0 (or accept.agreement in" in reason
    assert "too few" not in reason
    fake.answer = lambda _: b'{"index": 2}'
    with pytest.raises(ReleaseError, match="expected answers") as told:
        gate(gated(fake))
    assert "--min-agreement" not in str(told.value)


def _noting(seen: list[CandidateRun], decide: Any) -> Any:
    def noted(work: CandidateRun, *arguments: Any) -> Any:
        seen.append(work)
        return decide(work, *arguments)

    return noted


@pytest.mark.parametrize("promote", [True, False])
def test_that_nothing_was_asked_is_said(*, promote: bool) -> None:
    """An archive without golden requests: whatever it would answer, nobody has asked it."""
    work = gated(Slow("local", "1.0", {number: version(number) for number in ("1.0", "2.0")}))
    work.options = replace(work.options, promote_inconclusive=promote)
    work.golden = ()
    assert warm(work) == "nothing was asked of it: the archive carries no golden requests"
    if promote:
        expected = "nothing was asked of it: the archive carries no golden requests: inconclusive"
        assert gate(work) == expected
    else:
        with pytest.raises(ReleaseInconclusive, match=r"errors: nothing was asked of it"):
            gate(work)
    assert cast("Slow", work.host.server).asked == 0


def test_requests_that_were_given_are_judged_without_expected_answers(tmp_path: Path) -> None:
    """As those of an archive without any: both versions are asked, and must answer alike."""
    request = tmp_path / "a.json"
    request.write_text("{}")
    fake = Slow("local", "1.0", {number: version(number) for number in ("1.0", "2.0")})
    work = gated(fake, request=(str(request),))
    work.golden = ()
    assert warm(work) == "16 requests"
    assert gate(work) == "100 times to each, 1 request that was given: pass"
    [expected] = [one for one in work.judgements["gate"].findings if one.what == "expected answers"]
    assert "whether its answers are right is not known" in expected.text
    fake.answer = lambda number: b"1" if number == "2.0" else b"2"
    with pytest.raises(ReleaseError, match="0 of 1 requests are answered as the default answers them"):
        gate(work)
    request.unlink()
    with pytest.raises(ReleaseError, match=r"--request .*a\.json: cannot be read"):
        gated(fake, request=(str(request),)).requests  # noqa: B018 (read when it is asked for)


def test_golden_requests_and_given_ones_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """What is expected of the archive's a.json is not expected of the file a.json."""
    (tmp_path / "a.json").write_text("[]")
    work = gated(Slow("local", "2.0", {"2.0": version("2.0")}), request=(str(tmp_path / "a.json"),))
    work.default = None
    assert gate(work) == "100 times, 1 golden request and 1 that was given: pass"
    assert len({sample.request for sample in work.candidate_samples}) == 2


def gated(fake: Slow, **options: Any) -> CandidateRun:
    """About to go through the gate with one golden request."""
    fake.requests["default"] = 1  # as by the requests that have warmed it up, there is something counted
    host = Host("local", as_server(fake))
    told = Options(tolerance=0.0, min_agreement=1.0, **options)
    work = CandidateRun(host, ARCHIVE, "m-2.0.mar", 1, "1.0", told, clock=fake.clock)
    work.golden = (GoldenRequest("a.json", b"{}", {"index": 1}),)
    return work


def test_a_default_that_somebody_sets_meanwhile_ends_the_gate() -> None:
    """What was compared with is not what is served any more."""
    fake = Slow("local", "1.0", {number: version(number) for number in ("1.0", "2.0", "3.0")})
    work = gated(fake)
    fake.on_ask = lambda: setattr(fake, "default", "3.0")
    with pytest.raises(ReleaseError, match=r"the default became 3\.0 on local: somebody else sets it"):
        gate(work)
    fake.default, fake.on_ask = "1.0", lambda: setattr(fake, "default", "2.0")
    gate(work)


@pytest.mark.parametrize(("status", "failed"), [(200, False), (503, True), (400, True)])
def test_a_version_that_fails_while_it_is_warmed_up_is_not_released(status: int, *, failed: bool) -> None:
    """It is not sent to the gate: whoever does not answer a golden request is no candidate."""
    fake = Slow("local", "1.0", {number: version(number) for number in ("1.0", "2.0")})
    fake.status = status
    work = gated(fake)
    if failed:
        with pytest.raises(ReleaseError, match=r"m 2\.0 does not answer on local: 1 of 1 requests failed"):
            warm(work)
    else:
        assert warm(work) == "16 requests"
    assert fake.asked == work.sent == 16
