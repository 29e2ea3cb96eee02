"""Report the result, in words and as a self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...errors import TuneError
from ...report.html import legend, page, table, text
from ...report.svg import Point, scatter
from ._decide import Rounds
from ._model_yaml import lines_of
from ._run import Tuned
from ._values import Trial, frontier

COLUMNS = (
    "workers>",
    "threads>",
    "batch>",
    "delay ms>",
    "req/s>",
    "p50 ms>",
    "p99 ms>",
    "PSS MB>",
    "verdict",
)


def rows_of(tuned: Tuned) -> list[tuple[str, ...]]:
    """Return one row for each candidate under COLUMNS, in the order of measurement."""
    edge = {trial.candidate for trial in frontier(tuned.trials)}
    return [_row(tuned, trial, on_edge=trial.candidate in edge) for trial in tuned.trials]


def _row(tuned: Tuned, trial: Trial, *, on_edge: bool) -> tuple[str, ...]:
    one = trial.candidate
    marks = [
        *(["default"] if trial.default else []),
        *(["winner"] if one == tuned.winner else []),
        *(["frontier"] if on_edge else []),
    ]
    verdict = f"{trial.verdict} ({', '.join(marks)})" if marks else trial.verdict
    return (
        str(one.workers),
        "–" if one.threads is None else str(one.threads),
        str(one.batch_size),
        str(one.max_batch_delay) if one.batch_size > 1 else "–",
        _number(trial.rps),
        _number(trial.p50_ms),
        _number(trial.p99_ms),
        "–" if trial.memory is None else f"{trial.memory / 1e6:.0f}",
        f"{verdict}: {trial.reason}" if trial.reason else verdict,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def final_rows(tuned: Tuned) -> list[tuple[str, ...]]:
    """Return rows for default and winner, measured in turn: rate, spread, p99, memory."""
    rows: list[tuple[str, ...]] = []
    for name, rounds in (("default", tuned.default_rounds), ("challenger", tuned.winner_rounds)):
        if rounds is not None and len(rounds.trials) > 1:
            rates = _number(rounds.rps), _number(rounds.spread)
            rows.append((name, str(rounds.candidate), *rates, *_rest(rounds)))
    return rows


def _rest(rounds: Rounds) -> tuple[str, str]:
    return _number(rounds.p99_ms), f"{rounds.memory / 1e6:.0f}" if rounds.memory else "–"


FINAL_COLUMNS = ("", "workers × threads", "req/s>", "spread>", "p99 ms>", "PSS MB>")


def sentence(tuned: Tuned) -> str:
    """Return the result in one sentence."""
    if tuned.default.threads is None:
        return f"{_result(tuned)}; threads are unchanged: its handler chooses them itself"
    return _result(tuned)


def _result(tuned: Tuned) -> str:
    default, winner = tuned.default_rounds, tuned.winner_rounds
    limits = _limits(tuned)
    if tuned.kind == "none":
        nearest = tuned.nearest
        if nearest is None:
            return f"no configuration could be measured: {tuned.trials[0].reason}"
        rest = f"p99 {nearest.tail:.0f} ms at {nearest.rate:.1f} requests/s"
        if nearest.memory is not None:
            rest += f" in {nearest.memory / 1e6:.0f} MB"
        return f"no configuration keeps {limits}; the nearest is {nearest.candidate}: {rest}"
    if tuned.kind == "as good":
        assert default is not None
        result = f"the default is as good: {default.candidate}, {_about(default)}"
        if winner is None:
            return f"{result}; nothing else that keeps {limits} is faster"
        return f"{result}; {winner.candidate} has {_about(winner)}"
    assert winner is not None
    if tuned.kind == "rescued":
        why = tuned.trials[0].reason if default is None else _about(default)
        result = f"{winner.candidate} keeps {limits} with {_about(winner)}"
        return f"{result};  the default, {tuned.default}, does not: {why}"
    assert default is not None
    gain = f"{winner.rps / default.rps - 1:+.0%}" if default.rps else ""
    result = f"{winner.candidate} beats the default, {default.candidate}"
    return f"{result}: {_about(winner)} against {_about(default)}, {gain}"


def _about(rounds: Rounds) -> str:
    if rounds.failure:
        return rounds.failure
    return f"{rounds.rps:.1f} requests/s (spread {rounds.spread:.1f}), p99 {rounds.p99_ms:.0f} ms"


def _limits(tuned: Tuned) -> str:
    memory = tuned.limits.memory
    text = f"p99 ≤ {tuned.limits.p99_ms:g} ms"
    return text if memory is None else f"{text} and {memory / 1e6:.0f} MB"


# -- the page -----------------------------------------------------------------------------------

_VERDICTS = {
    "ok": ("good", "keeps the limits"),
    "slow": ("unsure", "p99 above the target"),
    "memory": ("bad", "too much memory"),
    "given up": ("plain", "given up"),
}
"""A point's tone and meaning, for the verdicts that have figures."""


