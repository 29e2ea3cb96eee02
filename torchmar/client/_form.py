"""A request of several fields: multipart/form-data, RFC 7578."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ClientError
from ..files import BINARY, content_type_of


def form_of(fields: Mapping[str, str | bytes | Path]) -> dict[str, Any]:
    """What requests is told to send: texts, bytes and files under the fields' names.

    The content type of a file is that of its suffix: TorchServe's worker parses JSON, decodes text, and hands
    on all else as bytes. Raises ClientError for a file that cannot be read, and where there is no field.
    """
    if not fields:
        raise ClientError("no fields: a form needs at least one")
    return {"files": {name: _part(name, value) for name, value in fields.items()}}


def _part(name: str, value: str | bytes | Path) -> tuple[str | None, str | bytes, str | None]:
    """A file name, which makes a file of a field, its content, and its content type."""
    if isinstance(value, str):
        return None, value, None
    if isinstance(value, bytes | bytearray | memoryview):
        return "file", bytes(value), BINARY
    if isinstance(value, Path):
        return "file", read(value), content_type_of(value.name)
    raise TypeError(f"field {name!r} must be a text, bytes or a Path; found {type(value).__name__}")


def read(file: Path) -> bytes:
    """The content of a file. Raises ClientError where it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ClientError(f"{file}: cannot be read: {error.strerror}") from None
