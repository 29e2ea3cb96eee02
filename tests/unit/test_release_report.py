"""The page of a release: whole, safe whatever a model or an answer is called, and telling what it must."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchmar.measure.judge import judge
from torchmar.measure.samples import Sample
from torchmar.report.release import ReleaseReport, Step, render_html
from torchmar.report.svg import Bar, Curve, duration, latencies, timeline

VOID = {"meta"}
WORDS = re.compile(r"\S+")
TAGS = WORDS.findall(
    "html head meta title style body h1 h2 h3 p b i span div table tr th td pre details summary "
    "svg g text rect path line circle"
)
ATTRIBUTES = WORDS.findall(
    "lang charset name content http-equiv class viewbox role aria-label "
    "x y width height rx x1 x2 y1 y2 d cx cy r transform"
)


class Reader(HTMLParser):
    """Which elements a page has, whether they are balanced, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def answers(label: str, milliseconds: float, count: int = 40) -> list[Sample]:
    body = json.dumps([{"index": 1, "label": label}]).encode()
    return [Sample("cat.jpg", 200, (milliseconds + n % 7) / 1e3, body) for n in range(count)]


SAME = (answers("cat", 10), answers("cat", 10))
OTHER = (answers("cat", 10), answers("dog", 40))
EXPECTED = {"cat.jpg": {"label": "cat"}}
GOOD, BAD = (judge(*each, EXPECTED, max_slowdown=1.5, min_agreement=1.0) for each in (SAME, OTHER))


def report(**options: Any) -> ReleaseReport:
    """A release that failed on the second of two hosts."""
    values = {
        "model": "tiny",
        "candidate": "2.0",
        "default": "1.0",
        "outcome": "failed",
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": 12.3,
        "archive": "tiny-2.0.mar",
        "sha256": "ab" * 32,
        "hosts": ("one", "two"),
        "checks": (("memory", "warning", "both need 400 MB"),),
        "timeline": (Step("one", "gate", 0.5, 4.0), Step("two", "gate", 4.5, 0.004, "failed", "slower")),
        "judgements": {"one": GOOD, "two": BAD},
        "samples": {"one": SAME, "two": OTHER},
        "expected": EXPECTED,
        "errors": ("two: it did not pass\n  p50",),
    }
    return ReleaseReport(**{**values, **options})


def test_it_tells_what_became_of_a_release() -> None:
    """Each part, under its host."""
    read = Reader(render_html(report()))
    for said in (
        "tiny 1.0 → 2.0",
        "failed",
        "12.3 s",
        "ab" * 32,
        "one, two",
        "two: it did not pass\n  p50",
        "43.0 ms against 13.0 ms",
        "1.0 (default): p50 13.0 ms, p99 16.0 ms, 40 answers",
        "2.0 (candidate): p50 43.0 ms",
        "cat.jpg (two)",
        '[{"index": 1, "label": "dog"}]',
        '{"label": "cat"}',
        "4 ms",
        "both need 400 MB",
    ):
        assert said in read.text, said
    assert "cat.jpg (one)" not in read.text
    assert read.tags.count("svg") == 4
    assert read.tags.count("circle") == 8


def test_it_needs_nothing_besides_itself() -> None:
    """No address that is fetched, no script; a policy that forbids both; dark where the reader has it so."""
    text = render_html(report())
    assert not re.search(r"\b(src|href)\s*=|url\(|@import|<script|https?:", text)
    assert "default-src &#x27;none&#x27;" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_of_a_first_version_there_is_less_to_tell() -> None:
    """No default, no samples, nothing that went wrong: no empty headings."""
    empty: dict[str, Any] = {"timeline": (), "judgements": {}, "samples": {}, "checks": (), "errors": ()}
    read = Reader(render_html(report(default=None, outcome="promoted", **empty)))
    assert "h2" not in read.tags
    assert "the first version" in read.text
    failed = Sample("cat.jpg", 503, 60.0)
    alone = render_html(report(default=None, samples={"one": ((), [*answers("cat", 10), failed])}))
    assert "2.0 (candidate): p50 13.0 ms, p99 16.0 ms, 40 answers" in alone
    assert "(default)" not in alone
    assert "Answers that differ" not in alone


