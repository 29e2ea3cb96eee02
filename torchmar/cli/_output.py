"""Prints for all commands: tables and messages for people, JSON for machines."""

from __future__ import annotations

import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import IO, Any

import typer
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from ..errors import TorchmarError, WorkerLoadError

INTERRUPTED = 130  # exit code
_ANSWER = 100  # characters of an answer on one line


def _width(stream: IO[str] | None) -> int | None:
    """Return the width to print in; None is the terminal's own.

    A pipe or a file has no width that a table must fit into. With COLUMNS=0, which terminals without a size
    set, rich would print nothing.
    """
    is_terminal = stream is not None and stream.isatty()
    return None if is_terminal and os.environ.get("COLUMNS") != "0" else 200


out = Console(highlight=False, soft_wrap=True, width=_width(sys.stdout))
err = Console(highlight=False, soft_wrap=True, stderr=True, width=_width(sys.stderr))


def escape(text: object) -> str:
    """Return text for rich to print: without markup, and without control characters."""
    return escape_markup(clean(text))


def clean(text: object) -> str:
    """Return text to print as it is: without control characters, which would drive the terminal."""
    return "".join(each if _is_harmless(each) else "\N{REPLACEMENT CHARACTER}" for each in str(text))


def _is_harmless(character: str) -> bool:
    """Return whether a character is visible, a tab, the end of a line, or a space of any width."""
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def print_error(error: TorchmarError) -> None:
    """Print one message, red on a terminal; the traceback of a handler stands below it."""
    err.print(f"[bold red]error:[/bold red] {escape(str(error))}")
    if isinstance(error, WorkerLoadError) and error.details:
        err.print(escape(error.details.rstrip()), style="dim")


def error_facts(error: TorchmarError | OSError) -> dict[str, Any]:
    """Return, for JSON, the error that ended a command."""
    ours = as_torchmars(error)
    return {"error": {"type": type(error).__name__, "message": str(ours), "hint": ours.hint}}


def as_torchmars(error: TorchmarError | OSError) -> TorchmarError:
    """Return an error of torchmar's for an OSError, too: a full disk is not torchmar's fault."""
    if isinstance(error, TorchmarError):
        return error
    where = f"{error.filename}: " if error.filename else ""
    return TorchmarError(f"{where}{error.strerror or error}")


def print_lines(*lines: str, style: str | None = None) -> None:
    """Print lines for people; the text may come from anywhere."""
    for line in lines:
        out.print(escape(line), style=style)


def print_note(*texts: str) -> None:
    """Print notes on stderr, yellow on a terminal."""
    for text in texts:
        err.print(f"note: {escape(text)}", style="yellow")


@contextmanager
def after_ctrl_c(state: str) -> Iterator[None]:
    """Print `state` after Ctrl-C in the block, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"interrupted: {escape(state)}" if state else "interrupted")
        raise typer.Exit(INTERRUPTED) from None


def print_json(content: Any) -> None:
    """Print valid JSON on stdout. Raises TorchmarError for content that is nested too deeply."""
    try:
        text = json_text(content, indent=2)
    except RecursionError:
        raise TorchmarError("leave --json out: the result is nested too deeply for it") from None
    print(text)


def short_answer(expected: Any) -> str:
    """Return the expected answer of a golden request, on one line."""
    from ..golden import value_in_words

    return "nothing" if expected is None else value_in_words(expected, _ANSWER)


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return any content as JSON: numbers that JSON lacks are null, control characters are escaped.

    Raises RecursionError for content that is nested too deeply.
    """
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(_plain(content), indent=indent, ensure_ascii=not is_utf8, allow_nan=False, default=str)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def picked(something: Any, *names: str) -> dict[str, Any]:
    """Return the named attributes, for JSON."""
    return {name: getattr(something, name) for name in names}


def _plain(content: Any) -> Any:
    if is_dataclass(content):
        content = {item.name: getattr(content, item.name) for item in fields(content)}
    if isinstance(content, Mapping):
        return {_key(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [_plain(item) for item in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return str(content) if isinstance(content, Path) else content


def _key(key: Any) -> Any:
    """Return a key for JSON: text, or a value that json itself turns into text."""
    return key if isinstance(key, str | int | None) else str(key)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, each row on a line; columns whose names end in `>` are aligned right.

    If no column has a name, there is no line of names.
    """
    table = Table(title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.title = _in_line(title) if title else None
    table.show_header = any(columns)
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_in_line, row))
    with out.capture() as capture:
        out.print(table)
    for line in capture.get().splitlines():
        out.file.write(line.rstrip() + "\n")  # rich pads the last column


def _in_line(text: object) -> str:
    return escape(" ".join(str(text).split("\n")))
