"""Apply the rules of TorchServe's service (ts/service.py, ts/protocol) to a handler's input and answer."""

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
"""The header of a response in parts: "true" with each part but the last."""


def parameter_value(parameter: Parameter) -> Any:
    """Return an input's value: parse JSON, decode text, and return bytes for the rest and after a failure."""
    raw = bytearray(parameter.value)
    if parameter.content_type == "application/json":
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(raw.decode("utf-8"))
    elif parameter.content_type.startswith("text"):
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode("utf-8")
    return raw


def request_headers(request: Request) -> dict[str, Any]:
    """Return the headers of the request and its inputs; the frontend's own entries win."""
    own: dict[str, Any] = {p.name: {"content-type": p.content_type} for p in request.parameters}
    return {**own, **request.headers, "explain": "False", "url_path": ""}


class WorkerDies(Exception):
    """The worker dies, or the frontend cannot read its message; either way the batch fails."""


def handler_error(error: Exception, max_response_size: int) -> Response:
    """Return the response that an exception of the handler causes for its batch. Raises WorkerDies."""
    stock = sys.modules.get("ts.utils.util")
    if stock is not None and isinstance(error, stock.PredictionException):
        status, message = error.error_code, error.message
        if not isinstance(message, str) or not isinstance(status, int) or status < 0:
            raise WorkerDies("its PredictionException has no message or no status")
        require_size(message, max_response_size)
        # The frontend takes status 200 for success, and sends what the worker gives as the response.
        return Response(200, b"error") if status == 200 else server_error(status, message)
    if "CUDA" in str(error):
        return server_error(507, "Out of resources")
    return server_error(503, "Prediction failed")


def server_error(status: int, message: str) -> Response:
    """Return the frontend's own error. It maps 413 to 507."""
    status = 507 if status == 413 else status
    content = {"code": status, "type": "InternalServerException", "message": message}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return Response(status, sent_with(status, text.encode()), "application/json")


class Unserialisable(Exception):
    """An answer that is neither bytes nor text, tensor or JSON."""


def encode_response(context: WorkerContext, index: int, answer: Any) -> Response:
    """Return the response that TorchServe's service sends.

    Raises Unserialisable, or what kills the service.
    """
    if context.get_response_headers(index).get(NEXT) == "true":  # earlier parts were sent: this is the last
        context.set_response_header(index, NEXT, "false")
    status, phrase = context.get_response_status(index)
    content_type = context.get_response_content_type(index) or ""
    headers = dict(context.get_response_headers(index))
    status, phrase = 200 if status is None else status, phrase or ""
    # A status that is no int, and a header that is no text, kill TorchServe's service.
    struct.pack("!i", status)
    for text in (content_type, phrase, *headers, *headers.values()):
        text.encode("utf-8")
    return Response(status, _serialise(answer), content_type, phrase, headers)


def require_readable(response: Response, max_response_size: int) -> None:
    """Raise WorkerDies for a response that the frontend cannot read; it then loses the whole message."""
    for text in (response.content_type, response.phrase):
        # TorchServe's service writes the number of characters where the frontend expects bytes, which then
        # loses its place.
        if len(text.encode("utf-8")) != len(text):
            raise WorkerDies(f"{text!r:.60} is not ASCII")
    for part in (response.content_type, response.phrase, response.body):
        require_size(part, max_response_size)
    for part in (*response.headers, *response.headers.values()):
        require_size(part, _MAX_HEADER)


def require_size(part: str | bytes, limit: int) -> None:
    """Raise WorkerDies for a part above the limit, after which the frontend drops the worker.

    The frontend checks each part alone, so a batch may be larger.
    """
    size = len(part.encode("utf-8") if isinstance(part, str) else part)
    if size > limit:
        raise WorkerDies(f"{size:,} bytes are more than max_response_size ({limit:,})")


# Exactly what Netty accepts, which is more than HTTP allows.
_HEADER_NAME = re.compile(r"[^\0\t\n\v\f\r ,:;=\x80-\U0010ffff]+")
_HEADER_VALUE = re.compile(r"(?:[^\0\v\f\r\n]|\r?\n[\t ])*")
_MAX_HEADER = 6_500_000  # bytes; max_response_size does not change it


def is_http(response: Response) -> bool:
    """Return whether Netty accepts its status, phrase and headers. If not, it sends nothing more."""
    headers = {"content-type": response.content_type, **response.headers}
    if NEXT in headers:  # Netty does not check the headers of a response in parts
        headers = {}
    return (
        response.status >= 0
        and not {"\r", "\n"} & set(response.phrase)
        and all(_HEADER_NAME.fullmatch(name) for name in headers)
        and all(_HEADER_VALUE.fullmatch(value) for value in headers.values())
    )


WITHOUT_BODY = frozenset({204, 304})
"""Statuses for which HTTP allows no body."""


def sent_with(status: int, body: bytes) -> bytes:
    """Return the body that goes out with a status."""
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
