"""Write the page of a drift, in words and drawings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..mar import Archive
from ..report.archive import figure, rows_of_text, write_archive_page
from ..report.html import legend, plain, table, text
from ..report.svg import bars
from ._figures import Figures
from ._reference import Reference
from ._verdicts import Drift

COLUMNS = ("figure", "", "PSI>", "by chance>", "MMD²>", "p>")
"""The columns of `drift_rows`."""


def drift_rows(found: Sequence[Drift]) -> list[tuple[str, ...]]:
    """Return rows of figure, verdict, PSI, what chance brings it to, squared MMD, and p."""
    return [
        (
            one.figure,
            "" if one.verdict == "same" else one.verdict,
            *("" if value is None else figure(value) for value in (one.psi, one.bound, one.mmd)),
            "" if one.p is None else f"{one.p:.2g}",
        )
        for one in found
    ]


def write_drift_page(
    file: Path,
    archive: Archive,
    named: tuple[str, str],
    reference: Reference,
    now: Figures,
    found: Sequence[Drift],
) -> None:
    """Write a self-contained page on drift; `named` are the reference and the new data. Raises OSError."""
    drifted = [one.figure for one in found if one.verdict == "drifted"]
    tone, words = ("bad", f"drifted: {', '.join(drifted)}") if drifted else ("good", "no drift")
    facts = {
        "reference": f"{named[0]} ({_counts(reference.answered, reference.refused)})",
        "data": f"{named[1]} ({_counts(now.count, now.refused)})",
    }
    lead = f'<p class="say"><b class="{tone}">{text(words)}</b></p>\n'
    keys = legend([("old", "reference"), ("new", "data")])
    moved = [one for one in found if one.verdict != "same"] or found[:1]
    drawn = "".join(f"<h3>{text(one.figure)}</h3>\n{_shares(one)}" for one in moved if one.bins)
    sections = (
        ("Figures", table(COLUMNS, rows_of_text(drift_rows(found)))),
        ("How they are spread", keys + drawn if drawn else ""),
    )
    write_archive_page(file, archive, "drift", lead, facts, sections)


def _counts(answered: int, refused: int) -> str:
    return f"{answered} requests" + (f", {refused} refused" if refused else "")


def _shares(one: Drift) -> str:
    """Draw the share of each bin, before and now."""
    sides = [[count / max(1, sum(side)) for count in side] for side in (one.before, one.now)]
    return bars([plain(name) for name in one.bins], sides[0], sides[1])
