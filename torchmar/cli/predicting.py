"""Defines `torchmar predict`, which sends requests to a model and shows its answers."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import drawing
from ..errors import ClientError, TorchmarError
from ..files import why_no_file
from ._answers import content_of, facts_of, print_answer
from ._command import Shown
from ._options import Name, Version
from ._output import clean, err, json_text
from ._servers import ServerOptions

if TYPE_CHECKING:
    from ..client import Inference, Prediction, StreamedPrediction


def predict(
    name: Name,
    server: ServerOptions,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Files to send, each as one request: .json as JSON, .txt as text, others as bytes."
        ),
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "-F",
            "--field",
            help="A field of a form, instead of files: NAME=VALUE or NAME=@FILE; may be repeated.",
        ),
    ] = None,
    version: Version = None,
    stream: Annotated[bool, "Print each part of an answer as soon as it comes."] = False,
    save: Annotated[Path | None, "Write the answer's bytes to this file."] = None,
    draw: Annotated[
        Path | None,
        "Draw the answer's boxes, masks or labels on the sent picture, and write it to this file.",
    ] = None,
    *,
    json: bool,
) -> Iterator[Shown]:
    """Send files, or one form, to a model and show its answers.

    Rows, flat objects and numbers are printed as tables, text as text, anything else as JSON.

    Example: torchmar predict detector street.jpg --draw boxes.png
    """
    from ..client import remedied

    requests = _requests(files or [], field or [])
    _require_targets(requests, save=save, draw=draw)
    if stream:
        if save is not None or draw is not None:
            raise ClientError("--stream: leave out --save and --draw; the parts go to standard output")
        with server.connect() as connected:
            _print_parts(connected.inference, name, requests, version, as_json=json)
        return
    if draw is not None:
        drawing.require_pillow("--draw")
    with server.connect() as connected, remedied({"": connected}, name):
        for sent in requests:
            answer = connected.inference.predict(name, version=version, **sent.arguments)
            error = None
            try:
                if save is not None:
                    _save(answer, save)
                if draw is not None:
                    drawing.draw(content_of(answer), sent.files, draw)
            except TorchmarError as failed:  # still show the answer
                error = failed
            facts = {"file": sent.title, "seconds": answer.seconds, **facts_of(answer)}
            title = f"{sent.title}  ({answer.seconds * 1000:.0f} ms)"
            yield Shown(facts, partial(print_answer, title, answer, saved=save), error=error)


# -- requests -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Request:
    """Holds one request, a file as it is or the fields of a form: `arguments` for Inference.predict."""

    title: str
    arguments: dict[str, Any]
    files: tuple[Path, ...]


def _requests(files: Sequence[Path], fields: Sequence[str]) -> list[_Request]:
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
        return [_Request(", ".join(form), {"fields": form}, tuple(named))]
    return [_Request(str(file), {"data": file}, (file,)) for file in files]


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


def _require_targets(requests: Sequence[_Request], **targets: Path | None) -> None:
    """Check the files that an answer will be written to; `targets` has them by their options.

    Raises ClientError if several answers would go into one file, if a file is sent itself, or if it cannot be
    written.
    """
    given = {option: path for option, path in targets.items() if path is not None}
    for option, path in given.items():
        if len(requests) > 1:
            raise ClientError(f"--{option} {path}: holds one answer; send one file at a time")
        if path.resolve() in {file.resolve() for file in requests[0].files}:
            raise ClientError(f"--{option} {path}: this file is sent; name another file for the answer")
        if why := why_no_file(path):
            raise ClientError(f"--{option} {path}: cannot be written: {why}")
    if len({path.resolve() for path in given.values()}) < len(given):
        raise ClientError("--save and --draw: name two files")


def _save(answer: Prediction, file: Path) -> None:
    try:
        file.write_bytes(answer.content)
    except OSError as error:
        raise ClientError(f"--save {file}: cannot be written: {error.strerror}") from None


# -- answers in parts ---------------------------------------------------------------------------

_ASK_FOR_PARTS = 'some models send parts only if the request says "stream": true'


def _print_parts(
    inference: Inference, name: str, requests: Sequence[_Request], version: str | None, *, as_json: bool
) -> None:
    """Send each request, and print its answer while it comes.

    For people the text goes to standard output, and the times go to standard error. With --json each part is
    a line {"file", "part", "seconds"}, with the seconds since its request was sent, and each answer ends with
    {"file", "first_seconds", "seconds"}. Raises ClientError if an answer breaks off; its parts are printed.
    """
    for sent in requests:
        file = sent.title
        with inference.predict_stream(name, version=version, **sent.arguments) as answer:
            if as_json:
                for text in _decoded(answer):
                    line = {"file": file, "part": text, "seconds": answer.part_seconds}
                    print(json_text(line), flush=True)
                times = {"first_seconds": answer.first_seconds, "seconds": answer.seconds}
                print(json_text({"file": file, **times}), flush=True)
            else:
                _print_text(file, answer)


def _print_text(file: str, answer: StreamedPrediction) -> None:
    text = "\n"
    try:
        for text in _decoded(answer):
            print(clean(text), end="", flush=True)  # the reader of a pipe waits for each part, too
    finally:
        if not text.endswith("\n"):
            print(flush=True)
    assert answer.first_seconds is not None
    assert answer.seconds is not None
    times = f"first part {answer.first_seconds * 1000:.0f} ms, all {answer.seconds * 1000:.0f} ms"
    if not answer.in_parts:
        times = f"all at once, {answer.seconds * 1000:.0f} ms: the answer had no parts; {_ASK_FOR_PARTS}"
    err.print(f"{clean(file)}  ({times})", markup=False, style="dim")


def _decoded(parts: StreamedPrediction) -> Iterator[str]:
    """Yield the text of the parts; a character may begin in one part and end in the next."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for part in parts:
        yield decoder.decode(part)
    if rest := decoder.decode(b"", final=True):
        yield rest
