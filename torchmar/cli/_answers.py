"""Prints a model's answer: rows, a flat object or numbers as a table, anything else as JSON or text."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import size
from ._output import escape, json_text, out, print_json, print_table

if TYPE_CHECKING:
    from ..client import Prediction

# The limits of a table: columns, characters of a cell, numbers in a cell and in a row.
_COLUMNS, _CELL, _NUMBERS, _A_ROW = 12, 120, 8, 8


def print_answer(title: str, answer: Prediction, saved: Path | None = None) -> None:
    """Print an answer under a title; of bytes that are no text only the number is printed.

    `saved` is the file that the answer was written to.
    """
    content = content_of(answer)
    if table := table_of(content):
        print_table(title, *table)
        return
    out.print(f"[bold]{escape(title)}[/bold]")
    if isinstance(content, bytes):
        kind = f" ({answer.content_type})" if answer.content_type else ""
        where = "--save FILE keeps them" if saved is None else f"in {saved}"
        out.print(escape(f"{size(len(content))} that are no text{kind}: {where}"))
    elif content == answer.content.decode(errors="replace"):  # no string of JSON, which has quotes
        out.print(escape(content))
    else:
        print_json(content)


def facts_of(answer: Prediction) -> dict[str, Any]:
    """Return an answer for --json: `answer` is JSON or a text; bytes that are no text are in `base64`."""
    content = content_of(answer)
    if isinstance(content, bytes):
        return {"answer": None, "base64": base64.b64encode(content).decode()}
    return {"answer": content}


def content_of(answer: Prediction) -> Any:
    """Return an answer's JSON, if it can be printed; else its text, if it is one; else its bytes."""
    try:
        content = answer.json()
        json_text(content)
        return content
    except (ValueError, RecursionError):
        pass
    try:
        text = answer.content.decode()
    except UnicodeDecodeError:
        return answer.content
    return answer.content if "\0" in text else text


class _NoCell(Exception):
    """A value that does not fit into a cell unchanged."""


def table_of(content: Any) -> tuple[list[str], list[list[str]]] | None:
    """Return columns and rows; None for content that does not fit into a table unchanged."""
    with suppress(_NoCell):
        if isinstance(content, dict) and content and _fits(content):
            return ["", ""], [[key, _cell(value)] for key, value in content.items()]
        if isinstance(content, list) and content and all(map(_is_number, content)):
            return _lines_of_numbers([_cell(number) for number in content])
        if isinstance(content, list) and content and all(map(_is_row, content)):
            return _rows(content)
    return None


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and bool(row) and _fits(row)


def _rows(content: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    keys = list(dict.fromkeys(key for row in content for key in row))
    if len(keys) > _COLUMNS:
        raise _NoCell
    numeric = {key: all(_is_number(row[key]) for row in content if key in row) for key in keys}
    columns = [f"{key}>" if numeric[key] else key for key in keys]
    return columns, [[_cell(row[key]) if key in row else "" for key in keys] for row in content]


def _lines_of_numbers(cells: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Return rows of numbers, each after the position of its first number in the list."""
    width = min(len(cells), _A_ROW)
    lines = [[str(at), *cells[at : at + _A_ROW]] for at in range(0, len(cells), _A_ROW)]
    return ["at>", *(f"+{at}>" for at in range(width))], lines


def _cell(value: Any) -> str:
    """Return the text of a cell. Raises _NoCell for a value that does not fit into one."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if _is_number(value):  # six digits of a fraction, all of a large number; --json has all of both
        text = str(value) if isinstance(value, int) or abs(value) >= 1e6 else f"{value:.6g}"
        if len(text) <= 24:
            return text
    if isinstance(value, str) and len(value) <= _CELL and value.isprintable():
        return value
    if isinstance(value, list) and 0 < len(value) <= _NUMBERS and all(map(_is_number, value)):
        return ", ".join(map(_cell, value))
    raise _NoCell


def _is_number(value: Any) -> bool:
    """Return whether a value is a number for a table: an integer of JSON may have too many digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 10**18


def _fits(row: Mapping[str, Any]) -> bool:
    """Return whether the keys of a row are fit to be names of columns."""
    return all(0 < len(key) <= _CELL and key.isprintable() and not key.endswith(">") for key in row)
