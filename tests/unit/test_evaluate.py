"""Evaluation: each metric is what its definition says, and a difference counts only beyond chance."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.compare import CLOSE, Comparator
from torchmar.dataset import Example
from torchmar.errors import DatasetError
from torchmar.evaluate import Answer, Comparison, Evaluation, compared, judged, sentence
from torchmar.metrics._classes import classes
from torchmar.metrics._evidence import mean_of
from torchmar.metrics._numbers import numbers
from torchmar.metrics._significance import score, sign_flip_test

FIRST = Comparator.of({"kind": "first", "by": "label"})
BOXES = Comparator.of({"kind": "boxes"})


def rows(*names: str, sure: float = 0.9) -> list[dict[str, Any]]:
    """An answer of a classifier, the likeliest class first."""
    return [
        {"label": name, "index": "abcdef".index(name), "probability": sure / 2**place}
        for place, name in enumerate(names)
    ]


def examples(labels: Sequence[Any], **attributes: Sequence[Any]) -> list[Example]:
    columns = [dict(zip(attributes, row, strict=True)) for row in zip(*attributes.values(), strict=True)]
    return [
        Example(f"r{number}", b"x" * 10, label=label, attributes=columns[number] if columns else {})
        for number, label in enumerate(labels)
    ]


def judge(answers: Sequence[Any], labels: Sequence[Any], comparator: Comparator, **more: Any) -> Evaluation:
    return judged(examples(labels), [Answer(one) for one in answers], comparator, **more)


def values(result: Evaluation) -> dict[str, float]:
    return {one.name: one.value for one in result.scores}


# -- metrics ------------------------------------------------------------------------------------


def test_classes() -> None:
    """Of four, three are right."""
    found = judge([rows("a"), rows("b"), rows("b"), rows("a")], ["a", "b", "b", "b"], FIRST)
    assert found.kind == "classes"
    assert found.scores[0].name == "accuracy"
    assert values(found) == pytest.approx(
        # F1 of a: precision 1/2, recall 1; of b: precision 1, recall 2/3. Answers are 90 % sure.
        {"accuracy": 0.75, "macro F1": (2 / 3 + 0.8) / 2, "calibration error": 0.15}
    )
    assert (found.names, found.confusion) == (("a", "b"), ((1, 0), (1, 2)))
    assert [*found.reliability[0]] == pytest.approx([0.9, 0.75, 4])
    assert [(one.name, one.label) for one in found.worst] == [("r3", "b")]


def test_labels_may_be_the_numbers_of_classes() -> None:
    """Also of a class that an answer leaves out; 1.0 of a table is 1."""
    found = judge([rows("a"), rows("b"), rows("c", "b"), rows("a")], [0, 1, 1, 2], FIRST)
    assert values(found)["accuracy"] == 0.5
    assert found.names == ("a", "b", "c")


def test_a_class_that_the_answer_leaves_out_is_not_another_ones_number() -> None:
    """The ten classes 1 to 10 have the numbers 0 to 9; the right one, 5, is not among the likeliest three."""

    def answer(*names: int) -> list[dict[str, Any]]:
        return [{"label": str(name), "index": name - 1, "probability": 0.5} for name in names]

    answers = [answer(6, 7, 8)] * 9 + [answer(5, 6, 7)]
    assert values(judge(answers, ["5"] * 10, FIRST))["accuracy"] == 0.1


def test_the_name_of_a_class_wins_over_its_number() -> None:
    """As with digits, whose labels are numbers that may stand in another order."""
    answers = [[{"label": "1", "index": 0, "probability": 1.0}], [{"label": "0", "index": 1}]]
    assert values(judge(answers, [1, 0], FIRST))["accuracy"] == 1.0


def test_top_five() -> None:
    answers = [rows(*"abcde"), rows(*"bcdef")]
    assert values(judge(answers, ["e", "a"], FIRST))["top 5"] == 0.5


def test_an_answer_without_rows_is_wrong() -> None:
    found = judge([[], rows("a")], ["a", "a"], FIRST)
    assert values(found)["accuracy"] == 0.5
    assert found.names == ("(none)", "a")


def test_numbers() -> None:
    found = judge([1.0, 2.0, 5.0], [1, 2, 3], CLOSE)
    assert found.kind == "numbers"
    assert values(found) == pytest.approx({"RMSE": math.sqrt(4 / 3), "MAE": 2 / 3, "R²": -1.0})
    assert not found.scores[0].higher


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=20))
def test_macro_f1_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    from sklearn import metrics

    wanted, found = ([pair[side] for pair in pairs] for side in (0, 1))
    metric = next(
        one for one in classes([rows(name) for name in found], wanted).metrics if one.name == "macro F1"
    )
    oracle = metrics.f1_score(wanted, found, average="macro", zero_division=0.0)
    assert metric.of(np.arange(len(pairs))) == pytest.approx(oracle)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=20))
def test_errors_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    from sklearn import metrics

    found, wanted = ([pair[side] for pair in pairs] for side in (0, 1))
    rmse, mae, r2 = (one.of(np.arange(len(pairs))) for one in numbers(found, wanted).metrics)
    assert rmse == pytest.approx(metrics.root_mean_squared_error(wanted, found))
    assert mae == pytest.approx(metrics.mean_absolute_error(wanted, found))
    if np.var(wanted) > 1e-6:
        assert r2 == pytest.approx(metrics.r2_score(wanted, found))


def test_named_numbers() -> None:
    """One name takes a plain number; several take an object."""
    assert values(judge([{"price": 3.0}, {"price": 4.0}], [3, 5], CLOSE))["MAE"] == 0.5
    two = [{"x": 1.0, "y": 2.0}] * 2
    assert values(judge(two, [{"x": 1, "y": 4}] * 2, CLOSE))["MAE"] == 1.0
    with pytest.raises(DatasetError, match="give a label with the numbers x, y: found 3"):
        judge(two, [3, 3], CLOSE)


def test_texts() -> None:
    pytest.importorskip("jiwer")
    pytest.importorskip("sacrebleu")
    by_key = Comparator.of({"kind": "fields", "fields": {"text": {"kind": "text"}}})
    answers = [{"text": "a cat sat"}, {"text": "dogs run far"}]
    found = judge(answers, ["a cat sat", "dogs ran far away"], by_key)
    assert found.kind == "text"
    assert found.scores[0].name == "WER"
    assert values(found)["WER"] == pytest.approx(2 / 7)
    assert values(found)["CER"] == pytest.approx(6 / 26)
    assert values(found)["exact"] == 0.5
    assert 0 < values(found)["BLEU"] < 100


def test_nothing_was_said() -> None:
    """A label may be empty, as of silence: each word is one too many, and each letter."""
    pytest.importorskip("jiwer")
    pytest.importorskip("sacrebleu")
    found = judge(["", "two words"], ["", ""], CLOSE, metric="text")
    assert (values(found)["WER"], values(found)["CER"]) == (2.0, 9.0)


def test_a_text_that_is_json_by_accident() -> None:
    """`true` is a text as its caller sees it; rows of classes are none."""
    pytest.importorskip("jiwer")
    pytest.importorskip("sacrebleu")
    assert values(judge([True, "no"], ["true", "no"], CLOSE, metric="text"))["exact"] == 1.0
    with pytest.raises(DatasetError, match="expected a text as answer"):
        judge([rows("a")], ["a"], FIRST, metric="text")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([{"box": 5, "label": "a"}], "in each label, found"),
        ([{"box": [1, 2, 3, "x"], "label": "a"}], "in each label, found"),
        ([{"box": [1, 2, 3, 4], "label": "a", "score": None}], "expected a number as score"),
        ("a", "expected a list of boxes as label"),
    ],
)
def test_boxes_of_another_form(label: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        judge([[box("a", 0, 0, 1, 1)]], [label], BOXES)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("nan", "expected a number as label, found 'nan'"),
        (math.nan, "expected a finite number as label"),
        (True, "expected a number as label, found True"),
        ("1_000", "expected a number as label"),
    ],
)
def test_labels_that_are_no_numbers(label: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        judge([1.0, 2.0], [1, label], CLOSE)
    assert values(judge([1.0, 2.0], ["1.0", "2e0"], CLOSE))["MAE"] == 0.0


def box(label: str, *corners: float, score: float = 0.9) -> dict[str, Any]:
    return {"box": list(corners), "label": label, "score": score}


def test_boxes() -> None:
    """One box is found exactly, one in half of the overlaps that COCO asks for, one not at all."""
    pytest.importorskip("faster_coco_eval")
    exact, near = box("a", 0, 0, 100, 100), box("b", 0, 0, 100, 76)
    labels = [[box("a", 0, 0, 100, 100)], [box("b", 0, 0, 100, 100)], [box("c", 0, 0, 10, 10)]]
    found = judge([[exact], [near], []], labels, BOXES)
    assert found.kind == "boxes"
    assert values(found) == pytest.approx({"mAP": (1 + 0.6 + 0) / 3, "mAP50": 2 / 3}, abs=1e-3)
    assert [one.name for one in found.worst] == ["r2"]


def test_masks() -> None:
    def mask(*counts: int) -> dict[str, Any]:
        return {"size": [1, 8], "counts": list(counts)}

    comparator = Comparator.of({"kind": "mask"})
    found = judge([mask(0, 4, 4), mask(0, 8)], [mask(0, 8), mask(0, 8)], comparator)
    assert values(found) == {"mean IoU": 0.75}
    with pytest.raises(DatasetError, match="expected a mask of the answer's form as label"):
        judge([mask(0, 8)] * 2, ["cat", "dog"], comparator)


def test_rankings() -> None:
    """The first answer has what suits in the second place; the second answer lacks it."""
    comparator = Comparator.of({"kind": "fields", "fields": {"items": {"kind": "first", "by": "id"}}})
    answer = {"items": [{"id": 1}, {"id": 2}]}
    found = judge([answer, answer], [[2], [9]], comparator)
    assert found.kind == "ranking"
    assert values(found) == pytest.approx({"NDCG": 1 / math.log2(3) / 2, "hit rate": 0.5, "recall": 0.5})


def test_what_suits_has_a_gain() -> None:
    """An id with gain 0 is no hit; a negative gain is a mistake."""
    comparator = Comparator.of({"kind": "fields", "fields": {"items": {"kind": "first", "by": "id"}}})
    answer = {"items": [{"id": 1}, {"id": 2}]}
    assert values(judge([answer, answer], [{"1": 0, "3": 2}] * 2, comparator))["hit rate"] == 0.0
    with pytest.raises(DatasetError, match="expected gains from 0 on"):
        judge([answer], [{"1": -1}], comparator)


def test_anything_else_is_compared_as_a_whole() -> None:
    found = judge([{"a": [1]}, {"a": [2]}], [{"a": [1]}, {"a": [1]}], CLOSE)
    assert (found.kind, values(found)) == ("same", {"agreement": 0.5})


# -- intervals ----------------------------------------------------------------------------------


def test_a_share_of_all_is_not_certain() -> None:
    """Ten of ten right is no proof of 100 %: Wilson's bound is 1 / (1 + z² / n)."""
    [accuracy, *_] = judge([rows("a")] * 10, ["a"] * 10, FIRST).scores
    assert (accuracy.low, accuracy.high) == pytest.approx((1 / (1 + 1.959964**2 / 10), 1.0), abs=1e-4)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(0, 3))
