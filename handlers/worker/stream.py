"""Answers in parts: each is sent as soon as it is there, as a chunk of one HTTP answer.

TorchServe's own `send_intermediate_predict_response` is for batches whose requests all end at once. This
sends the same messages (ts/protocol/otf_message_handler.py of TorchServe 0.12, `create_predict_response`),
and ends each request when its own parts end.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .answers import failure, refusal
from .frontend import max_response_size

Part = str | bytes

_NEXT = "ts_stream_next"
"""The header that makes an answer one in parts: "true" with each but the last, which has "false"."""


def send_parts(
    context: Any,
    parts: Mapping[int, Iterator[Part]],
    count: int,
    *,
    answered: Mapping[int, Part] | None = None,
) -> list[Part]:
    """Send the parts of a batch's requests in turn; the `count` last parts, which `handle` is to return.

    `parts` has an iterator for each request, by its index, that is answered in parts; `answered` has the
    answers of others, which are sent beside the first part of any. Status, headers and content type of an
    answer are what the context holds when its first part is sent. An empty part tells the frontend that the
    worker is at it still: `responseTimeout` counts from message to message.

    What an iterator raises ends its own request. Before the first part that is an answer of its own: what
    Refused says, or 500. After it the status cannot be changed, so the last part is a line
    {"error": "…", "request_id": "…"}. By its `request_id`, that of the answer's header X-Request-Id, a caller
    tells it from what a model may say.
    """
    batch = _Batch(context, dict(answered or {}))
    live = dict(parts)
    while live:
        for index, iterator in list(live.items()):
            try:
                part = _bytes(next(iterator))
            except StopIteration:
                batch.end(index, b"")
            except Exception as error:
                batch.end(index, batch.last_words(index, error))
            else:
                batch.send(index, part)
                continue
            del live[index]
            batch.flush(live)
    return [batch.over.get(index, b"") for index in range(count)]


class _Batch:
    """What was sent of a batch; `over` has the ends, by index, that are not sent yet.

    A message in which no request goes on ends the batch for the frontend. So an end is sent beside a part of
    another request, or returned by the handler.
    """

    def __init__(self, context: Any, over: dict[int, Part]) -> None:
        self.over = over
        self._context = context
        self._begun: set[int] = set()
        self._most = max_response_size()

    def send(self, index: int, part: bytes) -> None:
        """A part, in as many messages as its length needs, and whatever has ended meanwhile."""
        self._begun.add(index)
        for start in range(0, max(1, len(part)), self._most):
            piece = part[start : start + self._most]
            self._send({**self.over, index: piece}, goes_on=index)
            for ended in self.over:  # TorchServe makes its last message of the ids that are left there
                del self._context.request_ids[ended]
            self.over.clear()

    def end(self, index: int, part: Part) -> None:
        """The last part of a request."""
        self.over[index] = part

    def flush(self, live: Iterable[int]) -> None:
        """Send the ends beside an empty part, which nobody sees, of a request that has begun and goes on."""
        for index in self._begun.intersection(live):
            self.send(index, b"")
            return

    def last_words(self, index: int, error: Exception) -> Part:
        """What tells a caller why there is no more."""
        from .answers import Refused

        if isinstance(error, Refused):
            told = refusal(self._context, index, error.reason, error.status)
        else:
            told = failure(self._context, index, "the answer could not be completed", error)
        if index not in self._begun:
            return told
        told_later = {"error": json.loads(told)["error"], "request_id": self._context.get_request_id(index)}
        return f"\n{json.dumps(told_later)}\n"

    def _send(self, parts: Mapping[int, Part], goes_on: int) -> None:
        context = self._context
        message = bytearray(_int(200) + _sized("Intermediate Prediction success"))
        for index, part in parts.items():
            if index in self._begun:
                context.set_response_header(index, _NEXT, "true" if index == goes_on else "false")
            status, phrase = context.get_response_status(index)
            headers = context.get_response_headers(index)
            message += _sized(context.request_ids[index])
            message += _sized(context.get_response_content_type(index) or "")
            message += _int(200 if status is None else status) + _sized(phrase or "")
            message += _int(len(headers))
            for name, value in headers.items():
                message += _sized(name) + _sized(value)
            message += _sized(part)
        message += _int(_END)
        if os.environ.get("LOCAL_RANK", "0") == "0":  # of several processes of one worker, the first speaks
            context.cl_socket.sendall(message)


_END = -1  # in place of the length of another request's number


def _int(value: int) -> bytes:
    return struct.pack("!i", value)


def _sized(content: Part) -> bytes:
    content = _bytes(content)
    return _int(len(content)) + content


def _bytes(part: Part) -> bytes:
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytes | bytearray):
        return bytes(part)
    raise TypeError(f"a part of an answer must be str or bytes, not {type(part).__name__}")
