"""Pass, fail or inconclusive: what is said of samples that are known to be good, bad or too few."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmar.golden import apart
from torchmar.measure.answers import compare, judge_agreement, judge_errors, judge_expected
from torchmar.measure.judge import judge
from torchmar.measure.latency import TAIL_SAMPLES, judge_first_part, judge_latency, judge_rate
from torchmar.measure.samples import Judgement, Outcome, Sample
from torchmar.measure.statistics import (
    binomial_head,
    bootstrap_medians,
    hypergeometric_tail,
    interval,
    nearest_rank,
)

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
CAT = b'[{"index": 1, "label": "cat"}]'
DOG = b'[{"index": 2, "label": "dog"}]'


def ok(request: str, body: bytes = CAT, seconds: float = 0.01) -> Sample:
    return Sample(request, 200, seconds, body)


def bad(request: str, status: int = 503, error: str = "worker died\nTraceback") -> Sample:
    return Sample(request, status, 0.01, error=error)


def timed(seconds: Sequence[float]) -> list[Sample]:
    return [ok("a", seconds=each) for each in seconds]


def around(
    median: float, count: int, seed: int, spread: float = 0.1, outliers: float = 0.0, by: float = 5.0
) -> list[Sample]:
    """Latencies as a server has them: skewed, and some of them far off."""
    drawn = random.Random(seed)
    values = [median * math.exp(drawn.gauss(0, spread)) for _ in range(count)]
    return timed([value * (by if drawn.random() < outliers else 1) for value in values])


# -- errors -------------------------------------------------------------------------------------

samples = st.lists(
    st.builds(
        Sample,
        request=st.sampled_from("abcd"),
        status=st.sampled_from([0, 200, 400, 503]),
        seconds=st.floats(0, 10),
        body=st.sampled_from([CAT, DOG, b"", b"\xff"]),
        error=st.sampled_from(["", "<b>no</b>"]),
    ),
    max_size=30,
)


@given(samples)
def test_without_a_default_any_failure_fails(candidate: list[Sample]) -> None:
    """A first version must answer everything; of nothing sent, nothing is said."""
    outcome = judge_errors(None, candidate).outcome
    if not candidate:
        assert outcome is INCONCLUSIVE
    else:
        assert outcome is (PASS if all(sample.ok for sample in candidate) else FAIL)


@given(samples, samples)
def test_what_the_default_answers_the_candidate_must(default: list[Sample], candidate: list[Sample]) -> None:
    """Where it fails one request that the default answered at least once, or was never asked: FAIL."""
    asked = {sample.request for sample in default}
    answered = {sample.request for sample in default if sample.ok}
    failed = {sample.request for sample in candidate if not sample.ok}
    if failed & answered or failed - asked:
        assert judge_errors(default, candidate).outcome is FAIL


@given(samples)
def test_a_candidate_that_does_the_same_never_fails_for_errors(both: list[Sample]) -> None:
    """What the default cannot do, and never could, is not held against the candidate."""
    always = [replace(sample, status=400 if sample.request in "ab" else 200) for sample in both]
    assert judge_errors(always, always).outcome is not FAIL


def test_failures_are_named() -> None:
    """Request, status and reason of the first few on one line; the rest is counted."""
    candidate = [ok("a"), bad("b"), bad("c", 0, "timed out"), *(bad(name, 500, "x" * 500) for name in "def")]
    text = judge_errors([ok(name) for name in "abcdef"], candidate).text
    assert text.startswith(
        "5 of 6 requests failed: b: status 503: worker died Traceback; c: no answer: timed"
    )
    assert text.endswith("; and 2 more")
    assert "\n" not in text
    assert len(text) < 400


def test_a_request_that_was_refused_must_not_crash_now() -> None:
    """A 4xx is an answer: the same from both is no failure, a crash instead of it is one."""
    default = [ok("a"), bad("b", 400, "no image")]
    same = judge_errors(default, [ok("a"), bad("b", 415, "no image")])
    assert (same.outcome, same.text) == (
        PASS,
        "1 of 2 requests are answered with success; the default fails, too: b: status 415: no image",
    )
    assert judge_errors(default, [ok("a"), bad("b", 503)]).outcome is FAIL
    assert judge_errors(default[1:], [bad("b", 400)]).outcome is INCONCLUSIVE


LONG = [{"label": f"class {index}", "score": 0.1} for index in range(9)]
OTHER = [*LONG[:7], {"label": "another", "score": 0.1001}, LONG[8]]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"a": 1}, {"a": 2}, ("", '{"a": 1}', '{"a": 2}')),
        (LONG, OTHER, ("[7].label: ", '"class 7"', '"another"')),
        ({"answer": LONG}, {"answer": OTHER}, ("[7].label: ", '"class 7"', '"another"')),
        ({"rows": LONG}, {"rows": LONG[:8]}, ("rows[8]: ", json.dumps(LONG[8]), "nothing")),
        ("x" * 300 + "a", "x" * 300 + "b", ("", f'"…{"x" * 20}a"', f'"…{"x" * 20}b"')),
        (b"\xff" * 200, "x", ("", "\ufffd" * 79 + "…", '"x"')),
    ],
)
def test_where_two_long_answers_differ(one: Any, other: Any, said: tuple[str, str, str]) -> None:
    """What is cut off is not the difference; short ones are shown whole, and rounding is no difference."""
    assert apart(one, other, 1e-3, 80) == said


def test_a_long_answer_shows_what_is_wrong_with_it() -> None:
    """In the gate, for what is expected and for what the default answers."""
    default, candidate = [ok("a", json.dumps(LONG).encode())], [ok("a", json.dumps(OTHER).encode())]
    found = judge_agreement(default, candidate, minimum=1.0)
    assert found.text.endswith('100.0% must be: a: [7].label: "class 7" → "another"')
    wrong = judge_expected({"a": {"answer": LONG}}, candidate)
    assert wrong.text.endswith('a: [7].label: expected "class 7", found "another"')


# -- expected answers ---------------------------------------------------------------------------


def test_answers_that_the_archive_expects() -> None:
    """Every one of them, each time it was sent; the text says what was expected and what was found."""
    expected = {"a": {"index": 1}, "b": {"index": 2}, "free": None}
    right = [ok("a"), ok("b", DOG), ok("free", b"?")]
    assert judge_expected(expected, right).outcome is PASS
    wrong = judge_expected(expected, [*right, ok("b", CAT)])
    assert (wrong.outcome, wrong.text) == (
        FAIL,
        '1 of 2 answers are wrong: b: expected {"index": 2}, found {"index": 1}',
    )
    failed = judge_expected(expected, [ok("a"), bad("b")])
    assert (failed.outcome, "found status 503: worker died" in failed.text) == (FAIL, True)
    assert judge_expected(expected, [ok("a"), replace(bad("b"), body=DOG)]).outcome is FAIL


def test_without_golden_answers_nothing_is_known() -> None:
    """It says what to do; and a request that was not sent is not a right answer."""
    for expected in ({}, {"a": None}):
        finding = judge_expected(expected, [ok("a")])
        assert (finding.outcome, "golden:" in finding.text) == (INCONCLUSIVE, True)
    assert judge_expected({"a": {"index": 1}, "b": {"index": 1}}, [ok("a")]).outcome is INCONCLUSIVE


# -- agreement ----------------------------------------------------------------------------------


@given(st.integers(1, 40), st.data())
def test_the_share_that_agrees(count: int, data: st.DataObject) -> None:
    """FAIL below the minimum and only there; exactly the minimum is enough."""
    differing = data.draw(st.sets(st.integers(0, count - 1)))
    minimum = data.draw(
        st.sampled_from([0.0, 0.5, 0.9, 0.98, 1.0]) | st.just((count - len(differing)) / count)
    )
    default = [ok(str(n)) for n in range(count)]
    candidate = [ok(str(n), DOG if n in differing else CAT) for n in range(count)]
    finding = judge_agreement(default, candidate, minimum=minimum)
    assert finding.outcome is (FAIL if count - len(differing) < minimum * count - 1e-9 else PASS)
    assert finding.figures["agreeing"] == count - len(differing)


def test_what_differs_is_named() -> None:
    """Both answers, shortened; a request that now fails differs, too."""
    default = [ok("a", b'"' + b"x" * 999 + b'"'), ok("b"), ok("c")]
    finding = judge_agreement(default, [ok("a", b'"y"'), ok("b"), bad("c")], minimum=0.9)
    assert finding.outcome is FAIL
    assert finding.text.startswith(
        "1 of 3 requests are answered as the default answers them, 90.0% must be: a:"
    )
    assert '… → "y"; c: [' in finding.text
    assert len(finding.text) < 500


def test_answers_that_cannot_be_compared() -> None:
    """No default, no good answer of it, or one that says otherwise each time."""
    assert judge_agreement(None, [ok("a")], minimum=1.0).outcome is PASS
    assert judge_agreement([], [ok("a")], minimum=1.0).outcome is INCONCLUSIVE
    assert judge_agreement([bad("a")], [ok("a")], minimum=1.0).outcome is INCONCLUSIVE
    assert judge_agreement([ok("a"), ok("a", DOG)], [ok("a")], minimum=1.0).outcome is INCONCLUSIVE
    assert judge_agreement([ok("a")], [ok("a"), ok("a", DOG)], minimum=1.0).outcome is FAIL
    assert judge_agreement([ok("a")], [replace(bad("a"), body=CAT)], minimum=1.0).outcome is FAIL


@given(samples, samples)
def test_each_request_is_compared_once(default: list[Sample], candidate: list[Sample]) -> None:
    """In the order of the candidate's; of the same samples, nothing differs."""
    compared = compare(default, candidate)
    assert [one.request for one in compared] == list(dict.fromkeys(sample.request for sample in candidate))
    good = [sample for sample in candidate if sample.ok]
    assert all(one.agrees is not False for one in compare(good, good))


