"""Prints a model's answer: rows, a flat object or numbers as a table, anything else as JSON or text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._output import escape, json_text, out, print_json, print_table, size

if TYPE_CHECKING:
    from ..client import Prediction

# The limits of a table: columns, characters of a cell, numbers in a cell and in a row.
_COLUMNS, _CELL, _NUMBERS, _A_ROW = 12, 120, 8, 8


def print_answer(title: str, answer: Prediction, saved: Path | None = None) -> None:
    """Print an answer under a title; of bytes that are no text only the number is printed.

    `saved` is the file that the answer was written to.
    """
    content = parsed(answer)
    if isinstance(content, bytes):
        kind = f" ({answer.content_type})" if answer.content_type else ""
        _print_title(title)
        where = "--save FILE keeps them" if saved is None else f"in {saved}"
        out.print(escape(f"{size(len(content))} that are no text{kind}: {where}"))
    elif table := table_of(content):
        print_table(title, *table)
    elif content is None and answer.content.strip() != b"null":
        _print_title(title)
        out.print(escape(answer.content.decode()))
    else:
        _print_title(title)
        print_json(content)


def facts_of(answer: Prediction) -> dict[str, Any]:
    """Return an answer for --json: `answer` is JSON or a text; bytes that are no text are in `base64`."""
    import base64

    content = parsed(answer)
    if isinstance(content, bytes):
        return {"answer": None, "base64": base64.b64encode(content).decode()}
    is_text = content is None and answer.content.strip() != b"null"
    return {"answer": answer.content.decode() if is_text else content}


def parsed(answer: Prediction) -> Any:
    """Return an answer's JSON, if it can be printed; None for a text; bytes for anything else."""
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
    return answer.content if "\0" in text else None


def _print_title(title: str) -> None:
    out.print(f"[bold]{escape(title)}[/bold]")


def table_of(content: Any) -> tuple[list[str], list[list[str]]] | None:
    """Return columns and rows; None for content that does not fit into a table unchanged."""
    if isinstance(content, dict):
        rows = [[key, cell] for key, value in content.items() if (cell := _cell(value)) is not None]
        return (["", ""], rows) if rows and len(rows) == len(content) and _fits(content) else None
    if not isinstance(content, list) or not content:
        return None
    if all(map(_is_number, content)):
        return _lines_of_numbers(content)
    if all(isinstance(row, dict) and row and _fits(row) for row in content):
        return _rows(content)
    return None


def _rows(content: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]] | None:
    keys = list(dict.fromkeys(key for row in content for key in row))
    cells = [[_cell(row[key]) if key in row else "" for key in keys] for row in content]
    if len(keys) > _COLUMNS or any(cell is None for row in cells for cell in row):
        return None
    numeric = [all(_is_number(row[key]) for row in content if key in row) for key in keys]
    return [f"{key}>" if right else key for key, right in zip(keys, numeric, strict=True)], cells  # type: ignore[return-value]


def _lines_of_numbers(content: Sequence[Any]) -> tuple[list[str], list[list[str]]] | None:
    """Return rows of numbers, each after the position of its first number in the list."""
    cells = [_cell(number) for number in content]
    if any(cell is None for cell in cells):
        return None
    lines = [[str(at), *cells[at : at + _A_ROW]] for at in range(0, len(cells), _A_ROW)]
    width = min(len(cells), _A_ROW)
    padded = [line + [""] * (width + 1 - len(line)) for line in lines]
    return ["at>", *(f"+{at}>" for at in range(width))], padded  # type: ignore[return-value]


def _cell(value: Any) -> str | None:
    """Return the text of a cell; None for a value that does not fit into one."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if _is_number(value):
        text = number_text(value)
        return text if len(text) <= 24 else None
    if isinstance(value, str):
        return value if len(value) <= _CELL and value.isprintable() else None
    if isinstance(value, list) and 0 < len(value) <= _NUMBERS and all(map(_is_number, value)):
        parts = [_cell(number) for number in value]
        return None if None in parts else ", ".join(parts)  # type: ignore[arg-type]
    return None


def number_text(number: float) -> str:
    """Return six digits of a fraction, and all digits of a large number; `--json` has all digits of both."""
    return str(number) if isinstance(number, int) or abs(number) >= 1e6 else f"{number:.6g}"


def _is_number(value: Any) -> bool:
    """Return whether a value is a number for a table: an integer of JSON may have too many digits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 10**18


def _fits(row: Mapping[str, Any]) -> bool:
    """Return whether the keys of a row are fit to be names of columns."""
    return all(0 < len(key) <= _CELL and key.isprintable() and not key.endswith(">") for key in row)
