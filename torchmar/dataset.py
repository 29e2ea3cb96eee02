"""Read labelled requests: a folder per class, or a table in CSV, JSON lines or Parquet.

    data/cat/1.jpg, data/dog/2.jpg      each file is a request; its folder's name is the label
    data/1.jpg, data/2.jpg              requests without labels
    table.csv, table.jsonl, table.parquet    each row is a request

A row's request is the file that its column `file` names, relative to the table; or the value of its column
`request`, `body` or `text`; or else all columns but the label, as a JSON object. The column `label` holds the
label, unless another one is named. Columns that are no part of the request are attributes, by which an
evaluation can tell its examples apart.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .errors import DatasetError
from .files import BINARY, JSON, TEXT, content_type_of, read_text

T = TypeVar("T")

LABEL = "label"
"""The column with the labels, unless another one is named."""

_TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_FRACTION = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_FILE, _BODIES = "file", ("request", "body", "text")


@dataclass(frozen=True)
class Example:
    """One request with what is known of it.

    `body` is the request's content, or the file that holds it. `content_type` says how TorchServe's worker
    passes it on. `label` is None where there is none. `attributes` are further columns of a table.
    """

    name: str
    body: bytes | Path
    content_type: str = BINARY
    label: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> bytes:
        """Return the request's content. Raises DatasetError."""
        return self.body if isinstance(self.body, bytes) else _readable(self.body, Path.read_bytes)

    def size(self) -> int:
        """Return the bytes of the request's content, without reading a file. Raises DatasetError."""
        if isinstance(self.body, bytes):
            return len(self.body)
        return _readable(self.body, lambda file: file.stat().st_size)


def _readable(file: Path, act: Callable[[Path], T]) -> T:
    try:
        return act(file)
    except OSError as error:
        raise DatasetError(f"{file}: {error.strerror or error}") from None


def read_dataset(path: Path, *, label: str = LABEL) -> list[Example]:
    """Return the examples of a folder or a table, in a fixed order.

    `label` is the name of a table's column. Raises DatasetError with the line of the first fault.
    """
    if path.is_dir():
        examples = list(_of_folder(path))
    elif path.suffix.lower() in _TABLES:
        examples = list(_of_table(path, label))
    elif path.exists():
        raise DatasetError(f"{path}: give a folder, or a table: {', '.join(_TABLES)}")
    else:
        raise DatasetError(f"{path}: no such file or folder")
    if not examples:
        raise DatasetError(f"{path}: give a folder or a table with requests: it holds none")
    return examples


def sample(examples: list[Example], count: int | None, seed: int) -> list[Example]:
    """Return as many of the examples, drawn at random, in their order; None means all."""
    if count is None or count >= len(examples):
        return examples
    drawn = random.Random(seed).sample(range(len(examples)), count)  # noqa: S311 (no secret)
    return [examples[number] for number in sorted(drawn)]


def digest(examples: Sequence[Example]) -> str:
    """Return the SHA-256 of all requests and labels in their order. Raises DatasetError."""
    whole = hashlib.sha256()
    for example in examples:
        body = hashlib.sha256(example.read()).hexdigest()
        whole.update(json.dumps([body, example.content_type, example.label], default=str).encode())
    return whole.hexdigest()


def labels_of(examples: Sequence[Example]) -> list[Any]:
    """Return the labels of all examples. Raises DatasetError where one has none."""
    missing = [example.name for example in examples if example.label is None]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DatasetError(
            "give each request a label, by a folder for each class or a table's column (--label names it): "
            f"{', '.join(missing[:3])}{more} have none"
        )
    return [example.label for example in examples]


# -- folders ------------------------------------------------------------------------------------


def _of_folder(folder: Path) -> Iterator[Example]:
    """Yield the files of a folder; those of its folders carry the folder's name as their label.

    What is hidden is passed over, and so is a link to a folder that this one lies in.
    """
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or (path.is_symlink() and _is_around(path, folder)):
                continue
            if path.is_dir():
                for file in sorted(_files(path)):
                    yield _of_file(file, file.relative_to(folder).as_posix(), path.name)
            elif path.is_file():
                yield _of_file(path, path.name, None)
    except OSError as error:
        raise DatasetError(f"{error.filename or folder}: {error.strerror or error}") from None


