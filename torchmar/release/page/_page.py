"""The page: what it tells, in which order, as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ...compare import CLOSE, Comparator
from ...golden import matches
from ..judge import Judgement, Sample, compare, nearest_rank, told, told_json
from ._style import CSS
from ._svg import Bar, Curve, duration, latencies, timeline

_DIFFERENCES = 50  # that are shown
_LENGTH = 160  # characters of an answer
_TONES = {
    **dict.fromkeys(("pass", "ok", "promoted", "retired", "reconciled"), "good"),
    **dict.fromkeys(("fail", "failed", "interrupted", "refused", "undone", "rolled back"), "bad"),
    **dict.fromkeys(("inconclusive", "warning"), "unsure"),
}
# Nothing may be fetched, nor run, even if something of a name or an answer went unescaped.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Step:
    """What was done on a host; `start_seconds` after the release began, and how many it took."""

    host: str
    name: str
    start_seconds: float
    seconds: float
    outcome: str = "ok"
    text: str = ""


@dataclass(frozen=True)
class Story:
    """All that the page tells. `started` is an ISO time; `seconds` is how long the release took.

    `checks` are the plan's: name, outcome ("ok", "warning", "refused"), text. `samples` are, by host, the
    default's (none where there was no default) and the candidate's; `expected` the archive's golden answers.
    `judgements` are by host, too.
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


def page(story: Story) -> str:
    """One self-contained page, light or dark as its reader has it."""
    change = story.candidate if story.default is None else f"{story.default} → {story.candidate}"
    title = f"{story.model} {change}"
    sections = (
        ("What went wrong", "".join(f"<pre>{_text(error)}</pre>\n" for error in story.errors)),
        ("Gate", _by_host(story, {host: _findings(one) for host, one in story.judgements.items()})),
        ("Latency", _by_host(story, {host: _latency(story, host) for host in story.samples})),
        ("Answers that differ", _differences(story)),
        ("Timeline", _timeline(story)),
        ("Plan", _table(("outcome", "looked at", "found"), [_checked(*check) for check in story.checks])),
    )
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{_text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n",
            f'<h1>{_text(title)}</h1>\n<p class="say">{_badge(story.outcome)}',
            f' <span class="soft">in {duration(story.seconds)}</span></p>\n',
            f'<p class="unsure">{_text(story.note)}</p>\n' if story.note else "",
            _facts(story),
            *(f"<h2>{heading}</h2>\n{inside}" for heading, inside in sections if inside),
            "</body>\n</html>\n",
        )
    )


def _facts(story: Story) -> str:
    facts = {
        "started": story.started,
        "archive": story.archive,
        "SHA-256": story.sha256,
        "hosts": ", ".join(story.hosts),
        "default before": story.default or "none: this is the first version",
    }
    return _table((), [(_text(name), _text(value)) for name, value in facts.items() if value])


def _checked(name: str, outcome: str, text: str) -> tuple[str, ...]:
    return _badge(outcome), _text(name), _text(text)


def _findings(judgement: Judgement) -> str:
    rows = [(_badge(one.outcome.value), _text(one.what), _text(one.text)) for one in judgement.findings]
    return _table(("outcome", "judged", "found"), rows)


def _latency(story: Story, host: str) -> str:
    default, candidate = story.samples[host]
    curves = [
        Curve(_plain(f"{name} ({what})"), _own(samples), tone)
        for name, what, samples, tone in (
            (story.default, "default", default, "old"),
            (story.candidate, "candidate", candidate, "new"),
        )
    ]
    drawn = [curve for curve in curves if curve.seconds]
    legend = "".join(f'<span><i class="key {one.tone}"></i>{_text(_figures(one))}</span> ' for one in drawn)
    return f'<p class="legend">{legend}</p>\n{latencies(drawn)}' if drawn else ""


def _own(samples: Sequence[Sample]) -> list[float]:
    """As they were judged."""
    own = (sample.own_seconds for sample in samples if sample.ok)
    return [seconds for seconds in own if seconds is not None]


def _figures(curve: Curve) -> str:
    ordered = sorted(curve.seconds)
    p50, p99 = (1e3 * nearest_rank(ordered, share) for share in (0.5, 0.99))
    return f"{curve.name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {len(ordered)} answers"


def _differences(story: Story) -> str:
    rows = list(_different(story))
    more = f"<p>and {len(rows) - _DIFFERENCES} more</p>\n" if len(rows) > _DIFFERENCES else ""
    columns = ("request", f"default {story.default or ''}", f"candidate {story.candidate}", "expected")
    return _table(columns, rows[:_DIFFERENCES], "answers") + more


def _different(story: Story) -> Iterator[tuple[str, ...]]:
    """Those that the default or the archive would have otherwise, and those that failed."""
    for host, (default, candidate) in story.samples.items():
        for one in compare(default, candidate, comparator=story.comparator):
            expected, found = story.expected.get(one.request), one.candidate
            right = expected is None or matches(expected, found.body, story.comparator)
            if one.agrees is False or not (found.ok and right):
                name = one.request if len(story.samples) == 1 else f"{one.request} ({host})"
                wanted = "–" if expected is None else told_json(expected, _LENGTH)
                yield _text(name), *map(_text, (told(one.default, _LENGTH), told(found, _LENGTH), wanted))


def _timeline(story: Story) -> str:
    until = max((step.start_seconds + step.seconds for step in story.timeline), default=0.0)
    drawings: dict[str, str] = {}
    for host in dict.fromkeys(step.host for step in story.timeline):
        steps = [step for step in story.timeline if step.host == host]
        table = _table(("outcome", "step", "after", "took", ""), [_cells(step) for step in steps])
        details = f"<details><summary>As a table</summary>\n{table}</details>\n"
        drawings[host] = timeline([_bar(step) for step in steps], until) + details
    return _by_host(story, drawings)


def _bar(step: Step) -> Bar:
    title = _plain(f"{step.name}: {step.outcome} {step.text}".strip())
    return Bar(_plain(step.name), step.start_seconds, step.seconds, _tone(step.outcome), title)


def _cells(step: Step) -> tuple[str, ...]:
    times = duration(step.start_seconds), duration(step.seconds)
    return _badge(step.outcome), _text(step.name), *times, _text(step.text)


def _by_host(story: Story, parts: Mapping[str, str]) -> str:
    """Each under its host, where there are several."""
    several = len(story.hosts) > 1 or len(parts) > 1
    return "".join(
        (f"<h3>{_text(host)}</h3>\n" if several else "") + part for host, part in parts.items() if part
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Of cells that are HTML; '' of no rows."""
    if not rows:
        return ""
    head = "<tr>" + "".join(f"<th>{_text(column)}</th>" for column in columns) + "</tr>\n" if columns else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table class="{kind}">\n{head}{body}</table></div>\n'


def _badge(outcome: str) -> str:
    return f'<b class="{_tone(outcome)}">{_text(outcome)}</b>'


def _tone(outcome: str) -> str:
    return _TONES.get(outcome, "plain")


def _text(value: str) -> str:
    return escape(_plain(value))


def _plain(value: str) -> str:
    """Without what is no character of HTML: control characters, halves of UTF-16 pairs."""
    return "".join(each if each.isprintable() or each == "\n" else " " for each in value)
