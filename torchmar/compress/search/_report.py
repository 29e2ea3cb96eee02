"""Report a search in words, as a table, and as a self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from ...errors import ExportError
from ...measure.price import COMPRESSED, FLOAT
from ...report.html import legend, page, table, text
from ...report.svg import Point, scatter
from ._choose import Figures, dominates, frontier
from ._points import NONE
from ._run import Searched
from ._trial import Trial

_LONGEST = 160  # characters of a reason
_SLOWEST = 2.0  # times the uncompressed model's: slower points would squeeze the rest of the plot
_NEAR = (0.35, 0.2)  # names this near, as shares of the plot's width and height, would cover each other


def columns(found: Searched) -> tuple[str, ...]:
    """Return the names of the columns; those of numbers end in `>`."""
    sizes = [f"ms, {size}>" for size in _sizes(found)]
    metric = _metric_name(found)
    return ("", "MB>", *sizes, "cost", "agreement>", *([metric] if metric else []), "in float>", "verdict")


def rows_of(found: Searched, chosen: str | None) -> list[tuple[str, ...]]:
    """Return one row for each point under `columns`: the model as it is, then in the order of measurement."""
    figures = {one.name: one for one in found.figures}
    rows = [_uncompressed(found)] if figures else []
    for trial in found.trials:
        own = figures.get(trial.name)
        blank = ["–"] * (len(columns(found)) - 2)
        cells = blank if own is None else _cells(found, trial)
        verdict = _cut(trial.problem) if own is None else _verdict(found, trial, own, chosen)
        rows.append((trial.name, *cells, verdict))
    for name in found.left:
        rows.append((name, *["–"] * (len(columns(found)) - 2), "not measured: the budget was used up"))
    return rows


def _uncompressed(found: Searched) -> tuple[str, ...]:
    measured = [one for one in found.trials if one.price is not None and one.latency is not None]
    times = [
        _three(median(one.latency[FLOAT][size]["p50_ms"] for one in measured if one.latency))
        for size in _sizes(found)
    ]
    price = measured[0].price or {}
    metric = [_mean(price["metric"]["values"][FLOAT])] if _metric_name(found) else []
    on_edge = any(one.name == NONE for one in frontier(found.figures))
    verdict = "the model as it is" + (", frontier" if on_edge else "")
    return (NONE, _megabytes(price["bytes"][FLOAT]), *times, "0", "1", *metric, "–", verdict)


def _cells(found: Searched, trial: Trial) -> list[str]:
    price, latency = trial.price, trial.latency
    assert price is not None
    assert latency is not None
    times = [
        f"{_three(latency[COMPRESSED][size]['p50_ms'])} ({_three(latency[FLOAT][size]['p50_ms'])})"
        for size in _sizes(found)
    ]
    metric = price.get("metric")
    shown = ["–" if metric is None else _mean(metric["values"][COMPRESSED])] if _metric_name(found) else []
    cost = "–" if price["cost"] is None else _mean(price["cost"])
    left = f"{len(price['layers_in_float'])} of {price['layers']}" if price["layers"] else "–"
    size = _megabytes(price["bytes"][COMPRESSED])
    return [size, *times, cost, f"{price['agreement']:g}", *shown, left]


def _verdict(found: Searched, trial: Trial, own: Figures, chosen: str | None) -> str:
    above = next((one.name for one in found.figures if dominates(one, own)), None)
    wrong = "; ".join(trial.wrong(found.accepts).values())
    words = (
        "chosen" if trial.name == chosen else "",
        "frontier" if above is None else f"dominated by {above}",
        "slower here" if own.time > 1 else "",
        f"not accepted: {_cut(wrong)}" if wrong else "accepted",
    )
    return ", ".join(filter(None, words))


def sentence(found: Searched, chosen: str | None) -> str:
    """Return the result in one sentence; `chosen` is the point that was chosen, if any."""
    if not found.figures:
        return "nothing was measured: give a larger --budget, or see why not"
    if chosen is None:
        return "nothing that `accept` takes is faster here or smaller: leave `compress` out"
    one = next(figures for figures in found.figures if figures.name == chosen)
    before = next(figures for figures in found.figures if figures.name == NONE)
    best = found.best
    why = ", the best that `accept` takes" if best is not None and best.name == chosen else ""
    size = f"{_megabytes(before.bytes)} → {_megabytes(one.bytes)} MB"
    times = f"{one.time:.2f} of the time for a batch of {found.batch}"
    slower = ", slower here" if one.time > 1 else ""
    return f"{chosen}{why}: {size}, {times}{slower}, cost {one.error:.3g}"


# -- the page -----------------------------------------------------------------------------------


def write_report(file: Path, found: Searched, chosen: str | None, command: str) -> None:
    """Write a self-contained page; `command` is the user's command line. Raises ExportError."""
    accepts = {key: value for key, value in vars(found.accepts).items() if value is not None}
    facts = {
        "processor": found.processor,
        "accept": ", ".join(f"{key}: {value:g}" for key, value in accepts.items()),
        "command": command,
        "took": f"{found.seconds:.0f} s, {found.reused} of {len(found.trials)} points from before",
    }
    rows = [[text(cell).replace(" (", "&nbsp;(") for cell in row] for row in rows_of(found, chosen)]
    tones = ["won" if row[0] == chosen else "lost" if row[1] == "–" else "" for row in rows]
    about = "<p>In brackets is the uncompressed model's time, measured in turn. Costs and metrics have 95 % "
    about += (
        "intervals. Nothing is better than a point of the frontier in size, time and error at once.</p>\n"
    )
    content = page(
        f"{found.name} {found.version}, compressed",
        f'<p class="say">{text(sentence(found, chosen))}</p>\n',
        (
            ("Size against error", _plot(found, chosen, by_size=True)),
            ("Time against error", _plot(found, chosen, by_size=False)),
            ("All points", table(columns(found), rows, tones=tones) + about),
            ("How it was measured", table((), [(text(k), text(v)) for k, v in facts.items()])),
        ),
    )
    try:
        file.write_text(content, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"--report {file}: could not be written: {error.strerror}") from None


