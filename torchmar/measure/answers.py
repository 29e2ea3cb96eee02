"""Judge the responses of two versions: by success, by the archive's expected answers, by the default's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..answers import parsed, shown
from ..compare import CLOSE, Comparator
from ..golden import apart, counterpart, matches, value_in_words
from .samples import Finding, Outcome, Sample

T = TypeVar("T")
_NAMED = 3  # examples named in a finding; the rest is counted
_LENGTH = 80  # characters of a response within a sentence


def judge_errors(default: Sequence[Sample] | None, candidate: Sequence[Sample]) -> Finding:
    """Judge that every request succeeds, or fails no worse than it always does with the default version."""
    requests = by_request(candidate)
    if not requests:
        return Finding("errors", Outcome.INCONCLUSIVE, "nothing was asked of it: no request was sent")
    usual = {name: min(map(_badness, samples)) for name, samples in by_request(default or ()).items()}
    worst = {name: max(samples, key=_badness) for name, samples in requests.items()}
    worse = [sample for name, sample in worst.items() if _badness(sample) > usual.get(name, 0)]
    failing = [sample for sample in worst.values() if not sample.ok]
    figures = {"requests": len(candidate), "failed": sum(not sample.ok for sample in candidate)}
    if worse:
        text = f"{len(worse)} of {len(requests)} requests failed: {_listed(worse, _failure)}"
        return Finding("errors", Outcome.FAIL, text, figures)
    if len(failing) == len(requests):
        text = f"neither version answers any request: {_listed(failing, _failure)}"
        return Finding("errors", Outcome.INCONCLUSIVE, text, figures)
    text = f"{len(requests) - len(failing)} of {len(requests)} requests are answered with success"
    text += f"; the default fails, too: {_listed(failing, _failure)}" if failing else ""
    return Finding("errors", Outcome.PASS, text, figures)


def judge_expected(
    expected: Mapping[str, Any],
    candidate: Sequence[Sample],
    *,
    comparator: Comparator = CLOSE,
    given: int = 0,
) -> Finding:
    """Judge that every answer is the one that the archive expects; None means that it expects none.

    If the archive expects nothing at all, the result is inconclusive. It passes if the user `given` requests,
    and so accepts this.
    """
    wanted = {name: value for name, value in expected.items() if value is not None}
    if not wanted and given:
        text = f"nothing is expected of what was given ({given}): whether its answers are right is not known"
        return Finding("expected answers", Outcome.PASS, text)
    if not wanted:
        text = "the archive has no golden answers: give model.yaml a folder of requests (golden:) and pack it"
        return Finding("expected answers", Outcome.INCONCLUSIVE, text)
    answers = by_request(candidate)
    not_sent = [name for name in wanted if name not in answers]
    wrong = {
        sample.request: sample
        for name, value in wanted.items()
        for sample in answers.get(name, ())
        if not (sample.ok and matches(value, sample.body, comparator))
    }
    figures = {"requests": len(wanted), "wrong": len(wrong), "not_sent": len(not_sent)}
    if wrong:
        text = f"{len(wrong)} of {len(wanted)} answers are wrong: "
        text += _listed(
            list(wrong.values()), lambda sample: _mistake(wanted[sample.request], sample, comparator)
        )
        return Finding("expected answers", Outcome.FAIL, text, figures)
    if not_sent:
        text = f"{len(not_sent)} of {len(wanted)} golden requests were not sent: {_listed(not_sent, str)}"
        return Finding("expected answers", Outcome.INCONCLUSIVE, text, figures)
    text = f"{len(wanted)} of {len(wanted)} answers are what the archive expects"
    return Finding("expected answers", Outcome.PASS, text, figures)


def judge_agreement(
    default: Sequence[Sample] | None,
    candidate: Sequence[Sample],
    *,
    minimum: float,
    comparator: Comparator = CLOSE,
) -> Finding:
    """Judge that at least `minimum`, a share of the requests, gets the default version's answer."""
    if default is None:
        return Finding("agreement", Outcome.PASS, "the first version: there is no default to agree with")
    compared = [one for one in compare(default, candidate, comparator=comparator) if one.agrees is not None]
    if not compared:
        text = "nothing can be compared: the default answers no request, or not twice the same"
        return Finding("agreement", Outcome.INCONCLUSIVE, text)
    differing = [one for one in compared if not one.agrees]
    agreeing = len(compared) - len(differing)
    share = agreeing / len(compared)
    figures = {"requests": len(compared), "agreeing": agreeing, "share": share, "minimum": minimum}
    text = f"{agreeing} of {len(compared)} requests are answered as the default answers them"
    if share < minimum:
        text += f", {minimum:.1%} must be"
    if differing:
        text += ": " + _listed(
            differing,
            lambda one: f"{one.request}: {_contrast(one, comparator)}",
        )
    return Finding("agreement", Outcome.FAIL if share < minimum else Outcome.PASS, text, figures)


