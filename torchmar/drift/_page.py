"""Write the page of a drift, in words and drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..mar import Archive
from ..report.archive import figure, rows_of_text, write_archive_page
from ..report.html import legend, plain, table, text
from ..report.svg import bars
from ._figures import Figures
from ._verdicts import Drift


def drift_rows(found: Sequence[Drift]) -> list[tuple[str, str, str, str, str]]:
    """Return rows of figure, verdict, PSI, what chance brings it to, and p."""
    return [
        (
            one.figure,
            "" if one.verdict == "same" else one.verdict,
            figure(one.psi),
            figure(one.bound),
            "" if one.p is None else f"{one.p:.2g}",
        )
        for one in found
    ]


def write_drift_page(
    file: Path,
    archive: Archive,
    named: tuple[str, str],
    figures: tuple[Figures, Figures],
    found: Sequence[Drift],
) -> None:
    """Write a self-contained page on drift; `named` are the reference and the new data. Raises OSError."""
    drifted = [one.figure for one in found if one.verdict == "drifted"]
    tone, words = ("bad", f"drifted: {', '.join(drifted)}") if drifted else ("good", "no drift")
    counts = [f"{one.count} requests" + (f", {one.refused} refused" * bool(one.refused)) for one in figures]
    facts = {
        "reference": f"{named[0]} ({counts[0]})",
        "data": f"{named[1]} ({counts[1]})",
    }
    lead = f'<p class="say"><b class="{tone}">{text(words)}</b></p>\n'
    columns = ("figure", "", "PSI>", "by chance>", "KS p>")
    keys = legend([("old", "reference"), ("new", "data")])
    moved = [one for one in found if one.verdict != "same"] or found[:1]
    drawn = "".join(f"<h3>{text(one.figure)}</h3>\n{_shares(one)}" for one in moved)
    sections = (
        ("Figures", table(columns, rows_of_text(drift_rows(found)))),
        ("How they are spread", keys + drawn if drawn else ""),
    )
    write_archive_page(file, archive, "drift", lead, facts, sections)


def _shares(one: Drift) -> str:
    """Draw the share of each bin, before and now."""
    sides = [[count / max(1, sum(side)) for count in side] for side in (one.before, one.now)]
    return bars([plain(name) for name in one.bins], sides[0], sides[1])
