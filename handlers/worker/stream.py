"""Answer in parts: send each at once, as a chunk of one HTTP response.

TorchServe's own `send_intermediate_predict_response` needs batches whose requests all end together. This
module sends the same messages (ts/protocol/otf_message_handler.py of TorchServe 0.12,
`create_predict_response`), and ends each request when its own parts end.
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
"""The header of an answer in parts: "true" with each part but the last, which has "false"."""


def send_parts(
    context: Any,
    parts: Mapping[int, Iterator[Part]],
    count: int,
    *,
    answered: Mapping[int, Part] | None = None,
) -> list[Part]:
    """Send the parts of a batch's requests in turn; returns the `count` last parts for `handle` to return.

    `parts` has an iterator for each request, by index, that is answered in parts; `answered` has the answers
    of others, which go out with the first part of any. An answer's status, headers and content type are those
    in the context when its first part goes out. An empty part shows the frontend that the worker is alive:
    `responseTimeout` counts from message to message.

    An iterator's exception ends only its own request. Before the first part it becomes a normal answer:
    Refused's, or 500. After it the status cannot change, so the last part is a line {"error": "…",
    "request_id": "…"}. Its `request_id`, which equals the header X-Request-Id, distinguishes it from a
    model's output.
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
    """Sends a batch; `over` has the unsent last parts, by index.

    A message in which no request continues ends the batch for the frontend. So a last part goes out with
    another request's part, or the handler returns it.
    """

    def __init__(self, context: Any, over: dict[int, Part]) -> None:
        self.over = over
        self._context = context
        self._begun: set[int] = set()
        self._most = max_response_size()

    def send(self, index: int, part: bytes) -> None:
        """Send a part, in as many messages as its length needs, with all pending last parts."""
        self._begun.add(index)
        for start in range(0, max(1, len(part)), self._most):
            piece = part[start : start + self._most]
            self._send({**self.over, index: piece}, goes_on=index)
            for ended in self.over:  # TorchServe makes its last message of the remaining ids
                del self._context.request_ids[ended]
            self.over.clear()

    def end(self, index: int, part: Part) -> None:
        """Store the last part of a request."""
        self.over[index] = part

    def flush(self, live: Iterable[int]) -> None:
        """Send pending last parts with an empty part, invisible to callers, of a request that continues."""
        for index in self._begun.intersection(live):
            self.send(index, b"")
            return

    def last_words(self, index: int, error: Exception) -> Part:
        """Return a part that tells the caller why the answer breaks off."""
        from .answers import Refused

        if isinstance(error, Refused):
            reason = refusal(self._context, index, error.reason, error.status)
        else:
            reason = failure(self._context, index, "the answer could not be completed", error)
        if index not in self._begun:
            return reason
        line = {"error": json.loads(reason)["error"], "request_id": self._context.get_request_id(index)}
        return f"\n{json.dumps(line)}\n"

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
        # of several processes of one worker, only the first sends
        if os.environ.get("LOCAL_RANK", "0") == "0":
            context.cl_socket.sendall(message)


_END = -1  # stands in place of another request's id length


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