def render_html(tuned: Tuned, command: str) -> str:
    """Render one self-contained page; `command` is the user's command line."""
    lines = "" if tuned.winner is None else f"<p><code>{text(lines_of(tuned.winner))}</code></p>\n"
    facts = {
        **tuned.machine,
        "archive": f"{tuned.name} {tuned.version}, contents {tuned.contents_sha256[:16]}…",
        "load": f"{tuned.settings.clients} clients in a closed loop, {tuned.settings.seconds:g} s each",
        "limits": _limits(tuned),
        "command": command,
        "date": tuned.at,
        "took": f"{tuned.seconds:.0f} s",
    }
    tones = []
    for trial in tuned.trials:
        won = trial.candidate == tuned.winner
        tones.append("won" if won else "lost" if trial.verdict in {"failed", "given up"} else "")
    return page(
        f"{tuned.name} {tuned.version}, tuned",
        f'<p class="say">{text(sentence(tuned))}</p>\n{lines}{_plot(tuned)}',
        (
            ("All configurations", table(COLUMNS, _escaped(rows_of(tuned)), tones=tones)),
            ("In turn", table(FINAL_COLUMNS, _escaped(final_rows(tuned)))),
            ("How it was measured", table((), _escaped(list(facts.items())))),
        ),
    )


def _plot(tuned: Tuned) -> str:
    """Plot the rate of each configuration against its p99."""
    shown = [trial for trial in tuned.trials if trial.rps and trial.p99_ms]
    edge = frontier(shown)
    named = {trial.candidate for trial in shown if trial.default or trial in edge}
    points = {trial.candidate: _point(tuned, trial, is_named=trial.candidate in named) for trial in shown}
    keys = [(f"dot {tone}", meaning) for tone, meaning in _VERDICTS.values()]
    keys += [("ring new", "winner"), ("ring old", "default"), ("old", "frontier"), ("bad dashed", "target")]
    drawing = scatter(
        list(points.values()),
        x_label="requests per second",
        y_label="p99, ms",
        line=[points[trial.candidate] for trial in edge],
        limit=tuned.limits.p99_ms,
    )
    about = "<p>Each point is a configuration, workers × threads of each; right and low is best.</p>\n"
    return legend(keys) + drawing + about if drawing else ""


def _point(tuned: Tuned, trial: Trial, *, is_named: bool) -> Point:
    name = str(trial.candidate)
    return Point(
        trial.rate,
        trial.tail,
        _VERDICTS[trial.verdict][0],
        f"{name}: {trial.rate:.1f} requests/s, p99 {trial.tail:.0f} ms, {trial.verdict}",
        name if is_named else "",
        "new" if trial.candidate == tuned.winner else "old" if trial.default else "",
    )


def _escaped(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[text(cell) for cell in row] for row in rows]


def write_report(path: Path, tuned: Tuned, command: str) -> None:
    """Write the page. Raises TuneError if that fails."""
    try:
        path.write_text(render_html(tuned, command), encoding="utf-8")
    except OSError as error:
        raise TuneError(f"--report {path}: could not be written: {error.strerror}") from None
