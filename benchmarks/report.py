"""Turns visits into the report, a JSON object: medians with their spread, and ratios."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .rounds import Entry

Report = dict[str, Any]

PEERS = ("litserve", "mosec", "fastapi", "bentoml")
OURS = {"torchmar-eager": "eager", "torchmar-onnx": "onnx", "torchmar-int8": "int8"}


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return the median, the smallest and the largest value; None without values."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def system_entry(entry: Entry) -> dict[str, Any]:
    """Return one system's line: the figures at the largest number of clients, then all figures."""
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
        "of_limit": spread(visit.of_limit(label) for visit in entry.visits),
        "load_cpu_share": max(result.cpu_seconds / result.seconds for result in results),
    }


def limit_entries(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return the limits, by runtime of torchmar, from its visits."""
    found = []
    for entry in entries:
        limits = [limit for visit in entry.visits for limit in visit.limits]
        if limits:
            rps = spread(limit.rps for limit in limits)
            p50 = _median(spread(limit.p50_ms for limit in limits))
            found.append({"runtime": OURS[entry.name], "rps": _median(rps), "spread": rps, "p50_ms": p50})
    return found


def ratios(systems: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return torchmar's rates against the limit, stock and the best peer, for each number of clients.

    The ratio to the limit is the median of the visits' ratios; the others are ratios of medians.
    """
    rates = {system["name"]: _rates(system) for system in systems}
    labels = list(next((found for found in rates.values() if found), {}))
    result: dict[str, Any] = {}
    for system in systems:
        paired = {label: _median(phase.get("of_limit")) for label, phase in system["phases"].items()}
        if any(paired.values()):
            result[f"{system['name']}/limit"] = paired
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


def comparison(entries: Sequence[Entry]) -> Report:
    """Return the report's part about ResNet-18."""
    systems = [system_entry(entry) for entry in entries]
    return {"systems": systems, "limits": limit_entries(entries), "ratios": ratios(systems)}


def failures(report: Report) -> list[str]:
    """Return each failing system of a report, with its reason."""
    parts = [
        *((f"{s['name']}", s["failure"]) for s in report.get("systems", [])),
        *((f"no-op {s['name']}", s["failure"]) for s in report.get("noop", [])),
        *(
            (f"{x['name']}", x["failure"])
            for key in ("settings", "starting", "vgg16")
            for x in report.get(key, [])
        ),
    ]
    found = [f"{name}: {failure}" for name, failure in parts if failure]
    return [*found, *report.get("failed", [])]


def as_json(value: Any) -> Any:
    """Return a value that json.dump takes: dataclasses become dicts."""
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
