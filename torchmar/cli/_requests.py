"""What `predict` sends, and where it puts an answer."""

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
    """One request: a file as it is, or a form's fields."""

    title: str
    arguments: dict[str, Any]
    """Of Inference.predict."""
    files: tuple[Path, ...]


def requests_of(files: Sequence[Path], fields: Sequence[str]) -> list[Sent]:
    """Each file as a request, or all fields as one.

    Raises ClientError for both, for neither, and for whatever cannot be sent, all of it at once.
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
    """`a=2` is a text, `a=@x.jpg` a file, as curl has them; and what is wrong with others."""
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
    """Why a file cannot be sent; '' where it can be."""
    try:
        if not file.is_file():
            return f"{file}: cannot be read: {'it is a folder' if file.is_dir() else 'no such file'}"
        with file.open("rb"):
            return ""
    except OSError as error:
        return f"{file}: cannot be read: {error.strerror}"


def require_targets(requests: Sequence[Sent], **targets: Path | None) -> None:
    """Hold the files that an answer is to be written to against what is sent.

    `targets` are files by the option that names them. Raises ClientError: several answers would go into one
    file, or one into a file that is sent, or into a folder that is not there.
    """
    given = {option: path for option, path in targets.items() if path is not None}
    for option, path in given.items():
        if len(requests) > 1:
            raise ClientError(f"--{option} {path}: takes one answer; send one file at a time")
        if path.resolve() in {file.resolve() for file in requests[0].files}:
            raise ClientError(f"--{option} {path}: this file is sent; name another one for the answer")
        if not path.parent.is_dir():
            raise ClientError(f"--{option} {path}: cannot be written: there is no folder {path.parent}")
        if path.is_dir():
            raise ClientError(f"--{option} {path}: cannot be written: it is a folder")
    if len({path.resolve() for path in given.values()}) < len(given):
        raise ClientError("--save and --draw: name two files")


def save(answer: Prediction, file: Path) -> None:
    """Write the body of an answer, as it came. Raises ClientError."""
    try:
        file.write_bytes(answer.content)
    except OSError as error:
        raise ClientError(f"--save {file}: cannot be written: {error.strerror}") from None
