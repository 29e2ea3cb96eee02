"""Draw plain SVG: a timeline's bars, distributions of latencies, and points of two figures.

Drawings are 480 units wide, so that 12-unit text stays readable on a phone at two thirds. Colours are classes
for the page's style sheet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..measure.statistics import nearest_rank

_WIDTH = 480
_ROW = 20  # height of a timeline's row
_NAMES, _BARS = 150, 265  # widths of the names and of the bars
_LETTERS = 23  # letters of 12 units that fit in front of the bars
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 464, 10, 210  # edges of the plot's area
_POINTS = 400  # of a curve: more would not be visible
_WIDE = 8  # from this ratio on, the scale is logarithmic


@dataclass(frozen=True)
class Bar:
    """One step: `start` and `seconds` in s, `tone` a colour, `title` the tooltip."""

    name: str
    start: float
    seconds: float
    tone: str
    title: str = ""


@dataclass(frozen=True)
class Curve:
    """The latencies of one version, in s; `tone` is its colour."""

    name: str
    seconds: Sequence[float]
    tone: str


@dataclass(frozen=True)
class Point:
    """One pair of figures; `name` stands beside it, `title` is its tooltip, `ring` is a tone."""

    x: float
    y: float
    tone: str
    title: str
    name: str = ""
    ring: str = ""


def timeline(bars: Sequence[Bar], until: float) -> str:
    """Draw one row for each bar, from 0 to `until`, in s."""
    whole = until or 1.0
    lines = []
    for row, bar in enumerate(bars):
        name = bar.name if len(bar.name) <= _LETTERS else f"{bar.name[: _LETTERS - 1]}…"
        x, width = _NAMES + bar.start / whole * _BARS, max(2.0, bar.seconds / whole * _BARS)
        lines.append(
            f"<g><title>{escape(bar.title or bar.name)}</title>"
            f'<text x="0" y="{row * _ROW + 14}">{escape(name)}</text>'
            f'<rect class="{escape(bar.tone)}" x="{x:.1f}" y="{row * _ROW + 4}" width="{width:.1f}" '
            f'height="{_ROW - 8}" rx="2"/>'
            f'<text class="end" x="{_WIDTH}" y="{row * _ROW + 14}">{duration(bar.seconds)}</text></g>'
        )
    return _svg(len(bars) * _ROW + 4, "How long each step took", "".join(lines))


def latencies(curves: Sequence[Curve]) -> str:
    """Draw empirical distribution functions: the share of responses that took at most so many ms.

    Circles mark p50 and p99. The slowest 1 % may lie beyond the right edge; they would squeeze the rest.
    """
    drawn = [(curve, sorted(curve.seconds)) for curve in curves if curve.seconds]
    if not drawn:
        return ""
    least = 1e3 * min(ordered[0] for _, ordered in drawn)
    most = 1e3 * max(nearest_rank(ordered, 0.99) for _, ordered in drawn)
    across = _Scale.linear(least if least > 0.5 * most else 0.0, most, _LEFT, _RIGHT)
    up = _Scale((0.0, 0.25, 0.5, 0.75, 1.0), _BOTTOM, _TOP)

    def at(seconds: float, share: float) -> tuple[float, float]:
        return min(across.end, across.at(1e3 * seconds)), up.at(share)

    parts = [_axes(across, up, "latency, ms", "answers", [f"{share:.0%}" for share in up.ticks])]
    for curve, ordered in drawn:
        path = [f"M{_LEFT:.1f},{_BOTTOM:.1f}"]
        for number in _chosen(len(ordered)):
            x, y = at(ordered[number], (number + 1) / len(ordered))
            path.append(f"H{x:.1f}V{y:.1f}")
        path.append(f"H{_RIGHT}" if 1e3 * ordered[-1] <= across.ticks[-1] else "")
        parts.append(f'<path class="{escape(curve.tone)}" d="{"".join(path)}"/>')
        for share in (0.5, 0.99):
            value = nearest_rank(ordered, share)
            title = f"{curve.name}: p{share * 100:.0f} {1e3 * value:.1f} ms"
            parts.append(_circle(*at(value, share), curve.tone, title))
    return _svg(_BOTTOM + 40, "Distribution of latencies", "".join(parts))


def bars(names: Sequence[str], before: Sequence[float], now: Sequence[float]) -> str:
    """Draw two shares beside each other for each name: horizontal bars, with percentages."""
    most = max((*before, *now), default=0.0) or 1.0
    lines = []
    for row, (name, *shares) in enumerate(zip(names, before, now, strict=True)):
        short = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        top = row * 2 * _ROW
        lines.append(f'<text x="0" y="{top + _ROW + 4}">{escape(short)}</text>')
        for place, (share, tone) in enumerate(zip(shares, ("old", "new"), strict=True)):
            y, width = top + 4 + place * (_ROW - 4), max(1.0, share / most * _BARS)
            lines.append(
                f'<rect class="{tone}" x="{_NAMES}" y="{y}" width="{width:.1f}" height="{_ROW - 7}" rx="2"/>'
                f'<text class="end" x="{_WIDTH}" y="{y + 11}">{share:.1%}</text>'
            )
    return _svg(len(names) * 2 * _ROW + 4, "Shares before and now", "".join(lines))


def scatter(
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    line: Sequence[Point] = (),
    limit: float | None = None,
) -> str:
    """Draw points, a line through some of them, and a dashed horizontal line at the `limit` of y.

    The y scale is logarithmic if the values span a factor above 8.
    """
    if not points:
        return ""
    ys = [point.y for point in (*points, *line)] + ([] if limit is None else [limit])
    xs = [point.x for point in (*points, *line)]
    across = _Scale.linear(0.0 if min(xs) < 0.5 * max(xs) else min(xs), max(xs), _LEFT, _RIGHT)
    is_wide = min(ys) > 0 and max(ys) > _WIDE * min(ys)
    up = (_Scale.logarithmic if is_wide else _Scale.linear)(
        min(ys) if is_wide else 0.0, max(ys), _BOTTOM, _TOP
    )
    parts = [_axes(across, up, x_label, y_label, [f"{tick:g}" for tick in up.ticks])]
    if limit is not None:
        y = up.at(limit)
        parts.append(f'<path class="bad dashed" d="M{_LEFT},{y:.1f}H{_RIGHT}"/>')
    if len(line) > 1:
        ordered = sorted(line, key=lambda one: one.x)
        steps = "L".join(f"{across.at(one.x):.1f},{up.at(one.y):.1f}" for one in ordered)
        parts.append(f'<path class="old" d="M{steps}"/>')
    is_above = False
    for point in sorted(points, key=lambda one: one.x):
        x, y = across.at(point.x), up.at(point.y)
        if point.ring:
            parts.append(f'<circle class="ring {escape(point.ring)}" cx="{x:.1f}" cy="{y:.1f}" r="8"/>')
        parts.append(_circle(x, y, point.tone, point.title))
        if point.name:
            # put neighbours' names on different sides, and none over the axis or the upper edge
            is_left, is_above = x > (_LEFT + _RIGHT) / 2, not is_above or y > _BOTTOM - _ROW
            is_above = is_above and y > _TOP + _ROW
            dx, dy = (-11 if is_left else 11), (-8 if is_above else 16)
            side = ' class="end"' if is_left else ""
            parts.append(f'<text{side} x="{x + dx:.1f}" y="{y + dy:.1f}">{escape(point.name)}</text>')
    return _svg(_BOTTOM + 40, f"{y_label} against {x_label}", "".join(parts))


def duration(seconds: float) -> str:
    """Return a duration, in ms below a second."""
    return f"{1e3 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


@dataclass(frozen=True)
class _Scale:
    """Maps values to positions: the first tick at `start` and the last one at `end`."""

    ticks: tuple[float, ...]
    start: float
    end: float
    is_logarithmic: bool = False

    @classmethod
    def linear(cls, low: float, high: float, start: float, end: float) -> _Scale:
        """Return a scale with about five round numbers, from at most `low` to at least `high`."""
        step = max(high - low, 1e-3) / 4
        size = 10.0 ** math.floor(math.log10(step))
        step = next(size * times for times in (1, 2, 5, 10) if size * times >= step)
        first, last = math.floor(low / step), math.ceil(high / step)
        numbers = range(first, max(last, first + 1) + 1)
        return cls(tuple(round(number * step, 9) for number in numbers), start, end)

    @classmethod
    def logarithmic(cls, low: float, high: float, start: float, end: float) -> _Scale:
        """Return a scale with 1, 2 and 5 times powers of ten; `low` is above 0."""
        sizes = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        numbers = [times * 10.0**size for size in sizes for times in (1, 2, 5)]
        first = max(number for number in numbers if number <= low)
        last = min(number for number in numbers if number >= high)
        ticks = tuple(number for number in numbers if first <= number <= last)
        return cls(ticks, start, end, is_logarithmic=True)

    def at(self, value: float) -> float:
        low, high = self.ticks[0], self.ticks[-1]
        if self.is_logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def _axes(across: _Scale, up: _Scale, x_label: str, y_label: str, y_names: Sequence[str]) -> str:
    parts = []
    for tick, name in zip(up.ticks, y_names, strict=True):
        y = up.at(tick)
        parts.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{name}</text>')
    for tick in across.ticks:
        x = across.at(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>')
        parts.append(f'<text class="middle" x="{x:.1f}" y="{_BOTTOM + 17}">{tick:g}</text>')
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text class="middle" x="{middle:.1f}" y="{_BOTTOM + 34}">{escape(x_label)}</text>')
    height = (_TOP + _BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {height:.1f})"'
    parts.append(f'<text class="middle" x="12" y="{height:.1f}" {turned}>{escape(y_label)}</text>')
    return "".join(parts)


def _circle(x: float, y: float, tone: str, title: str) -> str:
    inside = f"<title>{escape(title)}</title>"
    return f'<circle class="{escape(tone)}" cx="{x:.1f}" cy="{y:.1f}" r="4">{inside}</circle>'


def _chosen(count: int) -> list[int]:
    """Choose which of the ordered samples to draw: all of a few, evenly many of more, always the last."""
    many = min(count, _POINTS)
    return [(number + 1) * count // many - 1 for number in range(many)]


def _svg(height: int, label: str, inside: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{inside}</svg>\n'
