"""Make the page of a release: the gate's findings, latencies, differing answers, and a timeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..compare import CLOSE, Comparator
from ..golden import matches, value_in_words
from ..measure.answers import answer_in_words, compare
from ..measure.samples import Judgement, Sample
from ..measure.statistics import nearest_rank
from .html import badge, legend, page, plain, table, text, tone_of
from .svg import Bar, Curve, duration, latencies, timeline

_DIFFERENCES = 50  # shown at most
_LENGTH = 160  # characters of an answer


@dataclass(frozen=True)
class Step:
    """One step on a host. It began `start_seconds` after the release did, and took `seconds`."""

    host: str
    name: str
    start_seconds: float
    seconds: float
    outcome: str = "ok"
    text: str = ""


@dataclass(frozen=True)
class ReleaseReport:
    """The page's content. `started` is an ISO time; `seconds` is the duration of the release.

    `checks` are the plan's: name, outcome ("ok", "warning", "refused"), text. `samples` holds, by host, those
    of the default version (none without one) and of the candidate. `expected` holds the archive's golden
    answers. `judgements` are by host, too.
    """

    model: str
    candidate: str
    default: str | None
    outcome: str
    started: str
    seconds: float
    archive: str
    sha256: str
    hosts: Sequence[str] = ()
    checks: Sequence[tuple[str, str, str]] = ()
    timeline: Sequence[Step] = ()
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    samples: Mapping[str, tuple[Sequence[Sample], Sequence[Sample]]] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[str] = ()
    note: str = ""
    comparator: Comparator = CLOSE


def render_html(report: ReleaseReport) -> str:
    """Render the page."""
    change = report.candidate if report.default is None else f"{report.default} → {report.candidate}"
    took = f'<span class="soft">in {duration(report.seconds)}</span>'
    lead = f'<p class="say">{badge(report.outcome)} {took}</p>\n'
    lead += f'<p class="unsure">{text(report.note)}</p>\n' if report.note else ""
    checks = [(badge(outcome), text(name), text(found)) for name, outcome, found in report.checks]
    sections = (
        ("What went wrong", "".join(f"<pre>{text(error)}</pre>\n" for error in report.errors)),
        ("Gate", _by_host(report, {host: _findings(one) for host, one in report.judgements.items()})),
        ("Latency", _by_host(report, {host: _latency(report, host) for host in report.samples})),
        ("Answers that differ", _differences(report)),
        ("Timeline", _steps(report)),
        ("Plan", table(("outcome", "looked at", "found"), checks)),
    )
    return page(f"{report.model} {change}", lead + _facts(report), sections)


def _facts(report: ReleaseReport) -> str:
    facts = {
        "started": report.started,
        "archive": report.archive,
        "SHA-256": report.sha256,
        "hosts": ", ".join(report.hosts),
        "default before": report.default or "none: this is the first version",
    }
    return table((), [(text(name), text(value)) for name, value in facts.items() if value])


def _findings(judgement: Judgement) -> str:
    rows = [(badge(one.outcome.value), text(one.what), text(one.text)) for one in judgement.findings]
    return table(("outcome", "judged", "found"), rows)


def _latency(report: ReleaseReport, host: str) -> str:
    default, candidate = report.samples[host]
    curves = [
        Curve(plain(f"{name} ({what})"), _own(samples), tone)
        for name, what, samples, tone in (
            (report.default, "default", default, "old"),
            (report.candidate, "candidate", candidate, "new"),
        )
    ]
    drawn = [curve for curve in curves if curve.seconds]
    return legend((one.tone, _figures(one)) for one in drawn) + latencies(drawn) if drawn else ""


def _own(samples: Sequence[Sample]) -> list[float]:
    """Return the latencies that were judged."""
    own = (sample.own_seconds for sample in samples if sample.ok)
    return [seconds for seconds in own if seconds is not None]


def _figures(curve: Curve) -> str:
    ordered = sorted(curve.seconds)
    p50, p99 = (1e3 * nearest_rank(ordered, share) for share in (0.5, 0.99))
    return f"{curve.name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {len(ordered)} answers"


def _differences(report: ReleaseReport) -> str:
    rows = list(_different(report))
    more = f"<p>and {len(rows) - _DIFFERENCES} more</p>\n" if len(rows) > _DIFFERENCES else ""
    columns = ("request", f"default {report.default or ''}", f"candidate {report.candidate}", "expected")
    return table(columns, rows[:_DIFFERENCES], "answers") + more


def _different(report: ReleaseReport) -> Iterator[tuple[str, ...]]:
    """Yield requests whose answer differs from the default's or the archive's, and those that failed."""
    for host, (default, candidate) in report.samples.items():
        for one in compare(default, candidate, comparator=report.comparator):
            expected, found = report.expected.get(one.request), one.candidate
            right = expected is None or matches(expected, found.body, report.comparator)
            if one.agrees is False or not (found.ok and right):
                name = one.request if len(report.samples) == 1 else f"{one.request} ({host})"
                wanted = "–" if expected is None else value_in_words(expected, _LENGTH)
                both = (answer_in_words(sample, _LENGTH) for sample in (one.default, found))
                yield tuple(map(text, (name, *both, wanted)))


def _steps(report: ReleaseReport) -> str:
    until = max((step.start_seconds + step.seconds for step in report.timeline), default=0.0)
    drawings: dict[str, str] = {}
    for host in dict.fromkeys(step.host for step in report.timeline):
        steps = [step for step in report.timeline if step.host == host]
        rows = table(("outcome", "step", "after", "took", ""), [_cells(step) for step in steps])
        details = f"<details><summary>As a table</summary>\n{rows}</details>\n"
        drawings[host] = timeline([_bar(step) for step in steps], until) + details
    return _by_host(report, drawings)


def _bar(step: Step) -> Bar:
    title = plain(f"{step.name}: {step.outcome} {step.text}".strip())
    return Bar(plain(step.name), step.start_seconds, step.seconds, tone_of(step.outcome), title)


def _cells(step: Step) -> tuple[str, ...]:
    times = duration(step.start_seconds), duration(step.seconds)
    return badge(step.outcome), text(step.name), *times, text(step.text)


def _by_host(report: ReleaseReport, parts: Mapping[str, str]) -> str:
    """Put each part under its host, if there are several."""
    several = len(report.hosts) > 1 or len(parts) > 1
    return "".join(
        (f"<h3>{text(host)}</h3>\n" if several else "") + part for host, part in parts.items() if part
    )
