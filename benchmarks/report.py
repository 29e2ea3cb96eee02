"""From visits to figures: medians with their spread, ratios, a JSON object, a table, a page.

The JSON object is the report; the table and the page are made from it alone.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .machine import one_line
from .rounds import Entry, Limits

Report = dict[str, Any]

PEERS = ("litserve", "mosec", "fastapi", "bentoml")
OURS = {"torchmar-eager": "eager", "torchmar-onnx": "onnx", "torchmar-int8": "int8"}

BEGIN, END = "<!-- results: written by scripts/bench -->", "<!-- results: end -->"


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median, smallest and largest; None of nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def system_entry(entry: Entry) -> dict[str, Any]:
    """One system's line: the figures at the largest number of clients, then all of them."""
    labels = list(entry.visits[0].loads) if entry.visits else []
    phases = {label: _phase(entry, label) for label in labels}
    last = phases[labels[-1]] if labels else {}
    launch, held = (spread(getattr(visit, name) for visit in entry.visits) for name in ("launch_s", "pss_mb"))
    return {
        "name": entry.name,
        "runtime": entry.runtime,
        **{name: _median(last.get(name)) for name in ("rps", "p50_ms", "p99_ms")},
        "errors": sum(phase["errors"] for phase in phases.values()),
        "launch_s": _median(launch),
        "pss_mb": _median(held),
        "rounds": len(entry.visits),
        "launch": launch,
        "pss": held,
        "phases": phases,
        "failure": entry.failure or None,
    }


def _phase(entry: Entry, label: str) -> dict[str, Any]:
    results = [visit.loads[label] for visit in entry.visits]
    kinds: Counter[str] = Counter()
    for result in results:
        kinds.update(result.kinds)
    wrong = entry.wrong.get(label, 0)
    if wrong:
        kinds["wrong answer"] += wrong
    return {
        "clients": results[0].clients,
        **{name: spread(getattr(r, name) for r in results) for name in ("rps", "p50_ms", "p90_ms", "p99_ms")},
        "requests": sum(result.requests for result in results),
        "errors": sum(kinds.values()),
        "kinds": dict(kinds),
        "distinct_answers": max(len(result.answers) for result in results),
        "load_cpu_share": max(result.cpu_seconds / result.seconds for result in results),
    }


def limit_entry(limits: Limits) -> dict[str, Any]:
    """One runtime without a server."""
    rps = spread(found.rps for found in limits.found)
    return {
        "runtime": limits.runtime,
        "rps": _median(rps),
        "spread": rps,
        "p50_ms": _median(spread(found.p50_ms for found in limits.found)),
        "failure": limits.failure or None,
    }


