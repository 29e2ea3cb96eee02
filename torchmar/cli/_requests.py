"""Makes the requests of `predict`, and saves its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ClientError

if TYPE_CHECKING:
    from ..client import Prediction


@dataclass(frozen=True)
class Sent:
    """Holds one request: a file as it is, or the fields of a form."""

    title: str
    arguments: dict[str, Any]
    """The arguments for Inference.predict."""
    files: tuple[Path, ...]


def requests_of(files: Sequence[Path], fields: Sequence[str]) -> list[Sent]:
    """Return a request for each file, or one for all fields.

    Raises ClientError if both or neither are given, or with everything that cannot be sent.
    """
    if bool(files) == bool(fields):
        both = "send files or fields (-F), not both" if files else "nothing to send"
        raise ClientError(f"{both}: give files, each of which is a request, or -F NAME=VALUE, -F NAME=@FILE")
    form, wrong = _form_of(fields)
    named = [value for value in form.values() if isinstance(value, Path)]
    wrong += [text for file in (*files, *named) if (text := _unreadable(file))]
    if wrong:
        raise ClientError("\n".join(wrong))
    if form:
        return [Sent(", ".join(form), {"fields": form}, tuple(named))]
    return [Sent(str(file), {"data": file}, (file,)) for file in files]


def _form_of(fields: Sequence[str]) -> tuple[dict[str, str | Path], list[str]]:
    """Return the form, and what is wrong with it: as with curl, `a=2` is a text and `a=@x.jpg` a file."""
    form: dict[str, str | Path] = {}
    wrong = []
    for field in fields:
        name, equals, value = field.partition("=")
        if not (name and equals):
            wrong.append(f"-F {field}: write NAME=VALUE, or NAME=@FILE")
        elif name in form:
            wrong.append(f"-F {field}: {name} is given twice, and TorchServe would keep one of them")
        else:
            form[name] = Path(value[1:]) if value.startswith("@") else value
    return form, wrong


def _unreadable(file: Path) -> str:
    """Return why a file cannot be sent; '' if it can be."""
    try:
        if not file.is_file():
            return f"{file}: cannot be read: {'it is a folder' if file.is_dir() else 'no such file'}"
        with file.open("rb"):
            return ""
    except OSError as error:
        return f"{file}: cannot be read: {error.strerror}"


def require_targets(requests: Sequence[Sent], **targets: Path | None) -> None:
    """Check the files that an answer will be written to; `targets` has them by their options.

    Raises ClientError if several answers would go into one file, if a file is sent itself, or if its folder
    is missing.
    """
    given = {option: path for option, path in targets.items() if path is not None}
    for option, path in given.items():
        if len(requests) > 1:
            raise ClientError(f"--{option} {path}: holds one answer; send one file at a time")
        if path.resolve() in {file.resolve() for file in requests[0].files}:
            raise ClientError(f"--{option} {path}: this file is sent; name another file for the answer")
        if not path.parent.is_dir():
            raise ClientError(f"--{option} {path}: cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            raise ClientError(f"--{option} {path}: cannot be written: it is a folder")
    if len({path.resolve() for path in given.values()}) < len(given):
        raise ClientError("--save and --draw: name two files")


def save(answer: Prediction, file: Path) -> None:
    """Write the body of an answer to a file, unchanged. Raises ClientError."""
    try:
        file.write_bytes(answer.content)
    except OSError as error:
        raise ClientError(f"--save {file}: cannot be written: {error.strerror}") from None
