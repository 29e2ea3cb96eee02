"""What all commands print with: tables for people, JSON for machines, and signs of life."""

from __future__ import annotations

import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
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
    """The width to print in; None is the terminal's own.

    Where there is no terminal there is no width to fit a table into. With COLUMNS=0, which terminals without
    a size leave behind, rich would print nothing.
    """
    is_terminal = stream is not None and stream.isatty()
    return None if is_terminal and os.environ.get("COLUMNS") != "0" else 200


out = Console(highlight=False, soft_wrap=True, width=_width(sys.stdout))
err = Console(highlight=False, soft_wrap=True, stderr=True, width=_width(sys.stderr))


def escape(text: object) -> str:
    """Fit to be printed by rich: no markup, and no control characters that would drive the terminal."""
    return escape_markup(clean(text))


def clean(text: object) -> str:
    """Fit to be printed as it is: without control characters that would drive the terminal."""
    return "".join(each if _is_harmless(each) else "\N{REPLACEMENT CHARACTER}" for each in str(text))


def _is_harmless(character: str) -> bool:
    """Whether it is to be seen, or ends a line, or is a space of whatever width."""
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def print_error(error: TorchmarError) -> None:
    """One message, red on a terminal; the traceback of someone's handler below it."""
    err.print(f"[bold red]error:[/bold red] {escape(str(error))}")
    if isinstance(error, WorkerLoadError) and error.details:
        err.print(escape(error.details.rstrip()), style="dim")


def error_facts(error: TorchmarError | OSError) -> dict[str, Any]:
    """For JSON: what ended a command."""
    told = as_torchmars(error)
    return {"error": {"type": type(error).__name__, "message": str(told), "hint": told.hint}}


def as_torchmars(error: TorchmarError | OSError) -> TorchmarError:
    """One message also for a file of somebody else's, or a disk that is full: no line of ours is to blame."""
    if isinstance(error, TorchmarError):
        return error
    where = f"{error.filename}: " if error.filename else ""
    return TorchmarError(f"{where}{error.strerror or error}")


def print_lines(*lines: str) -> None:
    """For people: text from anywhere, as it is."""
    for line in lines:
        out.print(escape(line))


def print_note(*texts: str) -> None:
    """What is good to know, on stderr: yellow on a terminal."""
    for text in texts:
        err.print(f"note: {escape(text)}", style="yellow")


@contextmanager
def after_ctrl_c(state: str) -> Iterator[None]:
    """After Ctrl-C in the block it is told what state things are in, in words."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"interrupted: {escape(state)}" if state else "interrupted")
        raise typer.Exit(INTERRUPTED) from None


def print_json(content: Any) -> None:
    """For machines: always valid JSON on stdout, nothing else. Raises TorchmarError for what is too deep."""
    try:
        text = json_text(content, indent=2)
    except RecursionError:
        raise TorchmarError("leave --json out: what is to be told is nested too deeply for it") from None
    print(text)


def short_answer(expected: Any) -> str:
    """What is expected of a golden request, on one line."""
    from ..golden import value_in_words

    return "nothing" if expected is None else value_in_words(expected, _ANSWER)


def json_text(content: Any, *, indent: int | None = None) -> str:
    """JSON, whatever the content: numbers that JSON does not know are null, and nothing drives a terminal.

    Raises RecursionError for what is nested too deeply.
    """
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(_plain(content), indent=indent, ensure_ascii=not is_utf8, allow_nan=False, default=str)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def picked(something: Any, *names: str) -> dict[str, Any]:
    """For JSON: some of what there is to know."""
    return {name: getattr(something, name) for name in names}


def _plain(content: Any) -> Any:
    if is_dataclass(content):
        content = {item.name: getattr(content, item.name) for item in fields(content)}
    if isinstance(content, Enum):
        content = content.value
    if isinstance(content, Mapping):
        return {_key(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [_plain(item) for item in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return str(content) if isinstance(content, Path) else content


def _key(key: Any) -> Any:
    """What JSON can have for a key: text, or what json itself makes text of."""
    return key if isinstance(key, str | int | None) else str(key)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns whose names end in `>` are aligned right. Whatever is in a cell, a row is a line.

    Where none has a name there is no line of names.
    """
    table = Table(
        title=_in_line(title) if title else None, title_justify="left", title_style="bold", box=None
    )
    table.show_header = any(columns)
    table.pad_edge = False
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


def size(count: int) -> str:
    """Bytes for people: 18.6 MB."""
    value, units = float(count), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
