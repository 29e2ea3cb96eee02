"""Asked before the work, whose figures could not be kept otherwise."""

from __future__ import annotations

from pathlib import Path

from torchmar.errors import TorchmarError


def require_writable(option: str, file: Path | None) -> None:
    """Raises TorchmarError where the file that an option names cannot be written; None is fine."""
    if file is None:
        return
    try:
        file.open("a").close()
    except OSError as error:
        raise TorchmarError(f"{option} {file}: cannot be written: {error.strerror}") from None
