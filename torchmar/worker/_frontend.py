"""Play the frontend's part for a batch: turn its worker's messages into the callers' responses.

Follows BatchAggregator, RestJob and ModelResponseDecoder of TorchServe 0.12 (org.pytorch.serve);
tests/live/test_worker_agrees.py and test_streams.py compare both.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..answers import shown
from ._exchange import Response
from ._service import (
    NEXT,
    WITHOUT_BODY,
    WorkerDies,
    is_http,
    require_readable,
    sent_with,
    server_error,
)

logger = logging.getLogger(__name__)

_GOOD = 200
_END = -1  # stands in place of another request's id length


class Batch:
    """Collects the responses of a batch by request id; the handler sees it as the socket to the frontend.

    `max_response_size` is in bytes.
    """

    def __init__(self, ids: Mapping[int, str], max_response_size: int) -> None:
        self._answers = {number: _Answer() for number in ids.values()}
        self._limit = max_response_size
        self._unread = b""
        self._over = False

    def responses(self) -> list[Response]:
        """Return each caller's response, in the order of the requests."""
        return [replace(each.response(), request_id=number) for number, each in self._answers.items()]

    def sendall(self, data: bytes) -> None:
        """Take the worker's messages, as `send_intermediate_predict_response` sends them.

        Raises BrokenPipeError for a message after which the frontend would end the worker.
        """
        self._unread += bytes(data)
        try:
            while self._unread:
                message = _Reader(self._unread)
                self.take(*message.read())
                self._unread = self._unread[message.place :]
        except struct.error:  # the rest of the message is missing
            return
        except WorkerDies as error:
            logger.warning("a part cannot be sent: %s", error)
            self.die()
            raise BrokenPipeError("the frontend gave this worker up") from error

    def take(self, responses: Mapping[str, Response], error: Response | None = None) -> None:
        """Take one message: a part of each response that it names, or an error for all. Raises WorkerDies."""
        if self._over:
            logger.warning("more was sent after the last message of a batch: TorchServe's worker dies of it")
            return
        if error is not None:
            self._end(error)
            return
        for response in responses.values():
            require_readable(response, self._limit)
        for number, response in responses.items():
            if number not in self._answers or not is_http(response):
                raise WorkerDies("it sent what is no answer to a request of the batch")
            self._answers[number].take(response)
        if not any(response.headers.get(NEXT) == "true" for response in responses.values()):
            self._end(None)

    def die(self) -> None:
        """End the worker before its batch has ended."""
        if not self._over:
            self._end(server_error(500, "Worker died."))

    def _end(self, error: Response | None) -> None:
        self._over = True
        for answer in self._answers.values():
            answer.end(error)


@dataclass
class _Answer:
    """What one caller has got so far; `head` holds status and headers."""

    head: Response | None = None
    parts: tuple[bytes, ...] = ()
    over: bool = False
    broken: str = ""

    def take(self, response: Response) -> None:
        """Take a message's part. In a response in parts, the first part brings status and headers."""
        more = response.headers.get(NEXT)
        if self.over:
            logger.warning("something was sent after the end of an answer, and spoils its connection")
        elif self.head is None and more is None:
            self.head, self.over = replace(response, body=sent_with(response.status, response.body)), True
        elif more is None or (self.head is None and more != "true"):
            self._break("no first part, or no last one, was marked so (ts_stream_next): its caller waits on")
        else:
            self.head = self.head or replace(response, body=b"")
            self.over = more != "true"
            if self.head.status >= 400:
                self._break("behind the status of an error the frontend sends no parts")
            elif response.body and self.head.status not in WITHOUT_BODY:
                self.parts += (response.body,)

    def end(self, error: Response | None) -> None:
        """End the response with its batch. One that has begun cannot change its status."""
        if self.over:
            return
        if error is None:
            self._break("the batch ended without its last part: its caller waits on")
        elif self.head is None:
            self.head, self.over = error, True
        else:
            self._break(
                f"the batch ended with {error.status}, and the connection with it: {shown(error.body)}"
            )

    def _break(self, why: str) -> None:
        self.broken, self.over = why, True

    def response(self) -> Response:
        head = self.head or Response(0, b"")
        body = head.body + b"".join(self.parts)
        return replace(head, body=body, parts=self.parts, broken=self.broken)


class _Reader:
    """Reads one message (ts/protocol/otf_message_handler.py). Raises struct.error if a part is missing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def read(self) -> tuple[dict[str, Response], Response | None]:
        """Return the response for each request, and the error if the message is one. Raises WorkerDies."""
        code, text = self._int(), self._sized(self._int()).decode()
        responses: dict[str, Response] = {}
        while (length := self._int()) != _END:
            number = self._sized(length).decode()
            content_type = self._text()
            status, phrase = self._int(), self._text()
            headers = {self._text(): self._text() for _ in range(self._int())}
            body = self._sized(self._int())
            responses[number] = Response(status, body, content_type, phrase, headers)
        return responses, None if code == _GOOD else server_error(code, text)

    def _text(self) -> str:
        try:
            return self._sized(self._int()).decode()
        except UnicodeDecodeError as error:
            raise WorkerDies("its message is not what TorchServe's own functions make") from error

    def _sized(self, length: int) -> bytes:
        if length < 0:
            raise WorkerDies("its message is not what TorchServe's own functions make")
        start, self.place = self.place, self.place + length
        if self.place > len(self._data):
            raise struct.error
        return self._data[start : self.place]

    def _int(self) -> int:
        [value] = struct.unpack("!i", self._sized(4))
        return int(value)
