"""Two drawings in plain SVG: bars of a timeline, and how latencies are distributed.

They are 480 units wide, so that 12-unit text can be read where a phone shows them at two thirds. Colours are
classes, for the page's style sheet: good, bad, unsure, plain; old and new.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..judge import nearest_rank

_WIDTH = 480
_ROW = 20  # of a timeline
_NAMES, _BARS = 150, 265  # widths, of what stands before the bars and of the bars
_LETTERS = 23  # of 12 units that fit before the bars
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 470, 10, 210  # of the plot's area
_POINTS = 400  # of a curve: more are not seen


@dataclass(frozen=True)
class Bar:
    """One step: `start` and `seconds` in s, `tone` a colour, `title` what is told when pointed at."""

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


def timeline(bars: Sequence[Bar], until: float) -> str:
    """One line for each from 0 to `until`, in s."""
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
    """Empirical distribution functions: how much of the answers took at most so many ms.

    Circles are p50 and p99. The slowest 1 % may lie beyond the right edge: they would squeeze the rest.
    """
    drawn = [(curve, sorted(curve.seconds)) for curve in curves if curve.seconds]
    if not drawn:
        return ""
    least = 1e3 * min(ordered[0] for _, ordered in drawn)
    most = 1e3 * max(nearest_rank(ordered, 0.99) for _, ordered in drawn)
    ticks = _ticks(least if least > 0.5 * most else 0.0, most)
    low, high = ticks[0], ticks[-1]

    def at(seconds: float, share: float) -> tuple[float, float]:
        across = min(1.0, (1e3 * seconds - low) / (high - low))
        return _LEFT + across * (_RIGHT - _LEFT), _BOTTOM - share * (_BOTTOM - _TOP)

    parts = [_axes(ticks)]
    for curve, ordered in drawn:
        path = [f"M{_LEFT:.1f},{_BOTTOM:.1f}"]
        for number in _chosen(len(ordered)):
            x, y = at(ordered[number], (number + 1) / len(ordered))
            path.append(f"H{x:.1f}V{y:.1f}")
        path.append(f"H{_RIGHT}" if 1e3 * ordered[-1] <= high else "")
        parts.append(f'<path class="{escape(curve.tone)}" d="{"".join(path)}"/>')
        for share in (0.5, 0.99):
            value = nearest_rank(ordered, share)
            x, y = at(value, share)
            title = f"{curve.name}: p{share * 100:.0f} {1e3 * value:.1f} ms"
            parts.append(
                f'<circle class="{escape(curve.tone)}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
                f"<title>{escape(title)}</title></circle>"
            )
    return _svg(_BOTTOM + 40, "Distribution of latencies", "".join(parts))


def duration(seconds: float) -> str:
    """In ms where it is less than a second."""
    return f"{1e3 * seconds:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def _axes(ticks: Sequence[float]) -> str:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _BOTTOM - share * (_BOTTOM - _TOP)
        parts.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{share:.0%}</text>')
    for tick in ticks:
        x = _LEFT + (tick - ticks[0]) / (ticks[-1] - ticks[0]) * (_RIGHT - _LEFT)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_BOTTOM}" y2="{_BOTTOM + 4}"/>')
        parts.append(f'<text class="middle" x="{x:.1f}" y="{_BOTTOM + 17}">{tick:g}</text>')
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text class="middle" x="{middle:.1f}" y="{_BOTTOM + 34}">ms</text>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, five or so, from at most `low` to at least `high`."""
    step = max(high - low, 1e-3) / 4
    size = 10.0 ** math.floor(math.log10(step))
    step = next(size * times for times in (1, 2, 5, 10) if size * times >= step)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 9) for number in range(first, max(last, first + 1) + 1)]


def _chosen(count: int) -> list[int]:
    """Which of the ordered samples are drawn: all of a few, evenly many of more, always the last."""
    many = min(count, _POINTS)
    return [(number + 1) * count // many - 1 for number in range(many)]


def _svg(height: int, label: str, inside: str) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{inside}</svg>\n'