def ratios(systems: Sequence[Mapping[str, Any]], limits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Ours against the limit, stock and the best of the others, for each number of clients; of medians."""
    rates = {system["name"]: _rates(system) for system in systems}
    without = {limit["runtime"]: limit["rps"] for limit in limits if limit["rps"]}
    labels = list(next((found for found in rates.values() if found), {}))
    result: dict[str, Any] = {}
    for name, runtime in OURS.items():
        if name in rates and runtime in without:
            _put(result, f"{name}/limit", rates[name], dict.fromkeys(labels, without[runtime]))
    best = {
        label: max(
            ((rates[peer][label], peer) for peer in PEERS if label in rates.get(peer, {})), default=None
        )
        for label in labels
    }
    best = {label: found for label, found in best.items() if found is not None}
    for name in OURS:
        if name not in rates:
            continue
        for stock in ("stock", "stock-1-thread"):
            _put(result, f"{name}/{stock}", rates[name], rates.get(stock, {}))
        _put(
            result,
            f"{name}/best-peer",
            rates[name],
            {label: found[0] for label, found in best.items() if found},
        )
    if best:
        result["best-peer"] = {label: found[1] for label, found in best.items() if found}
    return result


def _rates(system: Mapping[str, Any]) -> dict[str, float]:
    return {label: phase["rps"]["median"] for label, phase in system["phases"].items() if phase["rps"]}


def _put(result: dict[str, Any], name: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> None:
    found = {label: rate / theirs[label] for label, rate in ours.items() if theirs.get(label)}
    if found:
        result[name] = found


def _median(found: Mapping[str, float] | None) -> float | None:
    return None if found is None else found["median"]


def comparison(entries: Sequence[Entry], limits: Sequence[Limits]) -> Report:
    """The part of the report that is about ResNet-18."""
    systems = [system_entry(entry) for entry in entries]
    without = [limit_entry(one) for one in limits]
    return {"systems": systems, "limits": without, "ratios": ratios(systems, without)}


def failures(report: Report) -> list[str]:
    """What went wrong in a report: each failing system with its reason."""
    parts = [
        *((f"{s['name']}", s["failure"]) for s in report.get("systems", [])),
        *((f"limit {x['runtime']}", x["failure"]) for x in report.get("limits", [])),
        *((f"no-op {s['name']}", s["failure"]) for s in report.get("noop", [])),
        *((f"{x['name']}", x["failure"]) for key in ("starting", "vgg16") for x in report.get(key, [])),
    ]
    found = [f"{name}: {failure}" for name, failure in parts if failure]
    return [*found, *report.get("failed", [])]


# -- for people ---------------------------------------------------------------------------------


def tables(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, heads and rows of each table; every cell with its spread."""
    found = []
    if report.get("systems") or report.get("limits"):
        found.append(_serving_table(report))
    if report.get("ratios"):
        found.append(_ratio_table(report["ratios"]))
    if report.get("noop"):
        found.append(_noop_table(report["noop"]))
    if report.get("starting"):
        found.append(_starting_table(report["starting"]))
    if report.get("vgg16"):
        found.append(_vgg16_table(report["vgg16"]))
    if report.get("packaging"):
        rows = [[name, _cell(seconds, 1)] for name, seconds in report["packaging"].items()]
        found.append(("Packing VGG-16 (a state dict of 553 MB)", ["how", "seconds"], rows))
    return found


Table = tuple[str, list[str], list[list[str]]]


def _serving_table(report: Report) -> Table:
    labels = _labels(report["systems"])
    heads = ["system", "runtime"]
    for label in labels:
        heads += [f"images/s, {label}", f"p50 ms, {label}", f"p99 ms, {label}"]
    heads += ["errors", "launch s", "PSS MB"]
    rows = []
    for system in report["systems"]:
        row = [system["name"], system["runtime"]]
        for label in labels:
            phase = system["phases"].get(label, {})
            row += [_cell(phase.get("rps"), 1), _cell(phase.get("p50_ms"), 0), _cell(phase.get("p99_ms"), 0)]
        rows.append([*row, _errors(system), _cell(system.get("launch"), 1), _cell(system.get("pss"), 0)])
    for limit in report["limits"]:
        blank = [""] * (len(heads) - 3)
        rows.append(["no server", limit["runtime"], _cell(limit["spread"], 1), *blank])
    return "ResNet-18, one photograph of 640 x 427", heads, rows


def _ratio_table(found: Mapping[str, Any]) -> Table:
    names = [name for name in found if name != "best-peer"]
    labels = list(found[names[0]]) if names else []
    rows = [[name, *(_number(found[name].get(label), 2) for label in labels)] for name in names]
    if "best-peer" in found:
        rows.append(["the best peer is", *(found["best-peer"].get(label, "") for label in labels)])
    return "Ratios of the images/s", ["ours/theirs", *labels], rows


def _noop_table(systems: Sequence[Mapping[str, Any]]) -> Table:
    labels = _labels(systems)
    heads = [
        "server",
        *(f"{what}, {label}" for label in labels for what in ("requests/s", "p99 ms", "errors")),
    ]
    rows = []
    for system in systems:
        row = [system["name"]]
        for label in labels:
            phase = system["phases"].get(label)
            errors = "-" if phase is None else f"{phase['errors']:,}"
            found = phase or {}
            row += [_cell(found.get("rps"), 0), _cell(found.get("p99_ms"), 1), errors]
        rows.append(row)
    return "A model that does nothing", heads, rows


def _starting_table(found: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            one["name"],
            _cell(one["ready_s"], 2),
            _cell(one["scale_s"], 2),
            _cell(one["worker_pss_mb"], 0),
            _cell(one["worker_rss_mb"], 0),
        ]
        for one in found
    ]
    heads = [
        "archive",
        "register to READY, s",
        "scale 1 to 2, s",
        "PSS of a worker, MB",
        "RSS of a worker, MB",
    ]
    return "Starting a worker", heads, rows


def _vgg16_table(found: Sequence[Mapping[str, Any]]) -> Table:
    counts = list(found[0]["pss_mb"]) if found else []
    rows = [[one["name"], *(_number(one["pss_mb"].get(count), 0) for count in counts)] for one in found]
    heads = ["VGG-16", *(f"{count} worker{'s' * (count != '1')}, MB" for count in counts)]
    return "PSS of the whole server with VGG-16", heads, rows


def _labels(systems: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(next((system["phases"] for system in systems if system["phases"]), {}))


def _errors(system: Mapping[str, Any]) -> str:
    return "failed" if system["failure"] else f"{system['errors']:,}"


def _cell(found: Mapping[str, float] | None, digits: int) -> str:
    if found is None:
        return "-"
    text = f"{found['median']:,.{digits}f}"
    if found["min"] == found["max"]:
        return text
    return f"{text} ({found['min']:,.{digits}f} to {found['max']:,.{digits}f})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def markdown(report: Report) -> str:
    """The results part of docs/performance.md."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    lines = [
        f"`{report['command']}`, {report['date']}, commit {report['commit']}, {report['rounds']} rounds;",
        "medians, with the smallest and the largest.",
        "",
        f"- Machine: {one_line(report['machine'])}",
        f"- Versions: {versions}",
        f"- Weights: {report['weights']}",
    ]
    for title, heads, rows in tables(report):
        lines += ["", f"### {title}", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
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
    return before + part + rest.partition(END)[2].lstrip("\n")


def as_json(value: Any) -> Any:
    """What json.dump takes: dataclasses as dicts."""
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