# -- latency ------------------------------------------------------------------------------------


def outcomes(default: Sequence[Sample] | None, candidate: Sequence[Sample], **options: Any) -> list[Outcome]:
    return [one.outcome for one in judge_latency(default, candidate, **{"max_slowdown": 1.5, **options})]


def test_three_times_slower_fails() -> None:
    """In the median and in the tail; the text has both figures and the limit."""
    p50, p99 = judge_latency(around(0.010, 100, 1), around(0.030, 100, 2), max_slowdown=1.5)
    assert (p50.outcome, p99.outcome) == (FAIL, FAIL)
    assert "against 10." in p50.text
    assert "at most 15." in p50.text
    assert "100 of 100 answers took longer than" in p99.text


def test_as_fast_passes() -> None:
    """And so does faster, and slower within the limit."""
    for ratio in (0.3, 1.0, 1.2):
        assert outcomes(around(0.010, 100, 1), around(0.010 * ratio, 100, 2)) == [PASS, PASS]


def test_noise_larger_than_the_difference_is_inconclusive() -> None:
    """Two medians about as far apart as allowed, within a spread that hides on which side of it."""
    p50, _ = judge_latency(around(0.010, 30, 1, 0.8), around(0.0145, 30, 2, 0.8), max_slowdown=1.5)
    assert (p50.outcome, "noise hides" in p50.text) == (INCONCLUSIVE, True)


