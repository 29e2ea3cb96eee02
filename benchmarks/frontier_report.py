"""Writes what ./scripts/frontier has found: as JSON, and as the tables of docs/compression.md."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import machine


def report(found: Sequence[Mapping[str, Any]], command: str) -> dict[str, Any]:
    """Return all results, for JSON."""
    return {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": machine.describe()["cpu"],
        "machine": machine.describe(),
        "load": machine.load(),
        "versions": machine.versions(),
        "models": [dict(model) for model in found],
    }


_VERSIONS = ("onnxruntime", "torch")
_COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "": lambda point: str(point["name"]),
    "MB": lambda point: f"{point['bytes'] / 1e6:.3g}",
    "ms, batch of 1": lambda point: f"{point['p50_ms']:g}",
    "ms, batch of 8": lambda point: f"{point['p50_ms_batch_8']:g}",
    "requests/s": lambda point: _number(point["requests_per_second"], None),
    "peak MB": lambda point: "-" if point["peak_rss_mb"] is None else f"{point['peak_rss_mb']:.0f}",
    "C(x)": lambda point: _number(point["c_x"], point["c_x_ci"]),
    "by labels": lambda point: "-" if point["c_x_by_labels"] is None else f"{point['c_x_by_labels']:g}",
    "agreement": lambda point: f"{point['agreement']:g}",
    "metric": lambda point: _number(point["metric"], point["ci"]),
    "in float": lambda point: "-" if point["layers_in_float"] is None else str(point["layers_in_float"]),
}


def markdown(found: Mapping[str, Any], name: str) -> str:
    """Return one model's part of docs/compression.md."""
    [model] = [one for one in found["models"] if one["name"] == name]
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in _VERSIONS)
    about = f"{found['date']}, load {found['load']:g} on {found['machine']['cores']} cores, {versions}"
    return "\n".join([f"### {name}", "", f"`{found['command']}`, {about}.", "", *_of_model(model)]) + "\n"


def _of_model(model: Mapping[str, Any]) -> Iterator[str]:
    if model["note"]:
        yield f"Not measured: {model['note']}"
        return
    rows = model["points"]
    columns = {
        name: cell
        for name, cell in _COLUMNS.items()
        if name in {"", "agreement"} or any(cell(row) != "-" for row in rows)
    }
    kept = list(rows[0].get("kept", {}))
    ranges = ""
    if model["calibrated_on"]:
        some = "none" if model["apart"] else "all"
        ranges = f", {some} of them among the {model['calibrated_on']} that gave the ranges"
    yield (
        f"Compared on {model['examples']} requests{ranges}: {model['data']}. "
        f"Metric: {rows[0]['metric_name']}. Threads: {model['threads']}."
    )
    yield ""
    yield f"| {' | '.join([*columns, *kept])} |"
    yield "|---|" + "---:|" * (len(columns) + len(kept) - 1)
    for row in rows:
        cells = [cell(row) for cell in columns.values()]
        yield f"| {' | '.join(cells + [str(row['kept'][key]) for key in kept])} |"
    if model["notes"]:
        yield ""
        yield from (f"- {note}" for note in model["notes"])


def _number(value: float | None, bounds: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:g}" + (f" [{bounds[0]:g}, {bounds[1]:g}]" if bounds else "")