def test_intervals_hold_the_value_and_repeat(figures: list[float], seed: int) -> None:
    metric = mean_of("mean", figures)
    once, again = (score(metric, range(len(figures)), resamples=100, seed=seed) for _ in range(2))
    assert once == again
    assert min(figures) - 1e-9 <= once.low <= once.high <= max(figures) + 1e-9


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    """Of 200 samples of a distribution with mean 0 about 190 do: fewer than 175 would be a fault."""
    generator = random.Random(0)
    held = 0
    for _ in range(200):
        figures = [generator.gauss(0, 1) for _ in range(50)]
        found = score(mean_of("mean", figures), range(50), resamples=200, seed=1)
        held += found.low <= 0 <= found.high
    assert 175 <= held <= 199


# -- where it is worst --------------------------------------------------------------------------


def test_a_slice_that_is_worse_is_named() -> None:
    """Only pictures of the north camera are wrong."""
    sites = ["north", "south"] * 40
    answers = [Answer(rows("b" if site == "north" else "a")) for site in sites]
    found = judged(examples(["a"] * 80, site=sites), answers, FIRST)
    assert [one.what for one in found.slices if one.is_worse] == ["site north"]


def test_numbers_have_slices_too() -> None:
    """Small houses are off; a missing size leaves one house out, and equal sizes stay together."""
    sizes = [None, *(10 * (n % 25 + 1) for n in range(199))]
    generator = random.Random(0)
    errors = [generator.gauss(0, 1) + (9 if size and size < 60 else 0) for size in sizes]
    answers = [Answer(n + error) for n, error in enumerate(errors)]
    found = judged(examples(range(200), size=sizes), answers, CLOSE)
    assert [one.what for one in found.slices if one.is_worse] == ["size 10 to 60"]