def test_a_slow_tail_fails_with_the_median_as_it_was() -> None:
    """One in ten answers takes five times as long."""
    slow = around(0.010, 300, 2, outliers=0.1)
    assert outcomes(around(0.010, 300, 1), slow) == [PASS, FAIL]


@pytest.mark.parametrize(
    ("count", "slower", "chance", "few", "outcome"),
    [
        (20, 6, 0.0101, 0.99997, INCONCLUSIVE),
        (20, 7, 0.0042, 1.0, FAIL),
        (58, 0, 1.0, 0.0510, INCONCLUSIVE),
        (59, 0, 1.0, 0.0485, PASS),
        (100, 1, 0.7513, 0.0371, PASS),
        (100, 2, 0.5, 0.1183, INCONCLUSIVE),
        (100, 8, 0.0174, 0.9369, INCONCLUSIVE),
        (100, 9, 0.0092, 0.9718, FAIL),
    ],
)
def test_how_many_slow_answers_are_more_than_chance(
    count: int, slower: int, chance: float, few: float, outcome: Outcome
) -> None:
    """The share of shuffles of equally many of both in which that many come after the default's p99; and
    how often there would be so few where one answer in twenty is slow. Neither: nothing is said.
    """
    default = timed([0.01] * count)
    _, p99 = judge_latency(default, timed([0.01] * (count - slower) + [0.1] * slower), max_slowdown=1.5)
    assert p99.figures["p"] == pytest.approx(chance, abs=5e-5)
    assert p99.figures["p_few"] == pytest.approx(few, abs=5e-5)
    assert p99.outcome is outcome
    assert ("that hides" in p99.text) is (outcome is INCONCLUSIVE)


@pytest.mark.parametrize(("count", "share"), [(24, 0.1), (24, 0.2), (60, 0.05), (60, 0.1), (100, 0.1)])
def test_a_broken_tail_is_hardly_ever_called_good(count: int, share: float) -> None:
    """Of 100 gates in which so many answers take ten times as long, not one in ten passes."""
    good = 0
    for seed in range(100):
        default = around(0.010, count, 2 * seed)
        candidate = around(0.010, count, 2 * seed + 1, outliers=share, by=10.0)
        good += outcomes(default, candidate) == [PASS, PASS]
    assert good <= 9


def test_what_nobody_feels_is_no_slowdown() -> None:
    """1 ms and 1.6 ms are told apart only where they are asked to be."""
    default, candidate = around(0.001, 100, 1, 0.02), around(0.0016, 100, 2, 0.02)
    assert outcomes(default, candidate) == [PASS, PASS]
    assert outcomes(default, candidate, negligible_seconds=0.0) == [FAIL, FAIL]