def _plot(found: Searched, chosen: str | None, *, by_size: bool) -> str:
    """Plot each point's error against its size or its time, with a line through the best of these two."""
    every = [one for one in found.figures if by_size or one.time <= _SLOWEST]
    if len(every) < 2:
        return ""
    flat = [replace(one, time=1.0) if by_size else replace(one, bytes=1) for one in every]
    edge = {one.name for one in frontier(flat)}
    xs = {one.name: one.bytes / 1e6 if by_size else one.time for one in every}
    named = set(_apart(every, xs, [chosen or NONE, NONE, *edge]))
    points = {one.name: _point(one, xs[one.name], chosen, one.name in named) for one in every}
    drawn = scatter(
        list(points.values()),
        x_label="MB" if by_size else f"p50 of a batch of {found.batch}, uncompressed = 1",
        y_label="cost",
        line=[points[name] for name in points if name in edge],
    )
    keys = [("dot good", "accepted"), ("dot unsure", "not accepted"), ("ring new", "chosen")]
    slow = [f"{one.name} ({one.time:.3g})" for one in found.figures if one not in every]
    beyond = f"<p>Beyond the right edge: {text(', '.join(slow))}</p>\n" if slow else ""
    return legend([*keys, ("ring old", "as it is"), ("old", "frontier of these two")]) + drawn + beyond


def _point(one: Figures, x: float, chosen: str | None, is_named: bool) -> Point:
    tone = "good" if one.accepted else "unsure"
    title = f"{one.name}: {_megabytes(one.bytes)} MB, {one.time:.2f} of the time, cost {one.error:.3g}"
    ring = "new" if one.name == chosen else "old" if one.name == NONE else ""
    return Point(x, one.error, tone, title, one.name if is_named else "", ring)


def _apart(every: Sequence[Figures], xs: Mapping[str, float], wanted: Sequence[str]) -> Iterator[str]:
    """Yield those of the wanted names that do not cover one that came before."""
    width = max(xs.values()) or 1.0
    height = max(one.error for one in every) or 1.0
    placed: list[tuple[float, float]] = []
    errors = {one.name: one.error for one in every}
    for name in dict.fromkeys(wanted):
        x, y = xs[name] / width, errors[name] / height
        if not any(abs(x - other[0]) < _NEAR[0] and abs(y - other[1]) < _NEAR[1] for other in placed):
            placed.append((x, y))
            yield name


# -- figures for people -------------------------------------------------------------------------


def _sizes(found: Searched) -> list[str]:
    """Return the sizes of batches that were measured."""
    return next((list(one.latency[FLOAT]) for one in found.trials if one.latency is not None), [])


def _metric_name(found: Searched) -> str:
    """Return the name of the task's metric; '' without one."""
    metrics = [one.price["metric"] for one in found.trials if one.price is not None and one.price["metric"]]
    return str(metrics[0]["name"]) if metrics else ""


def _mean(mean: Mapping[str, Any]) -> str:
    return f"{mean['value']:g} [{mean['low']:g}, {mean['high']:g}]"


def _megabytes(count: int) -> str:
    return _three(count / 1e6)


def _three(value: float) -> str:
    return f"{value:.3g}"


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…"
