"""Prints a report for people: tables for the terminal, and the results part of docs/performance.md.

The JSON object is the only source. On the terminal half the range stands beside a rate, in percent; the page
gives the smallest and the largest of all figures.
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
    """Holds a table; all columns but the first are numbers."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report, *, brief: bool) -> list[Table]:
    """Return the tables that have figures; `brief` ones fit into a terminal."""
    found = []
    if report.get("systems") or report.get("limits"):
        found.append(_serving(report, brief=brief))
    if report.get("ratios"):
        found.append(_ratios(report["ratios"]))
    if report.get("noop"):
        found.append(_noop(report["noop"], brief=brief))
    if report.get("settings"):
        found.append(_settings(report["settings"], brief=brief))
    if report.get("starting"):
        found.append(_starting(report["starting"], brief=brief))
    if report.get("vgg16"):
        found.append(_vgg16(report["vgg16"]))
    if report.get("packaging"):
        found.append(_packing("Packing VGG-16, whose state dict has 553 MB", report["packaging"], "cp"))
    if report.get("registering"):
        title = "Registering it without a worker"
        found.append(_packing(title, report["registering"], "archiver-zip-store.mar"))
    return found


def _serving(report: Report, *, brief: bool) -> Table:
    labels = _labels(report["systems"])
    times = ("p99_ms",) if brief else ("p50_ms", "p99_ms")
    heads = ["system", *([] if brief else ["runtime"]), *(f"images/s, {label}" for label in labels)]
    heads += [f"{time[:3]} ms, {label}" for label in labels for time in times]
    heads += ["errors", "launch, s", "PSS, MB"]
    rows = []
    for system in report["systems"]:
        phases = [system["phases"].get(label, {}) for label in labels]
        cells = [_rate(phase.get("rps"), 1, brief=brief) for phase in phases]
        cells += [_cell(phase.get(time), 0, brief=brief) for phase in phases for time in times]
        errors = "failed" if system["failure"] else f"{system['errors']:,}"
        launch, held = _cell(system.get("launch"), 1, brief=brief), _cell(system.get("pss"), 0, brief=brief)
        name = (system["name"],) if brief else (system["name"], system["runtime"])
        rows.append((*name, *cells, errors, launch, held))
    for limit in report["limits"]:
        rate = _rate(limit["spread"], 1, brief=brief)
        name = (f"limit, {limit['runtime']}",) if brief else ("limit: no server", limit["runtime"])
        rows.append((*name, rate, *[""] * (len(heads) - len(name) - 1)))
    return Table("ResNet-18, one photograph of 640 x 427", tuple(heads), tuple(rows))


def _ratios(found: Mapping[str, Any]) -> Table:
    names = [name for name in found if name != "best-peer"]
    labels = list(found[names[0]]) if names else []
    rows = [(name, *(_number(found[name].get(label), 2) for label in labels)) for name in names]
    if "best-peer" in found:
        rows.append(("best-peer", *(found["best-peer"].get(label, "") for label in labels)))
    return Table("Ratios of the images/s", ("ours/theirs", *labels), tuple(rows))


def _noop(systems: Sequence[Mapping[str, Any]], *, brief: bool) -> Table:
    rows = []
    for label in _labels(systems):
        for system in systems:
            phase = system["phases"].get(label)
            if phase is None:
                rows.append((f"{system['name']}, {label}", "-", "-", "failed"))
                continue
            rate, slowest = _rate(phase["rps"], 0, brief=brief), _cell(phase["p99_ms"], 1, brief=brief)
            rows.append((f"{system['name']}, {label}", rate, slowest, f"{phase['errors']:,}"))
    return Table("A model that does nothing", ("server", "requests/s", "p99 ms", "errors"), tuple(rows))


def _settings(found: Sequence[Mapping[str, Any]], *, brief: bool) -> Table:
    labels = list(next((one["rps"] for one in found if one["rps"]), {}))
    heads = ("server", *(f"requests/s, {label}" for label in labels), "launch, s", "PSS, MB")
    rows = []
    for one in found:
        rates = [_rate(one["rps"].get(label), 0, brief=brief) for label in labels]
        launch, held = _cell(one["launch_s"], 1, brief=brief), _cell(one["pss_mb"], 0, brief=brief)
        rows.append((one["name"], *rates, launch, held))
    return Table("The same with one setting of config.properties taken away", heads, tuple(rows))


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


def _packing(title: str, found: Mapping[str, Found], base: str) -> Table:
    """Compare each way with `base`, and each way to the disk with `base` to the disk."""
    rows = []
    for name, seconds in found.items():
        against = found.get(f"{base}, on disk") if name.endswith(", on disk") else found[base]
        ratio = seconds["median"] / against["median"] if seconds and against else None
        rows.append((name, _cell(seconds, 2), _number(ratio, 2)))
    return Table(title, ("how", "seconds", f"times {base}"), tuple(rows))


def _labels(systems: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(next((system["phases"] for system in systems if system["phases"]), {}))


def _cell(found: Found, digits: int, *, brief: bool = False) -> str:
    """Return the median, with the smallest and the largest unless `brief`."""
    if found is None:
        return "-"
    text = f"{found['median']:,.{digits}f}"
    if brief or found["min"] == found["max"]:
        return text
    return f"{text} ({found['min']:,.{digits}f} to {found['max']:,.{digits}f})"


def _rate(found: Found, digits: int, *, brief: bool) -> str:
    """Return a cell, with half the range in percent if `brief`."""
    text = _cell(found, digits, brief=brief)
    if not brief or found is None or found["min"] == found["max"]:
        return text
    return f"{text} ±{(found['max'] - found['min']) / 2 / found['median']:.0%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def markdown(report: Report) -> str:
    """Return the results part of docs/performance.md."""
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


def into_page(page: str, results: str, by: str = "scripts/bench") -> str:
    """Return a page with the results of `by` replaced, or put at its end if it has none."""
    begin = BEGIN.replace("scripts/bench", by)
    part = f"{begin}\n\n{results}\n{END}\n"
    before, found, rest = page.partition(begin)
    if not found:
        return f"{page.rstrip()}\n\n{part}"
    return before + part + rest.partition(END)[2].removeprefix("\n")
