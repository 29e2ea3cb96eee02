"""Write a page about an archive, and show figures in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..mar import Archive
from .html import page, table, text


def figure(value: float) -> str:
    """Return a metric's value for people: three places behind the point, or four digits in all."""
    return f"{value:.3f}" if 0.01 <= abs(value) < 10 or not value else f"{value:.4g}"


def rows_of_text(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return a table's rows with their cells escaped."""
    return [tuple(map(text, row)) for row in rows]


def write_archive_page(
    file: Path,
    archive: Archive,
    what: str,
    lead: str,
    facts: Mapping[str, str],
    sections: Iterable[tuple[str, str]],
) -> None:
    """Write a page about an archive: a title, the lead and the facts below it, and the sections.

    Raises OSError.
    """
    every = {**facts, "archive": str(archive.path), "SHA-256": archive.sha256}
    head = lead + table((), [(text(name), text(value)) for name, value in every.items()])
    file.write_text(page(f"{archive.name} {archive.version}, {what}", head, sections), encoding="utf-8")
