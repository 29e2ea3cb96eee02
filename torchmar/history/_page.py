"""Write the page of a model's history."""

from __future__ import annotations

from pathlib import Path

from ..files import replace_file
from ..names import LONGEST, shown
from ..report.html import page, table, text
from ._read import ModelHistory
from ._words import default, facts, happened, measured, title

DEEPEST = 8  # levels that are indented: a model that is kept up to date for years has a hundred


def write_page(file: Path, history: ModelHistory) -> None:
    """Write a self-contained page. Raises OSError."""
    sections = (
        ("Descent", _tree(history)),
        ("Versions", _versions(history)),
        ("What happened", _happened(history)),
        ("Broken archives", table((), [(text(one.path.name), text(one.reason)) for one in history.broken])),
        ("Journals that cannot be read", "".join(f"<pre>{text(one)}</pre>\n" for one in history.unread)),
    )
    replace_file(file, page(f"{history.name}, history", _lead(history), sections).encode())


def _happened(history: ModelHistory) -> str:
    # The same version may be there as a .mar and as a folder.
    events = dict.fromkeys(event for one in history.versions for event in one.events)
    rows = [
        (text(shown(event.at[:10])), text(shown(event.version, LONGEST)), text(happened(event)))
        for event in sorted(events, key=lambda event: event.at)
    ]
    return table(("date", "version", "time (UTC), and what"), rows)


def _lead(history: ModelHistory) -> str:
    defaults = sorted({*history.defaults.values()})
    words = f"default {', '.join(shown(one, LONGEST) for one in defaults)}" if defaults else "never released"
    lead = f'<p class="say">{text(words)}</p>\n'
    return lead + table((), [("store", text(str(history.store)))])


def _tree(history: ModelHistory) -> str:
    """Make a list of lists: each version below its parent, with a link to what is known of it."""
    html, levels = "", 0  # lists that are open
    for number, one in enumerate(history.versions):
        depth = min(one.depth, DEEPEST)
        if depth == levels:
            html += "<ul>\n"
        else:
            html += "</li>\n" + "</ul></li>\n" * (levels - 1 - depth)
        levels = depth + 1
        html += f'<li><a href="#version-{number}">{text(title(one, history))}</a>'
        html += f' <b class="good">{text(default(one, history))}</b> {text("".join(measured(one)[:1]))}'
    return html + "</li>\n</ul>\n" * levels


def _versions(history: ModelHistory) -> str:
    parts = []
    for number, one in enumerate(history.versions):
        more = [("", default(one, history)), *(("metric", metric) for metric in measured(one))]
        rows = [(text(word), text(line)) for word, line in (*more, *facts(one)) if line]
        heading = f'<h3 id="version-{number}">{text(title(one, history))}</h3>\n'
        parts.append(heading + table((), rows))
    return "".join(parts)