def _brief(sample: Sample | None) -> str:
    return answer_in_words(sample, _LENGTH)


def _contrast(one: Compared, comparator: Comparator) -> str:
    """Return both answers; of long answers, the difference."""
    if one.default is None or not one.candidate.ok:
        return f"{_brief(one.default)} → {_brief(one.candidate)}"
    answers = parsed(one.default.body), parsed(one.candidate.body)
    place, before, after = apart(*answers, comparator.tolerance, _LENGTH)
    return f"{place}{before} → {after}"


def _badness(sample: Sample) -> int:
    """Return 0 for success, 1 for a 4xx, 2 for the rest: a request that was refused must not crash now."""
    return 0 if sample.ok else 1 if 400 <= sample.status < 500 else 2


def _listed(several: Sequence[T], text: Callable[[T], str]) -> str:
    rest = [f"and {len(several) - _NAMED} more"] if len(several) > _NAMED else []
    return "; ".join([text(one) for one in several[:_NAMED]] + rest)


def _failure(sample: Sample) -> str:
    return f"{sample.request}: {_brief(sample)}"


def _mistake(expected: Any, sample: Sample, comparator: Comparator) -> str:
    if not sample.ok:
        return f"{sample.request}: expected {value_in_words(expected, _LENGTH)}, found {_brief(sample)}"
    place, wanted, found = apart(expected, counterpart(expected, sample.body), comparator.tolerance, _LENGTH)
    return f"{sample.request}: {place}expected {wanted}, found {found}"


# -- side by side ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """One request with both versions' responses: of several, the first that shows the difference.

    `agrees` is None if no verdict is possible: the default version has no successful response, or changing
    ones.
    """

    request: str
    default: Sample | None
    candidate: Sample
    agrees: bool | None


def compare(
    default: Sequence[Sample] | None,
    candidate: Sequence[Sample],
    *,
    comparator: Comparator = CLOSE,
) -> tuple[Compared, ...]:
    """Compare each request that the candidate got, in the order of first appearance."""
    before, after = by_request(default or ()), by_request(candidate)
    return tuple(_compared(before.get(name, ()), samples, comparator) for name, samples in after.items())


def by_request(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Return the samples of each request, in their order."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.request, []).append(sample)
    return found


def _compared(before: Sequence[Sample], after: Sequence[Sample], comparator: Comparator) -> Compared:
    good = [sample for sample in before if sample.ok]
    usual = parsed(good[0].body) if good else None

    def same(sample: Sample) -> bool:
        return sample.body == good[0].body or comparator.same(usual, parsed(sample.body))

    if not good or not all(same(sample) for sample in good[1:]):
        return Compared(after[0].request, before[0] if before else None, after[0], None)
    for sample in after:
        if not (sample.ok and same(sample)):
            return Compared(sample.request, good[0], sample, agrees=False)
    return Compared(after[0].request, good[0], after[0], agrees=True)


def answer_in_words(sample: Sample | None, length: int) -> str:
    """Return the response for people, or the status and the reason, in about `length` characters."""
    if sample is None:
        return "–"
    if sample.ok:
        return shown(sample.body, length)
    reason = shown(sample.error.encode(errors="replace") or sample.body, length)
    return f"status {sample.status}: {reason}" if sample.status else f"no answer: {reason}"
