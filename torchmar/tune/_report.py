"""What came of it, in words and as a page that needs nothing besides itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..errors import TuneError
from ._decide import Rounds
from ._model_yaml import lines_of
from ._plot import plot_svg
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
_CSS = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
svg { width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8885; }
td:last-child, th:last-child { text-align: left; }
tr.winner { background: #2f7fd633; } tr.lost { opacity: .65; }
.say { font-size: 1.1rem; } code { background: #8883; padding: .1rem .3rem; border-radius: .2rem; }
.wide { overflow-x: auto; }
"""


@dataclass(frozen=True)
class Context:
    """What the page tells besides the figures."""

    command: str


def rows_of(tuned: Tuned) -> list[tuple[str, ...]]:
    """One line for each candidate in the order of their measurement, under COLUMNS."""
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
    """Default and winner as they were measured in turn: rate, spread, p99, memory."""
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
    """What came of it, in one sentence."""
    if tuned.default.threads is None:
        return f"{_result(tuned)}; threads were left alone: its handler decides on them itself"
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
        said = f"the default is as good: {default.candidate}, {_about(default)}"
        if winner is None:
            return f"{said}; nothing else that keeps {limits} is faster"
        return f"{said}; {winner.candidate} has {_about(winner)}"
    assert winner is not None
    if tuned.kind == "rescued":
        why = tuned.trials[0].reason if default is None else _about(default)
        said = f"{winner.candidate} keeps {limits} with {_about(winner)}"
        return f"{said}; the default, {tuned.default}, does not: {why}"
    assert default is not None
    gain = f"{winner.rps / default.rps - 1:+.0%}" if default.rps else ""
    said = f"{winner.candidate} beats the default, {default.candidate}"
    return f"{said}: {_about(winner)} against {_about(default)}, {gain}"


def _about(rounds: Rounds) -> str:
    if rounds.failure:
        return rounds.failure
    return f"{rounds.rps:.1f} requests/s (spread {rounds.spread:.1f}), p99 {rounds.p99_ms:.0f} ms"


def _limits(tuned: Tuned) -> str:
    memory = tuned.limits.memory
    text = f"p99 ≤ {tuned.limits.p99_ms:g} ms"
    return text if memory is None else f"{text} and {memory / 1e6:.0f} MB"


def html(tuned: Tuned, context: Context) -> str:
    """One self-contained page, light or dark as its reader has it. Raises TuneError without matplotlib."""
    title = f"{tuned.name} {tuned.version}, tuned"
    svg = plot_svg(tuned.trials, tuned.limits, tuned.winner)
    classes = []
    for trial in tuned.trials:
        won = trial.candidate == tuned.winner
        classes.append("winner" if won else "lost" if trial.verdict in {"failed", "given up"} else "")
    finals = final_rows(tuned)
    lines = "" if tuned.winner is None else f"<p><code>{escape(lines_of(tuned.winner))}</code></p>"
    facts = {
        **tuned.machine,
        "archive": f"{tuned.name} {tuned.version}, contents {tuned.contents_sha256[:16]}…",
        "load": f"{tuned.settings.clients} clients in a closed loop, {tuned.settings.seconds:g} s each",
        "limits": _limits(tuned),
        "command": context.command,
        "date": tuned.at,
        "took": f"{tuned.seconds:.0f} s",
    }
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n",
            f'<h1>{escape(title)}</h1>\n<p class="say">{escape(sentence(tuned))}</p>\n{lines}\n',
            f"{svg}\n<p>Each point is one configuration, workers × threads of each; further right and lower ",
            "is better.</p>\n<h2>All configurations</h2>\n",
            _table(COLUMNS, rows_of(tuned), classes),
            "<h2>In turn</h2>\n" + _table(FINAL_COLUMNS, finals) if finals else "",
            "<h2>How it was measured</h2>\n",
            _table(("", ""), list(facts.items())),
            "</html>\n",
        )
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    head = "".join(f"<th>{escape(column.rstrip('>'))}</th>" for column in columns)
    body = ""
    for number, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        kind = f' class="{classes[number]}"' if number < len(classes) and classes[number] else ""
        body += f"<tr{kind}>{cells}</tr>\n"
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}</table></div>\n'


def write_html(path: Path, tuned: Tuned, context: Context) -> None:
    """Raises TuneError."""
    try:
        path.write_text(html(tuned, context), encoding="utf-8")
    except OSError as error:
        raise TuneError(f"--report {path}: could not be written: {error.strerror}") from None