def test_at_most_fifty_differences_are_shown() -> None:
    """The rest is counted; failures and answers that the archive expects otherwise are among them."""
    before = [Sample(f"r{n}", 200, 0.01, b"1") for n in range(70)]
    after = [
        replace(one, body=b"2") if n else Sample("r0", 0, 0.01, error="gone") for n, one in enumerate(before)
    ]
    text = render_html(report(samples={"one": (before, after)}, expected={}))
    assert text.count("<td>r") == 50
    assert "<p>and 20 more</p>" in text
    assert "no answer: gone" in text
    same = render_html(report(samples={"one": (before, before)}, expected={"r3": {"answer": 5}}))
    assert re.findall(r"<td>(r\d+)</td>", same) == ["r3"]
    first = render_html(report(default=None, samples={"one": ((), after)}, expected={}))
    assert re.findall(r"<td>(r\d+)</td>", first) == ["r0"]


# Every kind of character, and what would be markup.
texts = st.one_of(
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        ["<script>alert(1)</script>", '"><img src=x>', "'&amp;", "</style>", "\ud800", "]]>", "\x00"]
    ),
)


@given(texts, texts, texts, texts, st.binary(max_size=30), st.none() | texts)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_it_is_given_stays_text(
    model: str, host: str, text: str, outcome: str, body: bytes, default: str | None
) -> None:
    """Only known elements and attributes, each closed; the page can be written; the names can be read."""
    before = [Sample(text, 200, 0.01, b"1"), Sample(model, 0, 0.0, error=text)]
    after = [Sample(text, 200, 0.01, body), Sample(model, 500, 0.0, body)]
    told = report(
        model=model,
        candidate=text,
        default=default,
        outcome=outcome,
        started=text,
        archive=model,
        sha256=text,
        hosts=(host,),
        checks=((model, outcome, text),),
        timeline=(Step(host, text, 0.0, 1.0, outcome, model),),
        judgements={host: judge(before, after, {text: {"answer": model}}, max_slowdown=1, min_agreement=1)},
        samples={host: (before, after), "two": (before, after)},
        expected={text: {"answer": model}},
        errors=(text,),
    )
    source = render_html(told)
    source.encode()
    read = Reader(source)
    assert read.open == []
    assert set(read.tags) <= set(TAGS)
    assert read.attributes <= set(ATTRIBUTES)
    if text.isprintable():
        assert text in read.text


def numbers(drawing: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", drawing)]


@given(
    st.lists(st.floats(0, 1e4), max_size=30),
    st.lists(st.floats(0, 1e4), max_size=30),
)
def test_every_curve_stays_within_the_plot(default: list[float], candidate: list[float]) -> None:
    """Whatever was measured: all the same, zero, or far apart. A curve rises from 0 to 100 %."""
    drawing = latencies([Curve("a", default, "old"), Curve("b", candidate, "new")])
    assert bool(drawing) == bool(default or candidate)
    assert "nan" not in drawing
    assert "inf" not in drawing
    for path in re.findall(r' d="([^"]+)"', drawing):
        assert all(0 <= number <= 480 for number in numbers(path))
        heights = [float(each) for each in re.findall(r"V(-?[\d.]+)", path)]
        assert heights == sorted(heights, reverse=True)
        assert heights[-1] == 10


@pytest.mark.parametrize(
    ("milliseconds", "first"), [([0.2, 0.5], 0.0), ([11.8, 12.0, 12.2], 11.8), ([5.0] * 99 + [900.0], 5.0)]
)
def test_the_axis_fits_what_is_drawn(milliseconds: list[float], first: float) -> None:
    """A few round numbers around the samples; a single slow answer does not squeeze the rest."""
    drawing = latencies([Curve("a", [each / 1e3 for each in milliseconds], "old")])
    ticks = [float(each) for each in re.findall(r'middle"[^>]*>([\d.]+)<', drawing)]
    assert 2 <= len(ticks) <= 8
    assert ticks[0] == first
    assert ticks[-1] <= 3 * milliseconds[0]
    assert all(number <= 464 for path in re.findall(r' d="([^"]+)"', drawing) for number in numbers(path))


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e5)), max_size=20))
def test_every_bar_stays_within_the_timeline(steps: list[tuple[float, float]]) -> None:
    """And can be seen, however short."""
    until = max((start + seconds for start, seconds in steps), default=0.0)
    drawing = timeline([Bar("x", start, seconds, "good") for start, seconds in steps], until)
    bars = re.findall(r' x="([\d.]+)" y="\d+" width="([\d.]+)"', drawing)
    assert len(bars) == len(steps)
    for x, width in bars:
        assert float(x) >= 150
        assert float(width) >= 2
        assert float(x) + float(width) <= 418


def test_durations() -> None:
    """In the unit that is read best."""
    assert [duration(each) for each in (0.0, 0.0123, 0.9994, 0.9996, 61.04)] == [
        "0 ms",
        "12 ms",
        "999 ms",
        "1.0 s",
        "61.0 s",
    ]
