"""Write a candidate into model.yaml: change the values of `serving`, and no other byte.

Printing the parsed file would lose its layout, so each value is replaced in place.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Any

import yaml

from ...errors import TuneError
from ...files import is_file, replace_file
from ...spec import SPEC_FILE, load_model
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
    pairs = ", ".join(f"{key}: {value}" for key, value in settings_of(candidate).items())
    return f"{_SECTION}: {{{pairs}}}"


def changed(text: str, candidate: Candidate) -> str:
    """Return a model.yaml's text with the candidate's settings. Raises TuneError if that is not safe."""
    settings = settings_of(candidate)
    try:
        before = yaml.safe_load(text)
        result = _spliced(text, settings)
        after = yaml.safe_load(result)
    except (yaml.YAMLError, _TooUnusual):
        raise _cannot(candidate) from None
    if after != {**before, _SECTION: {**(before.get(_SECTION) or {}), **settings}}:
        raise _cannot(candidate)
    return result


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


class _TooUnusual(Exception):
    """A form of YAML in which values cannot be replaced in place."""


def _cannot(candidate: Candidate) -> TuneError:
    return TuneError(
        f"`{_SECTION}` is written in a way that is not changed safely; by hand: {lines_of(candidate)}"
    )


def _spliced(text: str, settings: dict[str, int]) -> str:
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(document, yaml.MappingNode) or document.flow_style:
        raise _TooUnusual
    end = "\r\n" if "\r\n" in text else "\n"
    section = next((value for key, value in document.value if key.value == _SECTION), None)
    if section is None:
        pairs = ", ".join(f"{key}: {value}" for key, value in settings.items())
        gap = "" if text.endswith("\n") else end
        return f"{text}{gap}{_SECTION}: {{{pairs}}}{end}"
    if not isinstance(section, yaml.MappingNode) or not section.value:
        raise _TooUnusual
    edits: list[tuple[int, int, str]] = []
    there = {key.value: value for key, value in section.value}
    for key, value in settings.items():
        if key in there:
            edits.append(_replacement(there[key], value))
    missing = {key: value for key, value in settings.items() if key not in there}
    last = section.value[-1]
    if missing and section.flow_style:
        at = last[1].end_mark.index
        edits.append((at, at, "".join(f", {key}: {value}" for key, value in missing.items())))
    elif missing:
        indent = " " * section.value[0][0].start_mark.column
        at = text.find("\n", last[1].end_mark.index)
        at = len(text) if at < 0 else at + 1
        lead = "" if at == 0 or text[at - 1] == "\n" else end
        edits.append((at, at, lead + "".join(f"{indent}{key}: {v}{end}" for key, v in missing.items())))
    for start, stop, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[stop:]
    return text


def _replacement(node: Any, value: int) -> tuple[int, int, str]:
    if not isinstance(node, yaml.ScalarNode) or node.style in {"|", ">"}:
        raise _TooUnusual
    return node.start_mark.index, node.end_mark.index, str(value)
