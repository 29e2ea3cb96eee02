"""The metrics API's text, in every form that the Prometheus exposition format allows, becomes samples."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchmar.client import Sample, total
from torchmar.client._metrics import parse

# As TorchServe 0.12 writes it: a comma after the last label.
TORCHSERVE = """\
# HELP ts_inference_requests_total Torchserve prometheus counter metric with unit: Count
# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="tiny",model_version="default",hostname="9f3c",} 3.0
# HELP QueueTime Torchserve prometheus gauge metric with unit: Milliseconds
# TYPE QueueTime gauge
QueueTime{Level="Host",Hostname="9f3c",} 0.0
# HELP stage_seconds Torchserve prometheus histogram metric with unit: Seconds
# TYPE stage_seconds histogram
stage_seconds_bucket{stage="decode",le="0.005",} 2.0
stage_seconds_bucket{stage="decode",le="+Inf",} 3.0
stage_seconds_count{stage="decode",} 3.0
stage_seconds_sum{stage="decode",} 1.2E-2
"""


def test_what_torchserve_writes() -> None:
    """Its labels end in a comma, its numbers are Java's; the order stays."""
    tiny = {"model_name": "tiny", "model_version": "default", "hostname": "9f3c"}
    assert parse(TORCHSERVE) == [
        Sample("ts_inference_requests_total", tiny, 3.0),
        Sample("QueueTime", {"Level": "Host", "Hostname": "9f3c"}, 0.0),
        Sample("stage_seconds_bucket", {"stage": "decode", "le": "0.005"}, 2.0),
        Sample("stage_seconds_bucket", {"stage": "decode", "le": "+Inf"}, 3.0),
        Sample("stage_seconds_count", {"stage": "decode"}, 3.0),
        Sample("stage_seconds_sum", {"stage": "decode"}, 0.012),
    ]


def test_a_total_is_of_the_values_with_these_labels() -> None:
    """Whatever their other labels say; of another name, or of other labels, is none of it."""
    samples = [
        Sample("asked", {"model": "a", "version": "1"}, 1.0),
        Sample("asked", {"model": "a", "version": "2"}, 2.0),
        Sample("asked", {"model": "b", "version": "1"}, 4.0),
        Sample("answered", {"model": "a", "version": "1"}, 8.0),
    ]
    assert total(samples, "asked") == 7.0
    assert total(samples, "asked", {"model": "a"}) == 3.0
    assert total(samples, "asked", {"model": "a", "version": "2"}) == 2.0
    assert total(samples, "asked", {"model": "c"}) == 0


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("up 1", Sample("up", {}, 1.0)),
        ("up{} 1", Sample("up", {}, 1.0)),
        ("job:up:sum 1", Sample("job:up:sum", {}, 1.0)),
        ("  up   1  ", Sample("up", {}, 1.0)),
        ("up\t1", Sample("up", {}, 1.0)),
        ("up 1 1795465667000", Sample("up", {}, 1.0)),
        ("up 1 -1", Sample("up", {}, 1.0)),
        ("up 1\r", Sample("up", {}, 1.0)),
        ("x -1.5e-3", Sample("x", {}, -0.0015)),
        ("x +Inf", Sample("x", {}, math.inf)),
        ("x -Inf", Sample("x", {}, -math.inf)),
        ('x{a="b"} 1', Sample("x", {"a": "b"}, 1.0)),
        ('x{a="b",} 1', Sample("x", {"a": "b"}, 1.0)),
        ('x{ a="b" , c="d" , } 1', Sample("x", {"a": "b", "c": "d"}, 1.0)),
        ('x{a=""} 1', Sample("x", {"a": ""}, 1.0)),
        (r'x{a="C:\\n\"q\"\n"} 1', Sample("x", {"a": 'C:\\n"q"\n'}, 1.0)),
        ('x{a="} 5",b="{"} 1', Sample("x", {"a": "} 5", "b": "{"}, 1.0)),
        ('x{a="b=\\"c\\",d=\\"e\\""} 1', Sample("x", {"a": 'b="c",d="e"'}, 1.0)),
        ('x{a="# no comment"} 1', Sample("x", {"a": "# no comment"}, 1.0)),
        ('x{a="größe \u2028"} 1', Sample("x", {"a": "größe \u2028"}, 1.0)),
    ],
)
def test_one_sample(line: str, sample: Sample) -> None:
    assert parse(line) == [sample]


def test_not_a_number_is_a_value() -> None:
    [sample] = parse("x NaN")
    assert math.isnan(sample.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "# HELP up whether it is up",
        "# up 1",
        "#up 1",
        "up",
        "up one",
        "1up 1",
        '{a="b"} 1',
        'up{a="b" 1',
        "up 1 2 3",
        "<html>502 Bad Gateway</html>",
    ],
)
def test_what_is_no_sample_is_left_out(text: str) -> None:
    assert parse(text) == []


def test_a_line_that_cannot_be_read_costs_no_other() -> None:
    assert [sample.name for sample in parse("a 1\nbroken\nb 2\n")] == ["a", "b"]


# -- what any client library writes is read back -------------------------------------------------

NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True)
LABELS = st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True), st.text(), max_size=3)
SAMPLES = st.builds(Sample, NAMES, LABELS, st.floats(allow_nan=False))


def exposition(samples: list[Sample], *, trailing_comma: bool) -> str:
    """The text that prometheus_client writes for these; with a comma at the end, TorchServe's."""
    lines = []
    for sample in samples:
        escaped = {
            name: value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
            for name, value in sample.labels.items()
        }
        labels = ",".join(f'{name}="{value}"' for name, value in escaped.items())
        labels += "," if labels and trailing_comma else ""
        value = {math.inf: "+Inf", -math.inf: "-Inf"}.get(sample.value, repr(sample.value))
        lines += [f"# TYPE {sample.name} gauge", f"{sample.name}{{{labels}}} {value}" if labels else ""]
        lines += [] if labels else [f"{sample.name} {value}"]
    return "\n".join(lines) + "\n"


@settings(max_examples=150)
@given(samples=st.lists(SAMPLES, max_size=4), trailing_comma=st.booleans())
def test_what_is_written_is_read_back(samples: list[Sample], trailing_comma: bool) -> None:
    assert parse(exposition(samples, trailing_comma=trailing_comma)) == samples


@settings(max_examples=100)
@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    """As of something else on that port."""
    assert all(isinstance(sample, Sample) for sample in parse(text))