def test_slices_of_noise_are_not_worse() -> None:
    """In 20 data sets of numbers, each with 40 slices: 1 is expected at 5 %, 4 are not."""
    called = 0
    for seed in range(20):
        generator = random.Random(seed)
        columns = {f"c{k}": [generator.randrange(4) for _ in range(120)] for k in range(10)}
        answers = [Answer(n + generator.gauss(0, 1)) for n in range(120)]
        found = judged(examples(range(120), **columns), answers, CLOSE)
        called += any(one.is_worse for one in found.slices)
    assert called <= 3


def test_slices_of_chance_are_not_worse() -> None:
    """Forty slices of an attribute that means nothing."""
    answers = [Answer(rows("a" if n % 3 else "b")) for n in range(400)]
    columns = {f"c{k}": [(n * (k + 7)) % 4 for n in range(400)] for k in range(10)}
    found = judged(examples(["a"] * 400, **columns), answers, FIRST)
    assert not any(one.is_worse for one in found.slices)


# -- against another archive --------------------------------------------------------------------


def compare(before: Sequence[Any], now: Sequence[Any], labels: Sequence[Any]) -> Comparison:
    one, other = ([Answer(each) for each in side] for side in (before, now))
    return compared(examples(labels), one, other, FIRST, ("m", "1.0"))


