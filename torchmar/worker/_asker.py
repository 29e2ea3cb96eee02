"""Asking a loaded handler, and why it fails: callers are never told, but the service and handlers log it."""

from __future__ import annotations

import logging
import re
import textwrap
from pathlib import Path

from ..files import content_type_of
from ._exchange import Request, Response
from ._worker import Worker

_BEGINS = "Traceback (most recent call last):"
_FRAME = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_LONGEST = 300  # characters of what an error says


class Asker(logging.Handler):
    """A worker that is asked one request after the other; as a context manager it listens to the log.

    `cause` is the last traceback that was logged while the last request was asked, in a line; else "".
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter())
        self.worker, self.model_dir = worker, worker.model_dir
        self.cause = ""

    def __enter__(self) -> Asker:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)

    def ask(self, name: str, body: bytes) -> Response:
        """The answer to one request, alone, whose content type is told by the `name` of its file."""
        self.cause = ""
        [response] = self.worker.predict([Request.body(body, content_type_of(name))])
        return response

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a record says of an exception; a handler may have written the traceback as a text."""
        _, begins, traced = self.format(record).rpartition(_BEGINS)
        if begins:
            self.cause = cause_of(traced, self.model_dir)


def cause_of(traced: str, folder: Path) -> str:
    """What a traceback comes to: `mine.py line 3: KeyError: 'x'`.

    `traced` is what follows its first line. The place is the last one in `folder`, the archive, and outside
    of its `handlers`, where there is one; else the last one of all, by its file's name.
    """
    traced = textwrap.dedent(traced.removeprefix("\n"))
    frames = [(Path(found["file"]), found["line"]) for found in _FRAME.finditer(traced)]
    own = [(file.relative_to(folder), line) for file, line in frames if file.is_relative_to(folder)]
    found = [place for place in own if place[0].parts[0] != "handlers"] or own
    found = found or [(Path(file.name), line) for file, line in frames]
    said = [line for line in traced.splitlines() if line[:1].strip()]
    what = said[0][:_LONGEST] if said else "an error"
    return f"{found[-1][0].as_posix()} line {found[-1][1]}: {what}" if found else what
