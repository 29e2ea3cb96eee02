"""Write a candidate into model.yaml: change the values of `serving`, and no other byte."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from ...errors import TuneError
from ...files import is_file, replace_file
from ...spec import SPEC_FILE, UnsafeEdit, edited, in_flow, load_model
from ._values import Candidate

_SECTION = "serving"


def settings_of(candidate: Candidate) -> dict[str, int]:
    """Return the new values of `serving`: no delay without batches, no threads if None."""
    settings = {
        "minWorkers": candidate.workers,
        "maxWorkers": candidate.workers,
        **({} if candidate.threads is None else {"threads": candidate.threads}),
        "batchSize": candidate.batch_size,
    }
    return settings | ({"maxBatchDelay": candidate.max_batch_delay} if candidate.batch_size > 1 else {})


def lines_of(candidate: Candidate) -> str:
    """Return them as one line of model.yaml."""
    return f"{_SECTION}: {{{in_flow(settings_of(candidate))}}}"


def changed(text: str, candidate: Candidate) -> str:
    """Return a model.yaml's text with the candidate's settings. Raises TuneError if that is not safe."""
    try:
        return edited(text, _SECTION, settings_of(candidate))
    except UnsafeEdit:
        raise _cannot(candidate) from None


def model_yaml_of(name: str, folder: Path | None) -> Path | None:
    """Return the model.yaml of a model in its `folder`; by default in models/NAME, None if there is none.

    Raises SpecError; TuneError if it is another model's.
    """
    if folder is None:
        folder = Path("models") / name
        if not is_file(folder / SPEC_FILE):
            return None
    source = load_model(folder)
    if source.spec.name != name:
        raise TuneError(
            f"--model {folder}: it is the folder of {source.spec.name!r}, but the archive is of {name!r}"
        )
    return source.file


def require_changeable(file: Path) -> None:
    """Raise TuneError, before anything is measured, if `write` would fail."""
    try:
        changed(_text(file), Candidate(1, 1, 2, 1))
    except (OSError, UnicodeDecodeError) as error:
        raise TuneError(f"{file}: cannot be read: {error}") from None
    if not os.access(file.resolve().parent, os.W_OK):
        raise TuneError(f"{file}: its folder is not writable; --dry-run changes nothing")


def write(file: Path, candidate: Candidate) -> None:
    """Change a model.yaml on disk atomically: it holds the old text or the new one.

    Raises TuneError.
    """
    try:
        replace_file(file, changed(_text(file), candidate).encode())
    except (OSError, UnicodeDecodeError) as error:
        raise TuneError(f"{file}: could not be changed: {error}") from None


def _text(file: Path) -> str:
    """Return the file's text, with its byte order mark if it has one: it stays there."""
    raw = file.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise TuneError(f"{file}: save it as UTF-8: it is UTF-16, which is read and not changed")
    return raw.decode("utf-8")


def _cannot(candidate: Candidate) -> TuneError:
    return TuneError(
        f"`{_SECTION}` is written in a way that is not changed safely; by hand: {lines_of(candidate)}"
    )
