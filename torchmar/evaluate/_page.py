"""Write the page of an evaluation, in words and drawings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..mar import Archive
from ..metrics import Score
from ..report.archive import figure, rows_of_text, write_archive_page
from ..report.html import legend, table, text
from ..report.svg import Point, scatter
from ._evaluate import Comparison, Evaluation

_MOST_CLASSES = 30  # in the table of confusion
_LENGTH = 120  # characters of an answer


def bounds(low: float, high: float) -> str:
    """Return an interval for people."""
    return f"{figure(low)} to {figure(high)}"


def score_rows(scores: Sequence[Score]) -> list[tuple[str, str, str]]:
    """Return rows of metric, value and 95 % interval."""
    return [(one.name, figure(one.value), bounds(one.low, one.high)) for one in scores]


def slice_rows(result: Evaluation, *, only_worse: bool = False) -> list[tuple[str, str, str, str]]:
    """Return rows of what examples have in common, their number, the primary metric, its interval."""
    return [
        (one.what, str(one.count), figure(one.score.value), bounds(one.score.low, one.score.high))
        for one in result.slices
        if one.is_worse or not only_worse
    ]


def sentence(comparison: Comparison) -> str:
    """Return how two archives differ, in one sentence."""
    before, now = figure(comparison.before), figure(comparison.now)
    if comparison.verdict == "same":
        return f"as good as {comparison.version}: {comparison.metric} {now} for both"
    says = {"undecided": "not shown to differ from"}.get(comparison.verdict, f"{comparison.verdict} than")
    signed = comparison.low, comparison.high
    within = bounds(*(signed if min(signed) * max(signed) < 0 else sorted(map(abs, signed))))
    apart = f"{'better' if comparison.by >= 0 else 'worse'} by {figure(abs(comparison.by))} ({within})"
    words = f"{says} {comparison.version}: {comparison.metric} {now} against {before}, {apart}"
    if comparison.gained is not None:
        words += f"; {comparison.gained} are right now and were wrong, {comparison.lost} the other way round"
    return f"{words}; p = {comparison.p:.2g}"


def write_page(file: Path, archive: Archive, data: str, result: Evaluation) -> None:
    """Write a self-contained page. Raises OSError."""
    lead = f'<p class="say">{_lead(result)}</p>\n'
    sections = (
        ("Metrics", table(("metric", "value>", "95 % interval"), rows_of_text(score_rows(result.scores)))),
        ("Against another archive", "" if result.against is None else _against(result.against)),
        ("Where it is worst", _slices(result)),
        ("Confusion", _confusion(result)),
        ("Confidence", _reliability(result)),
        ("The worst examples", _worst(result)),
        ("Requests without an answer", table(("request", "why"), rows_of_text(result.failed))),
    )
    write_archive_page(file, archive, "evaluated", lead, {"data": data}, sections)


def _lead(result: Evaluation) -> str:
    first = result.scores[0]
    words = f"{first.name} <b>{figure(first.value)}</b> ({bounds(first.low, first.high)})"
    words += f' <span class="soft">on {result.count} examples</span>'
    words += f", {len(result.failed)} were not answered" if result.failed else ""
    return words + (f'</p>\n<p class="unsure">{text(unknown_labels(result))}' if result.unknown else "")


def unknown_labels(result: Evaluation) -> str:
    """Return which labels no answer has, and what the answers' classes are called; '' without any."""
    if not result.unknown:
        return ""
    answered = [name for name in result.names if name not in result.unknown]
    return f"labels that no answer has: {_some(result.unknown)}; it answers {_some(answered)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def comparison_lead(comparison: Comparison) -> str:
    """Return the HTML of how two archives differ, and in how many answers."""
    tone = {"better": "good", "same": "good", "worse": "bad"}.get(comparison.verdict, "unsure")
    count = f"{comparison.differing} of {comparison.count} answers differ"
    return f'<p class="{tone}"><b>{text(sentence(comparison))}</b></p>\n<p>{count}</p>\n'


def _against(comparison: Comparison) -> str:
    rows = [
        (text(one.name), text(str(one.label)), text(_short(one.before)), text(_short(one.now)))
        for one in comparison.changed
    ]
    more = comparison.differing - len(rows)
    rest = f"<p>{more} more are not listed</p>\n" if more else ""
    columns = ("request", "label", f"{comparison.name} {comparison.version}", "this one")
    return comparison_lead(comparison) + rest + table(columns, rows, "answers")


def _slices(result: Evaluation) -> str:
    is_perfect = result.scores[0].value == 1.0 and not any(one.is_worse for one in result.slices)
    if is_perfect or not result.slices:
        return ""
    marks = ['<b class="bad">worse</b>' if one.is_worse else "" for one in result.slices]
    rows = [(*map(text, row), mark) for row, mark in zip(slice_rows(result), marks, strict=True)]
    together = "<p>Marked is what is worse than the rest beyond chance, of all slices together.</p>\n"
    columns = ("examples", "count>", f"{result.slices[0].score.name}>", "95 % interval", "")
    return together + table(columns, rows)


def _confusion(result: Evaluation) -> str:
    """Draw the table of classes; the deeper a cell, the more of its row."""
    names = result.names
    if not names:
        return ""
    if len(names) > _MOST_CLASSES:
        pairs = sorted(
            (
                (count, names[row], names[column])
                for row, cells in enumerate(result.confusion)
                for column, count in enumerate(cells)
                if count and row != column
            ),
            reverse=True,
        )
        rows = [(text(one), text(other), str(count)) for count, one, other in pairs[:_MOST_CLASSES]]
        return table(("label", "answered", "times>"), rows)
    shades: list[tuple[str, ...]] = []
    for name, cells in zip(names, result.confusion, strict=True):
        whole = max(1, sum(cells))
        shades.append((text(name), *(_cell(count, count / whole) for count in cells)))
    return "<p>Each row is a label, each column an answer.</p>\n" + table(
        ("", *(f"{name}>" for name in names)), shades, "heat"
    )


def _cell(count: int, share: float) -> str:
    shade = f"background: color-mix(in srgb, var(--new) {100 * share:.0f}%, transparent)"
    return f'<span style="{shade}">{count or "·"}</span>'


def _reliability(result: Evaluation) -> str:
    points = [
        Point(confidence, right, "new", f"{count} examples: {right:.0%} right at {confidence:.0%}")
        for confidence, right, count in result.reliability
    ]
    if not points:
        return ""
    even = [Point(at, at, "old", "") for at in (0.0, 1.0)]
    drawn = scatter(points, x_label="confidence", y_label="share right", line=even)
    keys = legend([("dot new", "answers of that confidence"), ("old", "as confident as it is right")])
    return keys + drawn


def _worst(result: Evaluation) -> str:
    rows = [
        (text(one.name), text(str(one.label)), text(_short(one.answer)), figure(one.figure))
        for one in result.worst
    ]
    return table(("request", "label", "answer", "figure, more is better>"), rows, "answers")


def _short(answer: Any) -> str:
    try:
        words = json.dumps(answer, ensure_ascii=False)
    except (TypeError, ValueError):
        words = repr(answer)
    return words if len(words) <= _LENGTH else f"{words[:_LENGTH]}…"