def test_what_requests_waited_behind_others_is_not_the_versions_time() -> None:
    """The default has real traffic in its queue: that hides neither a slow candidate nor a good one."""
    default = [replace(one, seconds=one.seconds + 1.0, waited=1.0) for one in around(0.010, 100, 1)]
    assert outcomes(default, around(0.010, 100, 2)) == [PASS, PASS]
    assert outcomes(default, around(0.050, 100, 2)) == [FAIL, FAIL]


@pytest.mark.parametrize(("confidence", "expected"), [(0.5, (250, 750)), (0.75, (125, 875))])
def test_an_interval_leaves_as_much_out_at_both_ends(
    confidence: float, expected: tuple[float, float]
) -> None:
    assert interval(range(1000, 0, -1), confidence) == expected


def test_where_nothing_was_judged_nothing_is_known() -> None:
    assert Judgement(()).outcome is INCONCLUSIVE


@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 60), st.floats(0.0, 0.1))
@settings(max_examples=50)
def test_too_few_samples_are_inconclusive(before: int, after: int, failed: int, seconds: float) -> None:
    """Fewer than 20 answers of either, 59 for a tail; what failed has no latency that counts."""
    default, candidate = timed([seconds] * before), timed([seconds] * after) + [bad("a")] * failed
    p50 = INCONCLUSIVE if min(before, after) < 20 else PASS
    p99 = INCONCLUSIVE if min(before, after) < 20 or after < TAIL_SAMPLES else PASS
    assert outcomes(default, candidate) == [p50, p99]


def in_parts(samples: Sequence[Sample], share: float) -> list[Sample]:
    """The same, with first parts after a share of the time."""
    return [replace(one, first=one.seconds * share) for one in samples]


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        (0.1, 0.1, PASS),
        (0.1, 0.9, FAIL),  # as fast as a whole, and silent for nearly all of it
        (0.9, 0.1, PASS),
        (None, 0.1, PASS),
        (0.1, None, FAIL),  # it comes in parts no more
    ],
)
def test_the_first_part_and_the_last_are_judged_apart(
    before: float | None, after: float | None, first: Outcome
) -> None:
    """Each finding says which it is of; callers wait for both."""
    default, candidate = around(0.1, 100, 1), around(0.1, 100, 2)
    default = default if before is None else in_parts(default, before)
    candidate = candidate if after is None else in_parts(candidate, after)
    found = judge(default, candidate, {}, max_slowdown=1.5, min_agreement=1.0).findings
    outcomes_of = {one.what: one.outcome for one in found}
    assert [outcomes_of[what] for what in ("p50", "p99")] == [PASS, PASS]
    assert [outcomes_of[f"{what} to first part"] for what in ("p50", "p99")] == [first, first]


def test_answers_at_once_have_no_first_part() -> None:
    """Nothing is judged twice."""
    assert judge_first_part(timed([0.1] * 60), timed([0.1] * 60), max_slowdown=1.5) == ()
    assert judge_first_part(None, in_parts(timed([0.1]), 0.5), max_slowdown=1.5)[0].text.startswith("50.0 ms")


def test_a_first_version_has_nothing_to_be_compared_with() -> None:
    """Its figures are told; without any answer there are none."""
    p50, p99 = judge_latency(None, timed([0.001, 0.002, 0.1]), max_slowdown=1.5)
    assert (p50.outcome, p99.outcome) == (PASS, PASS)
    assert p50.text.startswith("2.0 ms")
    assert p99.text.startswith("100.0 ms")
    assert outcomes(None, [bad("a")]) == [INCONCLUSIVE, INCONCLUSIVE]


@given(
    st.lists(st.floats(0, 10), min_size=20, max_size=50), st.lists(st.floats(0, 10), min_size=20, max_size=50)
)
@settings(max_examples=30)
def test_slower_is_never_judged_better(before: list[float], after: list[float]) -> None:
    """Neither the order of samples nor another run changes it; slower samples do so for the worse."""
    worth = {PASS: 0, INCONCLUSIVE: 1, FAIL: 2}
    first = outcomes(timed(before), timed(after))
    assert first == outcomes(timed(before[::-1]), timed(sorted(after)))
    slower = outcomes(timed(before), timed([value * 1.5 + 0.003 for value in after]))
    assert [worth[one] for one in slower] >= [worth[one] for one in first]
    assert all(worth[one] >= worth[two] for one, two in zip(slower, first, strict=True))


