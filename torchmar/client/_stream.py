"""Read a response in parts, as they arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType

import requests

from ..answers import split_error
from ..errors import HandlerFailed
from ._answers import one_line
from ._http import IN_PARTS


class StreamedPrediction:
    """A response whose status has arrived and whose parts follow. Iterate over it once.

    A part is one that the handler sent, unless a proxy joined some. A response without `in_parts` is one
    part. Use it as a context manager, or close it: that closes the connection of a response that was not read
    to its end. The server's worker continues regardless.

    `part_seconds` runs from sending the request to the latest part, `first_seconds` to the first part, and
    `seconds` to the end; each is None before that. `version` and `instead_of` are those of a Prediction.

    Iterating raises TimedOut if the next part is late or the connection breaks. It raises HandlerFailed if
    the handler ends the response with an error line (handlers/worker/stream.py); its `status` is 500,
    although the response's own status is that of the first part.
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
        # nothing else keeps the generator: leaving the loop closes it, and so the connection
        return self._each()

    def __enter__(self) -> StreamedPrediction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; unread parts are lost."""
        self._response.close()

    def _each(self) -> Iterator[bytes]:
        try:
            for part in self._parts:
                self.part_seconds = self._elapsed()
                if self.first_seconds is None:
                    self.first_seconds = self.part_seconds
                good, reason = split_error(part, self.request_id) if self.in_parts else (part, None)
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
            if self.first_seconds is None:  # an empty response
                self.first_seconds = self.seconds
        finally:
            self.close()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._begun
