"""Rate against p99, as SVG that takes its text colour from the page around it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import TuneError
from ._values import Candidate, Limits, Trial, frontier

# Readable on white and on black.
_COLOURS = {"ok": "#2f9e63", "slow": "#d9822b", "memory": "#b0609f", "given up": "#888888"}
_LABELS = {"ok": "holds", "slow": "p99 above the target", "memory": "too much memory", "given up": "given up"}
_WINNER, _DEFAULT, _TARGET = "#2f7fd6", "#888888", "#d64545"
_INK = "#0a0b0c"  # stands for the page's own colour of text


def require_matplotlib() -> None:
    """Raise TuneError where it is missing: before anything is measured."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise TuneError(
            "--report draws with matplotlib, which is missing: pip install 'torchmar[tune]'"
        ) from None


def plot_svg(trials: Sequence[Trial], limits: Limits, winner: Candidate | None) -> str:
    """The `<svg>` element. Raises TuneError without matplotlib."""
    require_matplotlib()
    buffer = io.StringIO()
    figure = draw(trials, limits, winner)
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "torchmar"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().replace(_INK, "currentColor")
    return text[text.index("<svg") :]


def save_png(path: Path, trials: Sequence[Trial], limits: Limits, winner: Candidate | None) -> None:
    """The same on white, for where there is no browser. Raises TuneError without matplotlib."""
    require_matplotlib()
    draw(trials, limits, winner).savefig(path, format="png", dpi=110)


def draw(trials: Sequence[Trial], limits: Limits, winner: Candidate | None) -> Any:
    """The figure, for any of matplotlib's formats."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    shown = [trial for trial in trials if trial.rps and trial.p99_ms]
    for verdict, colour in _COLOURS.items():
        points = [trial for trial in shown if trial.verdict == verdict]
        xs, ys = [t.rate for t in points], [t.tail for t in points]
        label = _LABELS[verdict] if points else None
        marker = "x" if verdict == "given up" else "o"
        axes.scatter(xs, ys, s=46, color=colour, marker=marker, label=label, zorder=3)
    edge = frontier(shown)
    if len(edge) > 1:
        xs, ys = [t.rate for t in edge], [t.tail for t in edge]
        axes.plot(xs, ys, color=_INK, alpha=0.45, linewidth=1.2, label="frontier", zorder=2)
    axes.axhline(limits.p99_ms, color=_TARGET, linestyle="--", linewidth=1.4, label="target", zorder=1)
    rings = [("default", _DEFAULT, next((t for t in shown if t.default), None))]
    rings.append(("winner", _WINNER, next((t for t in shown if t.candidate == winner), None)))
    for name, colour, trial in rings:
        if trial is not None:
            axes.scatter(
                trial.rate,
                trial.tail,
                s=210,
                facecolors="none",
                edgecolors=colour,
                linewidths=2.2,
                label=name,
            )
    tails = [trial.tail for trial in shown] or [limits.p99_ms]
    if max([*tails, limits.p99_ms]) > 8 * min([*tails, limits.p99_ms]):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0, top=1.15 * max([*tails, limits.p99_ms]))
    rates = [trial.rate for trial in shown] or [0.0]
    for number, trial in enumerate(_named(shown)):
        left = trial.rate > (min(rates) + max(rates)) / 2
        offset = (-10 if left else 10, 7 if number % 2 == 0 else -14)
        axes.annotate(
            str(trial.candidate),
            (trial.rate, trial.tail),
            offset,
            textcoords="offset points",
            ha="right" if left else "left",
            fontsize=8,
            color=_INK,
        )
    _style(axes)
    return figure


def _named(shown: Sequence[Trial]) -> list[Trial]:
    """Those worth a name, by rate: the frontier and the default."""
    named = {trial.candidate: trial for trial in frontier(shown)}
    named |= {trial.candidate: trial for trial in shown if trial.default}
    return sorted(named.values(), key=lambda trial: trial.rate)


def _style(axes: Any) -> None:
    axes.set_xlabel("requests per second", color=_INK)
    axes.set_ylabel("p99, ms", color=_INK)
    axes.margins(x=0.12)
    axes.tick_params(colors=_INK, which="both")
    axes.grid(visible=True, color=_INK, alpha=0.12)
    for spine in axes.spines.values():
        spine.set_color(_INK)
        spine.set_alpha(0.4)
    legend = axes.legend(
        frameon=False, fontsize=8.5, labelcolor=_INK, loc="upper left", bbox_to_anchor=(1.0, 1.0)
    )
    for handle in legend.legend_handles:
        if handle is not None and hasattr(handle, "set_sizes"):
            handle.set_sizes([46])
