"""Write a choice into model.yaml: the values of `compress`, and no other byte."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import ExportError
from ...files import replace_file
from ...spec import Compress, UnsafeEdit, edited, in_flow
from ._points import Point

_SECTION = "compress"
Settings = dict[str, str | int | float | None]


def settings_of(point: Point, given: Compress) -> Settings:
    """Return the values of `compress` for a point; None for keys to leave out."""
    found = vars(point.compress(given))
    if found["calibration"] == "minmax":  # the default
        found = {**found, "calibration": None}
    if point.quantize != "int8":
        found = {**found, "calibration_share": None}
    how = ("quantize", "calibration", "calibration_share", "bits", "prune")
    return {key: found[key] for key in (*how, "data", "train", "epochs", "augment")}


def require_changeable(file: Path, given: Compress) -> None:
    """Raise ExportError, before anything is measured, if `write` would fail."""
    _changed(file, Point("weights", bits=4), given)
    if not os.access(file.resolve().parent, os.W_OK):
        raise ExportError(f"{file}: its folder is not writable; --dry-run changes nothing")


def write(file: Path, point: Point, given: Compress) -> None:
    """Change a model.yaml on disk atomically: it holds the old text or the new one. Raises ExportError."""
    try:
        replace_file(file, _changed(file, point, given).encode())
    except OSError as error:
        raise ExportError(f"{file}: could not be changed: {error}") from None


def lines_of(point: Point, given: Compress) -> str:
    """Return the section as one line of model.yaml."""
    return f"{_SECTION}: {{{in_flow(settings_of(point, given))}}}"


def _changed(file: Path, point: Point, given: Compress) -> str:
    try:
        return edited(file.read_bytes().decode("utf-8"), _SECTION, settings_of(point, given))
    except OSError as error:
        raise ExportError(f"{file}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, UnsafeEdit):
        by_hand = f"by hand: {lines_of(point, given)}"
        raise ExportError(f"{file}: `{_SECTION}` is not changed safely as it is written; {by_hand}") from None
