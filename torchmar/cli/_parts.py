"""Prints an answer in parts, as they come."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ._output import clean, err, json_text
from ._requests import Sent

if TYPE_CHECKING:
    from ..client import Inference, StreamedPrediction


def print_parts(
    inference: Inference, name: str, requests: Sequence[Sent], version: str | None, *, as_json: bool
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
                    _write(json_text({"file": file, "part": text, "seconds": answer.part_seconds}) + "\n")
                times = {"first_seconds": answer.first_seconds, "seconds": answer.seconds}
                _write(json_text({"file": file, **times}) + "\n")
            else:
                _print_text(file, answer)


def _print_text(file: str, answer: StreamedPrediction) -> None:
    text = "\n"
    try:
        for text in _decoded(answer):
            _write(clean(text))
    finally:
        if not text.endswith("\n"):
            _write("\n")
    assert answer.first_seconds is not None
    assert answer.seconds is not None
    times = f"first part {answer.first_seconds * 1000:.0f} ms, all {answer.seconds * 1000:.0f} ms"
    if not answer.in_parts:
        times = f"all at once, {answer.seconds * 1000:.0f} ms: the answer had no parts; {_ASK_FOR_PARTS}"
    err.print(f"{clean(file)}  ({times})", markup=False, style="dim")


_ASK_FOR_PARTS = 'some models send parts only if the request says "stream": true'


def _decoded(parts: StreamedPrediction) -> Iterator[str]:
    """Yield the text of the parts; a character may begin in one part and end in the next."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for part in parts:
        yield decoder.decode(part)
    if rest := decoder.decode(b"", final=True):
        yield rest


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()  # the reader of a pipe waits for each part, too