def test_a_release_is_seldom_stopped_for_noise() -> None:
    """Two equal versions, of both of which 3 % of answers are slow: hardly any of 150 gates FAILs."""
    failed = 0
    for seed in range(150):
        default = around(0.010, 100, 2 * seed, outliers=0.03)
        candidate = around(0.010, 100, 2 * seed + 1, outliers=0.03)
        failed += FAIL in outcomes(default, candidate, max_slowdown=1.1)
    assert failed <= 1


# -- error rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        ((0, 1000), (0, 50), PASS),
        ((0, 1000), (5, 50), FAIL),
        ((100, 1000), (5, 50), PASS),
        ((1000, 1000), (50, 50), PASS),
        ((0, 1000), (19, 19), INCONCLUSIVE),
        ((0, 0), (0, 0), INCONCLUSIVE),
        ((0, 0), (0, 50), PASS),
        ((0, 0), (2, 50), INCONCLUSIVE),
        ((0, 0), (50, 50), FAIL),
        ((10, 100_000), (10, 100_000), PASS),
        ((10, 100_000), (40, 100_000), FAIL),
    ],
)
def test_error_rates(before: tuple[int, int], after: tuple[int, int], outcome: Outcome) -> None:
    """Significantly more errors than before, or not, or too few requests to tell."""
    assert judge_rate(before, after).outcome is outcome


@given(st.integers(20, 3000), st.integers(20, 3000), st.data())
def test_one_error_more_is_never_judged_better(before: int, after: int, data: st.DataObject) -> None:
    """And a rate that is not higher never fails."""
    usual, errors = data.draw(st.integers(0, before)), data.draw(st.integers(0, after - 1))
    first = judge_rate((usual, before), (errors, after)).outcome
    if first is FAIL:
        assert judge_rate((usual, before), (errors + 1, after)).outcome is FAIL
        assert errors / after > usual / before


# -- the formulas -------------------------------------------------------------------------------


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.data())
def test_the_binomial_head_is_that_of_counting(draws: int, share: float, data: st.DataObject) -> None:
    """By logarithms as by products."""
    most = data.draw(st.integers(0, draws))
    ways = (math.comb(draws, n) * share**n * (1 - share) ** (draws - n) for n in range(most + 1))
    assert binomial_head(most, draws=draws, share=share) == pytest.approx(math.fsum(ways), rel=1e-9)


@given(st.integers(0, 40), st.integers(0, 40), st.data())
def test_the_hypergeometric_tail_is_that_of_counting(marked: int, rest: int, data: st.DataObject) -> None:
    """By logarithms as by whole numbers."""
    total = marked + rest
    draws = data.draw(st.integers(0, total))
    least = data.draw(st.integers(0, draws))
    ways = sum(
        math.comb(marked, n) * math.comb(rest, draws - n)
        for n in range(least, min(draws, marked) + 1)
        if draws - n <= rest
    )
    found = hypergeometric_tail(least, draws=draws, marked=marked, total=total)
    assert found == pytest.approx(ways / math.comb(total, draws), rel=1e-9, abs=1e-12)


def test_the_bootstrap_draws_medians_as_resampling_does() -> None:
    """Mean and spread of medians drawn by their rank are those of medians of samples drawn one by one."""
    drawn = random.Random(7)
    values = sorted(drawn.expovariate(1.0) for _ in range(101))
    short = [one for one, _ in bootstrap_medians(values, values, resamples=4000)]
    long = [nearest_rank(sorted(drawn.choices(values, k=101)), 0.5) for _ in range(4000)]
    for confidence in (0.0, 0.5, 0.9, 0.98):
        assert interval(short, confidence) == pytest.approx(interval(long, confidence), rel=0.06)


# -- all of it ----------------------------------------------------------------------------------


def test_the_gate_is_all_of_them() -> None:
    """A good candidate passes; wrong labels alone fail it, and without golden answers it is inconclusive."""
    options: dict[str, Any] = {"max_slowdown": 1.5, "min_agreement": 1.0}
    default, candidate = around(0.010, 100, 1), around(0.010, 100, 2)
    good = judge(default, candidate, {"a": {"index": 1}}, **options)
    assert [finding.what for finding in good.findings] == [
        "errors",
        "expected answers",
        "agreement",
        "p50",
        "p99",
    ]
    assert (good.outcome, good.reasons()) == (PASS, [])
    wrong = judge(default, [replace(one, body=DOG) for one in candidate], {"a": {"index": 1}}, **options)
    assert wrong.outcome is FAIL
    assert len(wrong.reasons()) == 2
    assert judge(default, candidate, {}, **options).outcome is INCONCLUSIVE
