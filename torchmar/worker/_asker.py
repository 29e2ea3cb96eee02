"""Ask a loaded handler, and find out why it fails: its response hides the cause, but the log has it."""

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
_LONGEST = 300  # characters of an error's message


class Asker(logging.Handler):
    """Asks a worker one request at a time; as a context manager, it also listens to the log.

    `cause` is the last traceback that the latest request logged, in one line; '' if there was none.
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
        """Return the response to one request in a batch of its own.

        The suffix of `name` gives its content type.
        """
        self.cause = ""
        [response] = self.worker.predict([Request.body(body, content_type_of(name))])
        return response

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record's exception; a handler may have logged the traceback as text."""
        _, begins, traced = self.format(record).rpartition(_BEGINS)
        if begins:
            self.cause = cause_of(traced, self.model_dir)


def cause_of(traced: str, folder: Path) -> str:
    """Return a traceback in one line: `mine.py line 3: KeyError: 'x'`.

    `traced` is the text after the traceback's first line. The place is the last frame in `folder`, the
    archive, outside of its `handlers` if possible. Without a frame in `folder`, it is the very last frame, by
    its file's name.
    """
    traced = textwrap.dedent(traced.removeprefix("\n"))
    frames = [(Path(found["file"]), found["line"]) for found in _FRAME.finditer(traced)]
    own = [(file.relative_to(folder), line) for file, line in frames if file.is_relative_to(folder)]
    found = [place for place in own if place[0].parts[0] != "handlers"] or own
    found = found or [(Path(file.name), line) for file, line in frames]
    messages = [line for line in traced.splitlines() if line[:1].strip()]
    what = messages[0][:_LONGEST] if messages else "an error"
    return f"{found[-1][0].as_posix()} line {found[-1][1]}: {what}" if found else what