def _is_around(path: Path, folder: Path) -> bool:
    return folder.resolve().is_relative_to(path.resolve())


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files at any depth that are not hidden. Raises OSError for a folder that cannot be read."""

    def stop(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _of_file(file: Path, name: str, label: Any, attributes: Mapping[str, Any] | None = None) -> Example:
    return Example(name, file, content_type_of(file.name), label, attributes or {})


# -- tables -------------------------------------------------------------------------------------


def _of_table(path: Path, label: str) -> Iterator[Example]:
    kind = path.suffix.lower()
    try:
        rows = (
            _parquet(path)
            if kind == ".parquet"
            else _csv(path, label)
            if kind == ".csv"
            else _json_lines(path)
        )
        has_label = False
        for place, row in rows:
            has_label = has_label or row.get(label) is not None
            yield _of_row(path, place, row, label)
        if not has_label and label != LABEL:
            raise DatasetError(f"{path}: name a column with labels: no row has {label!r}")
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: save it as UTF-8: it is no such text") from None


def _of_row(path: Path, place: str, row: Mapping[str, Any], label: str) -> Example:
    """Return the example of a row; `place` is its line, or its number in a Parquet file."""
    rest = {key: value for key, value in row.items() if key != label}
    found = _label(row.get(label))
    if _FILE in rest:
        file = path.parent / str(rest.pop(_FILE) or "")
        if not file.is_file():
            raise DatasetError(f"{path} {place}: {_FILE}: no such file: {file}")
        return _of_file(file, str(row[_FILE]), found, rest)
    key = next((key for key in _BODIES if rest.get(key) is not None), None)
    if key is None:
        return Example(place, _json(path, place, rest), JSON, found, rest)
    body = rest.pop(key)
    if isinstance(body, Mapping) and isinstance(body.get("bytes"), bytes):  # as pictures are often kept
        body = body["bytes"]
    if isinstance(body, bytes):
        return Example(place, body, BINARY, found, rest)
    if isinstance(body, str):
        return Example(place, body.encode(errors="surrogatepass"), TEXT, found, rest)
    return Example(place, _json(path, place, body), JSON, found, rest)


def _label(value: Any) -> Any:
    """Return a label; a whole number is one in whatever column it stands: 1.0 is 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _json(path: Path, place: str, content: Any) -> bytes:
    try:
        return json.dumps(content, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        remedy = "write dates as texts, decimals as numbers, and leave out what is no number"
        raise DatasetError(f"{path} {place}: {remedy}: it cannot be sent as JSON: {error}") from None


def _csv(path: Path, label: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows with numbers as numbers, but for the request's text and labels; an empty cell is None."""
    before = csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        names = next(reader, [])
        _require_once(path, names)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                more = f"{abs(len(cells) - len(names))} {'more' if len(cells) > len(names) else 'fewer'}"
                raise DatasetError(
                    f"{path} line {reader.line_num}: {more} cells than the first line has names"
                )
            row = {name: _typed(name, cell, label) for name, cell in zip(names, cells, strict=True)}
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise DatasetError(f"{path} line {reader.line_num}: {error}") from None
    finally:
        csv.field_size_limit(before)


def _require_once(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{path}: give each column a name of its own: {', '.join(twice)} stands twice")


def _typed(name: str, cell: str, label: str) -> Any:
    if name in _BODIES or name == _FILE:
        return cell
    found = _cell(cell)
    # As a label, 1.10 is a version and 1e3 a name: only what Python itself would write is a number.
    return found if name != label or cell == "" or str(found) == cell else cell


def _cell(text: str) -> Any:
    """Return the number that a cell spells as JSON would; 007, 1_000 and 1e999 stay text."""
    if text == "":
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FRACTION.fullmatch(text) and math.isfinite(fraction := float(text)):
        return fraction
    return text


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} line {number}: no JSON: {error}") from None
        if not isinstance(row, dict):
            raise DatasetError(f"{path} line {number}: expected an object, found {type(row).__name__}")
        yield f"line {number}", row


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise DatasetError(f"{path}: pip install 'torchmar[evaluate]': pyarrow reads Parquet") from None
    try:
        with pq.ParquetFile(path) as file:
            _require_once(path, file.schema_arrow.names)
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path}: no Parquet file: {str(error).splitlines()[0]}") from None
