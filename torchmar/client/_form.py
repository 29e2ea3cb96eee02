"""Send several fields in one request: multipart/form-data, RFC 7578."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ClientError
from ..files import BINARY, content_type_of


def form_of(fields: Mapping[str, str | bytes | Path]) -> dict[str, Any]:
    """Return requests' keyword arguments for a form of texts, bytes and files.

    The file's suffix gives its content type: TorchServe's worker parses JSON, decodes text, and passes
    anything else on as bytes. Raises ClientError for an unreadable file, and for a form without fields.
    """
    if not fields:
        raise ClientError("no fields: a form needs at least one")
    return {"files": {name: _part(name, value) for name, value in fields.items()}}


def _part(name: str, value: str | bytes | Path) -> tuple[str | None, str | bytes, str | None]:
    """Return file name, content and content type of a field. A file name makes the field a file."""
    if isinstance(value, str):
        return None, value, None
    if isinstance(value, bytes | bytearray | memoryview):
        return "file", bytes(value), BINARY
    if isinstance(value, Path):
        return "file", read(value), content_type_of(value.name)
    raise TypeError(f"field {name!r} must be a text, bytes or a Path; found {type(value).__name__}")


def read(file: Path) -> bytes:
    """Return a file's content. Raises ClientError if it is unreadable."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ClientError(f"{file}: cannot be read: {error.strerror}") from None
