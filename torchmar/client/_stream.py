"""An answer as it comes, in parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

import requests

from ..answers import end_told
from ..errors import HandlerFailed
from ._answers import one_line
from ._http import IN_PARTS


class StreamedPrediction:
    """An answer of which the status is there, and whose parts come: iterate over them, once.

    A part is what the handler sent as one, unless a proxy joined some; an answer that is not `in_parts` is a
    single one. Use it as a context manager, or close it: the connection of an answer that was not read to its
    end is closed, and the server's worker goes on with it all the same.

    `part_seconds` are from sending the request to the last part that came, `first_seconds` to the first one
    and `seconds` to the end; None before that. `version` and `instead_of` are those of a Prediction.

    Iterating raises TimedOut where the next part does not come in time, or the connection breaks, and
    HandlerFailed where the handler ends the answer with a line that says why (handlers/worker/stream.py); its
    `status` is 500, though what was sent is that of the first part.
    """

    def __init__(
        self,
        response: requests.Response,
        parts: Iterator[bytes],
        where: str,
        version: str | None = None,
        instead_of: str | None = None,
    ) -> None:
        self.status = response.status_code
        self.content_type = response.headers.get("content-type", "")
        self.request_id = response.headers.get("x-request-id", "")
        self.in_parts = IN_PARTS in response.headers
        self.version = version
        self.instead_of = instead_of
        self.part_seconds: float | None = None
        self.first_seconds: float | None = None
        self.seconds: float | None = None
        self._begun = time.perf_counter() - response.elapsed.total_seconds()
        self._response = response
        self._where = where
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return self._each()  # kept nowhere else: a loop that is left closes it, and it the connection

    def __enter__(self) -> StreamedPrediction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Read no more of it."""
        self._response.close()

    def _each(self) -> Iterator[bytes]:
        try:
            for part in self._parts:
                self.part_seconds = self._elapsed()
                if self.first_seconds is None:
                    self.first_seconds = self.part_seconds
                good, reason = end_told(part, self.request_id) if self.in_parts else (part, None)
                if good:
                    yield good
                if reason is not None:
                    raise HandlerFailed(
                        f"{self._where}: the answer broke off: {one_line(reason)}",
                        status=500,
                        body=part.decode(errors="replace"),
                        reason=reason,
                    )
            self.seconds = self._elapsed()
            if self.first_seconds is None:  # an answer of no bytes
                self.first_seconds = self.seconds
        finally:
            self.close()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun
