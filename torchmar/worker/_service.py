"""The stock service's rules (ts/service.py, ts/protocol): what a handler gets, what becomes of its answer."""

from __future__ import annotations

import contextlib
import io
import json
import re
import struct
import sys
from typing import Any

from ._context import WorkerContext
from ._exchange import Parameter, Request, Response

MAX_RESPONSE_SIZE = 6_553_500
"""TorchServe's default of `max_response_size`, in bytes."""
NEXT = "ts_stream_next"
"""The header that makes an answer one in parts: "true" with each but the last one."""


def parameter_value(parameter: Parameter) -> Any:
    """JSON is parsed and text decoded by their content type; what fails to is passed on as bytes."""
    raw = bytearray(parameter.value)
    if parameter.content_type == "application/json":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(raw.decode("utf-8"))
    elif parameter.content_type.startswith("text"):
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-8")
    return raw


def request_headers(request: Request) -> dict[str, Any]:
    """Of the request and of its inputs; what the frontend says itself, nobody else can say."""
    own: dict[str, Any] = {p.name: {"content-type": p.content_type} for p in request.parameters}
    return {**own, **request.headers, "explain": "False", "url_path": ""}


class WorkerDies(Exception):
    """The worker, or the frontend's reading of what it has sent, ends with an error: so does its batch."""


def handler_error(error: Exception, max_response_size: int) -> Response:
    """What an exception of the handler becomes, for every request of its batch. Raises WorkerDies."""
    stock = sys.modules.get("ts.utils.util")
    if stock is not None and isinstance(error, stock.PredictionException):
        status, message = error.error_code, error.message
        if not isinstance(message, str) or not isinstance(status, int) or status < 0:
            raise WorkerDies("its PredictionException has no message or no status")
        require_size(message, max_response_size)
        # The frontend takes 200 for a batch that went well, and sends what the worker puts for an answer.
        return Response(200, b"error") if status == 200 else server_error(status, message)
    if "CUDA" in str(error):
        return server_error(507, "Out of resources")
    return server_error(503, "Prediction failed")


def server_error(status: int, message: str) -> Response:
    """The frontend's own error, with its mapping of 413."""
    status = 507 if status == 413 else status
    content = {"code": status, "type": "InternalServerException", "message": message}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return Response(status, sent_with(status, text.encode()), "application/json")


class Unserialisable(Exception):
    """An answer that is none of bytes, text, tensor and JSON."""


def encode_response(context: WorkerContext, index: int, answer: Any) -> Response:
    """What the stock service sends. Raises Unserialisable, or what the stock service dies of."""
    if context.get_response_headers(index).get(NEXT) == "true":  # it was answered in parts: this is the last
        context.set_response_header(index, NEXT, "false")
    status, phrase = context.get_response_status(index)
    content_type = context.get_response_content_type(index) or ""
    headers = dict(context.get_response_headers(index))
    status, phrase = 200 if status is None else status, phrase or ""
    # The stock service dies of a status that is no int, and of a header that is no text.
    struct.pack("!i", status)
    for text in (content_type, phrase, *headers, *headers.values()):
        text.encode("utf-8")
    return Response(status, _serialise(answer), content_type, phrase, headers)


def require_readable(response: Response, max_response_size: int) -> None:
    """Raise WorkerDies for what the frontend cannot read: it loses the whole message."""
    for text in (response.content_type, response.phrase):
        # The stock service counts characters where the frontend counts bytes, and then loses its place.
        if len(text.encode("utf-8")) != len(text):
            raise WorkerDies(f"{text!r:.60} is not ASCII")
    for part in (response.content_type, response.phrase, response.body):
        require_size(part, max_response_size)
    for part in (*response.headers, *response.headers.values()):
        require_size(part, _MAX_HEADER)


def require_size(part: str | bytes, limit: int) -> None:
    """The frontend gives a worker up that sends a part of an answer above the limit. Raises WorkerDies.

    It reads each part by its length and adds nothing up: a batch may be larger.
    """
    size = len(part.encode("utf-8") if isinstance(part, str) else part)
    if size > limit:
        raise WorkerDies(f"{size:,} bytes are more than max_response_size ({limit:,})")


# What Netty takes, to the letter: more than HTTP allows.
_HEADER_NAME = re.compile(r"[^\0\t\n\v\f\r ,:;=\x80-\U0010ffff]+")
_HEADER_VALUE = re.compile(r"(?:[^\0\v\f\r\n]|\r?\n[\t ])*")
_MAX_HEADER = 6_500_000  # bytes; max_response_size does not change it


def is_http(response: Response) -> bool:
    """Whether Netty takes its status, phrase and headers: if not, nothing after it is sent, either."""
    headers = {"content-type": response.content_type, **response.headers}
    if NEXT in headers:  # those of an answer in parts are not looked at
        headers = {}
    return (
        response.status >= 0
        and not {"\r", "\n"} & set(response.phrase)
        and all(_HEADER_NAME.fullmatch(name) for name in headers)
        and all(_HEADER_VALUE.fullmatch(value) for value in headers.values())
    )


WITHOUT_BODY = frozenset({204, 304})
"""Statuses with which HTTP has no body."""


def sent_with(status: int, body: bytes) -> bytes:
    """The body that goes out with a status."""
    return b"" if status in WITHOUT_BODY else body


def _serialise(answer: Any) -> bytes:
    if isinstance(answer, bytes | bytearray):
        return bytes(answer)
    if isinstance(answer, str):
        return answer.encode("utf-8")
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(answer, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(answer, buffer)
        return buffer.getvalue()
    try:
        return json.dumps(answer, indent=2).encode("utf-8")
    except TypeError as error:
        raise Unserialisable(str(error)) from error