@pytest.mark.parametrize(
    ("gained", "lost", "verdict", "p"),
    [(20, 2, "better", 0.00012), (2, 20, "worse", 0.00012), (3, 1, "undecided", 0.625), (0, 0, "same", 1.0)],
)
def test_which_of_two_is_better(gained: int, lost: int, verdict: str, p: float) -> None:
    """By McNemar's exact test and a paired bootstrap."""
    right, wrong = rows("a"), rows("b")
    before = [wrong] * gained + [right] * lost + [right] * 50
    now = [right] * gained + [wrong] * lost + [right] * 50
    found = compare(before, now, ["a"] * len(now))
    assert (found.verdict, found.gained, found.lost, found.differing) == (
        verdict,
        gained,
        lost,
        gained + lost,
    )
    assert found.p == pytest.approx(p, rel=0.05)
    assert found.by == pytest.approx((gained - lost) / len(now))


def test_less_error_is_better() -> None:
    labels = list(range(40))
    near, far = ([Answer(n + by + n % 3 / 10) for n in labels] for by in (0.1, 2.0))
    found = compared(examples(labels), far, near, CLOSE, ("m", "1.0"))
    assert (found.verdict, found.metric) == ("better", "RMSE")
    assert found.p < 0.001
    assert found.by > 0
    assert found.low > 0
    assert "better than 1.0: RMSE 0.2" in sentence(found)
    back = compared(examples(labels), near, far, CLOSE, ("m", "2.0"))
    assert re.search(r"worse than 2\.0: RMSE 2\.\d+ against 0\.2\d+, worse by 1\.\d+ \(1\.", sentence(back))


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_two_that_are_equally_good(count: int) -> None:
    """Of 100 pairs that differ by chance alone about 5 are called better or worse; 13 would be a fault."""
    generator = random.Random(count)
    called = 0
    for seed in range(100):
        one, other = ([Answer(n + generator.gauss(0, 1)) for n in range(count)] for _ in range(2))
        found = compared(examples(range(count)), one, other, CLOSE, ("m", "1.0"), seed=seed)
        called += found.verdict in {"better", "worse"}
    assert called <= 12


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8))
def test_a_permutation_test_tries_all_signs(apart: list[float]) -> None:
    """It is scipy's, where all signs can be tried."""
    from scipy.stats import permutation_test

    apart = [one for one in apart if abs(one) > 1e-3]
    if len(apart) > 1:
        oracle = permutation_test(
            (np.array(apart),), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
        )
        assert sign_flip_test(apart, seed=0) == pytest.approx(oracle.pvalue, abs=1e-9)
    else:
        assert sign_flip_test(apart, seed=0) == 1.0


def test_what_either_did_not_answer_is_left_out() -> None:
    one = [Answer(rows("a")), Answer(problem="500"), Answer(rows("a"))]
    other = [Answer(rows("a")), Answer(rows("a")), Answer(problem="500")]
    assert compared(examples(["a"] * 3), one, other, FIRST, ("m", "1")).count == 1
    with pytest.raises(DatasetError, match="no request was answered by both"):
        compared(examples(["a"] * 3)[1:], one[1:], other[1:], FIRST, ("m", "1"))


# -- what is missing ----------------------------------------------------------------------------


def test_requests_without_an_answer_are_told_apart() -> None:
    found = judged(examples(["a", "a"]), [Answer(rows("a")), Answer(problem="400: no picture")], FIRST)
    assert (found.count, found.failed) == (1, (("r1", "400: no picture"),))
    with pytest.raises(DatasetError, match="no request was answered, the first one as 400: no"):
        judged(examples(["a"]), [Answer(problem="400: no picture")], FIRST)


def test_labels_are_needed() -> None:
    with pytest.raises(DatasetError, match="give each request a label"):
        judge([rows("a")], [None], FIRST)


def test_a_label_at_fault_is_named() -> None:
    with pytest.raises(DatasetError, match="r1: expected a number as label, found 'x'"):
        judge([1.0, 2.0], [1, "x"], CLOSE)


def test_labels_that_no_answer_has_are_told() -> None:
    assert judge([rows("a"), rows("b")], ["Class a", "b"], FIRST).unknown == ("Class a",)


def test_metrics_have_names() -> None:
    with pytest.raises(DatasetError, match="--metric f1: expected one of classes, numbers"):
        judge([rows("a")], ["a"], FIRST, metric="f1")


def test_a_metric_that_does_not_suit() -> None:
    with pytest.raises(DatasetError, match='expected rows with "label" as answer, found 3'):
        judge([3, 4], ["a", "b"], CLOSE, metric="classes")
