"""Checks before the work that its figures can be written."""

from __future__ import annotations

from pathlib import Path

from torchmar.errors import TorchmarError


def require_writable(option: str, file: Path | None) -> None:
    """Raise TorchmarError if the file of an option cannot be written; None passes."""
    if file is None:
        return
    try:
        file.open("a").close()
    except OSError as error:
        raise TorchmarError(f"{option} {file}: cannot be written: {error.strerror}") from None
