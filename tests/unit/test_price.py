"""What compressing costs, by its formulas, and what of it is accepted."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchmar.mar import Accepted
from torchmar.measure.memory import peak_rss_bytes
from torchmar.measure.price import Latency, Mean, Speed, metric_in_words, shortened, shortfalls
from torchmar.measure.statistics import bootstrap_means, interval

FINE: dict[str, Any] = {
    "agreement": 0.99,
    "golden": 4,
    "golden_differing": [],
    "max_abs_error": 0.1,
    "cost": {"value": 0.05, "low": 0.04, "high": 0.06},
    "metric": {
        "name": "accuracy",
        "higher": True,
        "examples": 288,
        "values": {
            "float": {"value": 0.986, "low": 0.965, "high": 0.995},
            "compressed": {"value": 0.983, "low": 0.96, "high": 0.993},
        },
        "drop": {"value": 0.00347, "low": 0.0, "high": 0.0104},
        "p": 1.0,
    },
}
ACCEPTS = Accepted(max_abs_error=0.1, agreement=0.99, cost=0.05, metric_drop=0.01)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


# -- means --------------------------------------------------------------------------------------


def test_the_mean_distance_with_its_interval() -> None:
    """C = (1/N) Σ |f(x_i) − y_i|, and the same draws each time."""
    values = [0.0, 0.5, 1.0, 2.0]
    assert Mean.of(values) == Mean.of(values)
    assert Mean.of(values).value == 0.875
    assert Mean.of([0.3] * 20) == Mean(0.3, 0.3, 0.3)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_an_interval_holds_its_mean(values: list[float]) -> None:
    """And lies within the values."""
    found = Mean.of(values)
    assert found.low <= found.value <= found.high
    assert shortened(min(values)) <= found.low
    assert found.high <= shortened(max(values))


def test_the_bootstrap_is_the_one_of_scipy() -> None:
    """The percentile interval of a mean, up to the chance of its draws."""
    stats = pytest.importorskip("scipy.stats")
    values = [math.sin(number) ** 2 for number in range(200)]
    oracle = stats.bootstrap(
        (values,), lambda one: sum(one) / len(one), method="percentile", vectorized=False
    )
    low, high = interval(bootstrap_means(values), 0.95)
    assert low == pytest.approx(oracle.confidence_interval.low, abs=0.01)
    assert high == pytest.approx(oracle.confidence_interval.high, abs=0.01)


# -- what is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({}, None, ""),
        ({"agreement": 0.98}, "agreement", "agreement 0.98 is below 0.99"),
        ({"golden_differing": ["a"]}, "agreement", "agreement of golden requests 0.75 is below 0.99"),
        ({"golden": 0}, None, ""),
        ({"max_abs_error": 0.11}, "max_abs_error", "max_abs_error 0.11 exceeds 0.1"),
        ({"cost": {"value": 0.0501}}, "cost", "cost 0.0501 exceeds 0.05"),
        ({"cost": None}, "cost", "cost unknown exceeds 0.05"),
        ({"metric": {"drop": {"value": 0.02}}}, "metric_drop", "metric_drop 0.02 exceeds 0.01"),
        ({"metric": {"drop": {"value": -0.02}}}, None, ""),
        ({"metric": None}, "metric_drop", "metric_drop unknown exceeds 0.01"),
        ({"max_abs_error": math.nan}, "max_abs_error", "max_abs_error unknown exceeds 0.1"),
    ],
)
def test_what_costs_more_than_is_accepted(change: dict[str, Any], key: str | None, said: str) -> None:
    """Each limit by itself; what is not known is not accepted."""
    expected = {} if key is None else {key: said}
    assert shortfalls({**FINE, **change}, ACCEPTS) == expected


def test_a_silent_model_yaml_accepts_no_other_answer() -> None:
    """Errors have no limit then, as in the gate; a cost of unknown size neither."""
    assert shortfalls({**FINE, "cost": None, "agreement": 1.0}, Accepted()) == {}
    assert [*shortfalls(FINE, Accepted())] == ["agreement"]


@given(st.dictionaries(st.sampled_from([*FINE]), JSON))
def test_what_a_stranger_wrote_is_read_without_a_crash(change: dict[str, Any]) -> None:
    """A price without any of its figures is not accepted."""
    shortfalls({**FINE, **change}, ACCEPTS)
    metric_in_words({**FINE, **change})
    assert {*shortfalls({}, ACCEPTS)} == {"agreement", "max_abs_error", "cost", "metric_drop"}


def test_the_metric_in_words() -> None:
    """Both models' with their intervals, and what the paired comparison says; nothing where there is none."""
    assert metric_in_words(FINE) == (
        "accuracy 0.986 [0.965, 0.995] → 0.983 [0.96, 0.993] on 288 labelled examples, p = 1"
    )
    assert metric_in_words({"metric": None}) == metric_in_words({}) == ""


# -- speed and memory ---------------------------------------------------------------------------


def test_medians_over_rounds_outlive_a_disturbed_one() -> None:
    """Of three rounds, one of which took ten times as long."""
    rounds = [[0.001] * 98 + [0.005] * 2, [0.01] * 100, [0.002] * 100]
    assert Latency.of(rounds) == Latency(p50_ms=2.0, p99_ms=5.0)


def test_slower_is_said_for_each_batch_size() -> None:
    """With both times and the processor."""
    fast, slow = Latency(1.0, 2.0), Latency(1.5, 2.0)
    speed = Speed(
        processor="Abacus",
        threads=1,
        versions={},
        latency={"float": {"1": fast, "8": slow}, "compressed": {"1": slow, "8": fast}},
        peak_rss_mb={"float": 1.0, "compressed": 1.0},
    )
    assert speed.slower() == ["slower here: a batch of 1 takes 1.5 ms compressed, 1 ms in float, on Abacus"]


def test_the_peak_of_a_process(tmp_path: Path) -> None:
    """In bytes, of this process by the system's own account; None where there is none."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "status").write_text("Name:\tx\nVmHWM:\t    12 kB\nVmRSS:\t 3 kB\n")
    assert peak_rss_bytes(7, tmp_path) == 12 * 1024
    assert peak_rss_bytes(8, tmp_path) is None
    if Path("/proc/self/status").exists():
        assert (peak_rss_bytes() or 0) > 10_000_000
        assert peak_rss_bytes(os.getpid()) is not None
