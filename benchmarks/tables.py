"""A report for people: tables for the terminal, and the results part of docs/performance.md.

Made from the JSON object alone. On the terminal a rate has half its range in percent beside it; the page
gives the smallest and the largest of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .machine import one_line
from .report import Report, failures

BEGIN, END = "<!-- results: written by scripts/bench -->", "<!-- results: end -->"

Found = Mapping[str, float] | None


@dataclass(frozen=True)
class Table:
    """All but the first column are numbers."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report, *, brief: bool) -> list[Table]:
    """Those for which there are figures; `brief` fits them into a terminal."""
    found = []
    if report.get("systems") or report.get("limits"):
        found.append(_serving(report, brief=brief))
    if report.get("ratios"):
        found.append(_ratios(report["ratios"]))
    if report.get("noop"):
        found.append(_noop(report["noop"], brief=brief))
    if report.get("starting"):
        found.append(_starting(report["starting"], brief=brief))
    if report.get("vgg16"):
        found.append(_vgg16(report["vgg16"]))
    if report.get("packaging"):
        rows = tuple((name, _cell(seconds, 1)) for name, seconds in report["packaging"].items())
        found.append(Table("Packing VGG-16, whose state dict has 553 MB", ("how", "seconds"), rows))
    return found


def _serving(report: Report, *, brief: bool) -> Table:
    labels = _labels(report["systems"])
    times = ("p99_ms",) if brief else ("p50_ms", "p99_ms")
    heads = ["system", "runtime", *(f"images/s, {label}" for label in labels)]
    heads += [f"{time[:3]} ms, {label}" for label in labels for time in times]
    heads += ["errors", "launch, s", "PSS, MB"]
    rows = []
    for system in report["systems"]:
        phases = [system["phases"].get(label, {}) for label in labels]
        cells = [_rate(phase.get("rps"), 1, brief=brief) for phase in phases]
        cells += [_cell(phase.get(time), 0, brief=brief) for phase in phases for time in times]
        errors = "failed" if system["failure"] else f"{system['errors']:,}"
        launch, held = _cell(system.get("launch"), 1, brief=brief), _cell(system.get("pss"), 0, brief=brief)
        rows.append((system["name"], system["runtime"], *cells, errors, launch, held))
    for limit in report["limits"]:
        rate = _rate(limit["spread"], 1, brief=brief)
        blank = [""] * (len(heads) - 3)
        rows.append(("no server", limit["runtime"], rate, *blank))
    return Table("ResNet-18, one photograph of 640 x 427", tuple(heads), tuple(rows))


def _ratios(found: Mapping[str, Any]) -> Table:
    names = [name for name in found if name != "best-peer"]
    labels = list(found[names[0]]) if names else []
    rows = [(name, *(_number(found[name].get(label), 2) for label in labels)) for name in names]
    if "best-peer" in found:
        rows.append(("best-peer", *(found["best-peer"].get(label, "") for label in labels)))
    return Table("Ratios of the images/s", ("ours/theirs", *labels), tuple(rows))


def _noop(systems: Sequence[Mapping[str, Any]], *, brief: bool) -> Table:
    labels = _labels(systems)
    heads = ["server", *(f"{what}, {label}" for label in labels for what in ("req/s", "p99 ms", "errors"))]
    rows = []
    for system in systems:
        row = [system["name"]]
        for label in labels:
            phase = system["phases"].get(label, {})
            errors = f"{phase['errors']:,}" if phase else "-"
            rate = _rate(phase.get("rps"), 0, brief=brief)
            row += [rate, _cell(phase.get("p99_ms"), 1, brief=brief), errors]
        rows.append(tuple(row))
    return Table("A model that does nothing", tuple(heads), tuple(rows))


def _starting(found: Sequence[Mapping[str, Any]], *, brief: bool) -> Table:
    heads = ("archive", "register to READY, s", "scale 1 to 2, s", "worker's PSS, MB", "worker's RSS, MB")
    digits = {"ready_s": 2, "scale_s": 2, "worker_pss_mb": 0, "worker_rss_mb": 0}
    rows = tuple(
        (one["name"], *(_cell(one[key], places, brief=brief) for key, places in digits.items()))
        for one in found
    )
    return Table("Starting a worker", heads, rows)


def _vgg16(found: Sequence[Mapping[str, Any]]) -> Table:
    counts = list(found[0]["pss_mb"])
    rows = tuple((one["name"], *(_number(one["pss_mb"].get(n), 0) for n in counts)) for one in found)
    heads = ("server", *(f"{n} worker{'' if n == '1' else 's'}, MB" for n in counts))
    return Table("PSS of the whole server with VGG-16", heads, rows)


def _labels(systems: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(next((system["phases"] for system in systems if system["phases"]), {}))


def _cell(found: Found, digits: int, *, brief: bool = False) -> str:
    """The median with the smallest and the largest, or alone."""
    if found is None:
        return "-"
    text = f"{found['median']:,.{digits}f}"
    if brief or found["min"] == found["max"]:
        return text
    return f"{text} ({found['min']:,.{digits}f} to {found['max']:,.{digits}f})"


def _rate(found: Found, digits: int, *, brief: bool) -> str:
    """As `_cell`; where it is brief with half the range in percent."""
    text = _cell(found, digits, brief=brief)
    if not brief or found is None or found["min"] == found["max"]:
        return text
    return f"{text} ±{(found['max'] - found['min']) / 2 / found['median']:.0%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def markdown(report: Report) -> str:
    """The results part of docs/performance.md."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"`{report['command']}`, {report['date']}, commit {report['commit']}; medians of {report['rounds']}",
        "rounds, with the smallest and the largest in brackets.",
        "",
        f"- Machine: {one_line(report['machine'])}",
        f"- Versions: {versions}",
        f"- Weights: {report['weights']}",
    ]
    for table in tables(report, brief=False):
        rule = "|---|" + "---:|" * (len(table.heads) - 1)
        lines += ["", f"### {table.title}", "", f"| {' | '.join(table.heads)} |", rule]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    problems = failures(report)
    if problems:
        lines += ["", "### What failed", "", *(f"- {problem.splitlines()[0]}" for problem in problems)]
    return "\n".join(lines) + "\n"


def into_page(page: str, results: str) -> str:
    """A page with its results replaced; they are put at its end where it has none."""
    part = f"{BEGIN}\n\n{results}\n{END}\n"
    before, found, rest = page.partition(BEGIN)
    if not found:
        return f"{page.rstrip()}\n\n{part}"
    return before + part + rest.partition(END)[2].removeprefix("\n")
