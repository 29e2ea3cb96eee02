"""Make a page's frame, tables and badges. `text` escapes all content."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ._style import CSS

_TONES = {
    **dict.fromkeys(("pass", "ok", "promoted", "retired", "reconciled", "winner"), "good"),
    **dict.fromkeys(("fail", "failed", "interrupted", "refused", "undone", "rolled back"), "bad"),
    **dict.fromkeys(("inconclusive", "warning"), "unsure"),
}
# Nothing may be fetched or run, even if a part of a name or an answer is not escaped.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, lead: str, sections: Iterable[tuple[str, str]]) -> str:
    """Make a self-contained page, light or dark by the reader's setting.

    `title` is text. `lead` is HTML below it, and each section is a heading and HTML; sections without content
    are left out.
    """
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{text(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n",
            f"<h1>{text(title)}</h1>\n{lead}",
            *(f"<h2>{text(heading)}</h2>\n{inside}" for heading, inside in sections if inside),
            "</body>\n</html>\n",
        )
    )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", tones: Sequence[str] = ()
) -> str:
    """Make a table of HTML cells; '' without rows.

    A column whose name ends in `>` holds numbers, aligned right. `kind` is the table's class, and `tones` are
    the rows' classes.
    """
    if not rows:
        return ""
    sides = [' class="number"' if column.endswith(">") else "" for column in columns] or [""] * len(rows[0])
    names = "".join(
        f"<th{side}>{text(one.rstrip('>'))}</th>" for side, one in zip(sides, columns, strict=False)
    )
    head = f"<tr>{names}</tr>\n" if columns else ""
    body = ""
    for number, row in enumerate(rows):
        tone = tones[number] if number < len(tones) else ""
        cells = "".join(f"<td{side}>{cell}</td>" for side, cell in zip(sides, row, strict=True))
        body += f'<tr class="{tone}">{cells}</tr>\n' if tone else f"<tr>{cells}</tr>\n"
    return f'<div class="wide"><table class="{kind}">\n{head}{body}</table></div>\n'


def legend(keys: Iterable[tuple[str, str]]) -> str:
    """Make the legend of a drawing from tones and their meanings."""
    spans = "".join(f'<span><i class="key {tone}"></i>{text(name)}</span> ' for tone, name in keys)
    return f'<p class="legend">{spans}</p>\n'


def badge(outcome: str) -> str:
    """Make an outcome in the colour of its tone."""
    return f'<b class="{tone_of(outcome)}">{text(outcome)}</b>'


def tone_of(outcome: str) -> str:
    """Return whether an outcome is good, bad or unsure; "plain" for any other."""
    return _TONES.get(outcome, "plain")


def text(value: str) -> str:
    """Escape text for HTML."""
    return escape(plain(value))


def plain(value: str) -> str:
    """Replace what HTML cannot hold: control characters, halves of UTF-16 pairs."""
    return "".join(each if each.isprintable() or each == "\n" else " " for each in value)
