"""Write the page of a release, from its Result and the journal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from ..measure.samples import Judgement
from ..report.release import ReleaseReport, Step, render_html
from ._fleet import Fleet
from ._journal import Entry
from ._release import Result


def write_report(fleet: Fleet, result: Result) -> Path | None:
    """Write NAME-ID.html beside the journal; None where that fails: it is no reason to fail a release."""
    journal = fleet.journal(result.model)
    file = journal.path.with_name(f"{journal.path.stem}-{result.id}.html")
    try:
        entries = [entry for entry in journal.entries() if entry.release == result.id]
        if not entries:
            return None
        file.write_text(render_html(report_of(result, entries)), encoding="utf-8")
    except Exception:  # of whatever: the release has come to its end by now
        return None
    return file


def report_of(result: Result, entries: Sequence[Entry]) -> ReleaseReport:
    """Collect all that is known of a release; `entries` are its own, in their order."""
    planned = next(entry for entry in entries if entry.event == "planned")
    befores = [host.get("default") for host in planned.data["served"].values()]
    begin = _seconds(planned.at)
    return ReleaseReport(
        model=result.model,
        candidate=result.version,
        default=next((default for default in befores if default is not None), None),
        outcome=result.outcome,
        started=planned.at,
        seconds=max(result.seconds, _seconds(entries[-1].at) - begin),
        archive=str(planned.data["file"]),
        sha256=str(planned.data["sha256"]),
        hosts=tuple(planned.data["hosts"]),
        checks=[
            (f"{plan.host}: {check.name}", check.outcome, check.text)
            for plan in result.plans
            for check in plan.checks
        ],
        timeline=tuple(_timeline(entries, begin)),
        judgements={host: _together(found) for host, found in result.judgements.items() if found},
        samples={
            **{host: pair for host, pair in result.samples.items() if pair[1]},
            **{f"{host}, recorded requests": pair for host, pair in result.recorded.items() if pair[1]},
        },
        expected=result.expected,
        comparator=result.comparator,
        errors=[result.reason] if result.reason else [],
        note=result.note,
    )


def _timeline(entries: Sequence[Entry], begin: float) -> Iterator[Step]:
    open_steps: dict[tuple[str, str], float] = {}
    for entry in entries:
        key = (entry.host, entry.step)
        at = _seconds(entry.at) - begin
        if entry.event == "begin":
            open_steps[key] = at
        elif entry.event in {"done", "failed"} and key in open_steps:
            start = open_steps.pop(key)
            text = str(entry.data.get("text") or entry.data.get("reason") or "")
            outcome = "ok" if entry.event == "done" else "failed"
            yield Step(entry.host, entry.step, start, max(0.0, at - start), outcome, text)


def _together(found: Mapping[str, Judgement]) -> Judgement:
    """Join the findings of all steps, under the step's name except for those of the gate."""
    return Judgement(
        tuple(
            finding if step in {"gate", finding.what} else replace(finding, what=f"{step}: {finding.what}")
            for step, judgement in found.items()
            for finding in judgement.findings
        )
    )


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at.removesuffix("Z")).replace(tzinfo=timezone.utc).timestamp()
