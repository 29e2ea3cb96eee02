"""Write the page of a run, in words and drawings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from ..drift import COLUMNS, drift_rows
from ..evaluate import Comparison, comparison_lead, score_rows
from ..mar import Archive
from ..report.archive import figure, rows_of_text, write_archive_page
from ..report.html import table, text
from ._maintain import Maintained
from ._work import write_json

_TONES = {"nothing": "good", "candidate": "good", "refused": "bad", "alarm": "bad"}


def headline(found: Maintained) -> str:
    """Return what a run came to in a few words."""
    return {
        "nothing": "nothing to do",
        "alarm": "alarm: somebody has to look",
        "refused": f"the candidate {found.version} was refused",
        "candidate": f"the candidate {found.version} is in the store",
    }[found.outcome]


def write_page(file: Path, parent: Archive, found: Maintained) -> None:
    """Write a self-contained page. Raises OSError."""
    lead = f'<p class="say"><b class="{_TONES[found.outcome]}">{text(headline(found))}</b></p>\n'
    lead += "".join(f"<p>{text(reason)}</p>\n" for reason in found.reasons)
    seen = found.observed
    facts = {
        "new requests": f"{seen.requests}" + (f", {seen.refused} refused" * bool(seen.refused)),
        **{f"SHA-256 of {name}": digest for name, digest in found.data.items()},
        **({} if found.archive is None else {"candidate": str(found.archive)}),
    }
    scores = [
        (where, *row)
        for where, one in (("old data", seen.then), ("new data", seen.now))
        for row in score_rows([] if one is None else [one])
    ]
    sections = (
        ("The served version", table(("on", "metric", "value>", "95 % interval"), rows_of_text(scores))),
        ("Drift", table(COLUMNS, rows_of_text(drift_rows(found.drifts)))),
        ("Training", _training(found.trained)),
        ("The candidate on the old data", _compared(found.on_old)),
        ("The candidate on the new data", _compared(found.on_new)),
    )
    write_archive_page(file, parent, "maintained", lead, facts, sections)


def write_report(found: Maintained, parent: Archive) -> Path:
    """Write report.json and report.html into the run's folder; return the page's path. Raises OSError."""
    # What is not finite is null: other programs read it.
    content = json.loads(json.dumps(as_json(found), default=str), parse_constant=lambda _: None)
    write_json(found.folder / "report.json", content)
    file = found.folder / "report.html"
    write_page(file, parent, found)
    return file


def as_json(found: Maintained) -> dict[str, object]:
    """Return a run for machines."""
    return asdict(found)


def _training(trained: Mapping[str, object]) -> str:
    losses = trained.get("held_out_losses")
    if not isinstance(losses, list):
        return ""
    rows = [
        (f"{number}{' (kept)' if number == trained.get('best') else ''}", figure(float(loss)))
        for number, loss in enumerate(losses)
    ]
    return table(("epoch>", "held-out loss>"), rows_of_text(rows))


def _compared(comparison: Comparison | None) -> str:
    return "" if comparison is None else comparison_lead(comparison)
