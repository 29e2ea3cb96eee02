"""The stock service's rules (ts/service.py, ts/protocol): what a handler gets, what becomes of its answer."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import sys
from typing import Any

from ._context import WorkerContext
from ._exchange import Parameter, Request, Response


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
    own: dict[str, Any] = {p.name: {"content-type": p.content_type} for p in request.parameters}
    return {**own, "explain": "False", "url_path": "", **request.headers}


def handler_error(error: Exception) -> Response:
    """What an exception of the handler becomes, for every request of its batch."""
    stock = sys.modules.get("ts.utils.util")
    if stock is not None and isinstance(error, stock.PredictionException):
        return server_error(error.error_code, error.message)
    if "CUDA" in str(error):
        return server_error(507, "Out of resources")
    return server_error(503, "Prediction failed")


def server_error(status: int, message: str) -> Response:
    """The frontend's own error, with its mapping of 413."""
    status = 507 if status == 413 else status
    content = {"code": status, "type": "InternalServerException", "message": message}
    return Response(status, (json.dumps(content, indent=2) + "\n").encode(), "application/json")


class Unserialisable(Exception):
    """An answer that is none of bytes, text, tensor and JSON."""


def encode_response(context: WorkerContext, index: int, answer: Any) -> Response:
    status, phrase = context.get_response_status(index)
    content_type = context.get_response_content_type(index) or ""
    headers = dict(context.get_response_headers(index))
    status, phrase = 200 if status is None else status, phrase or ""
    # The stock service dies of a status that is no int, and of a header that is no text.
    struct.pack("!i", status)
    for text in (content_type, phrase, *headers, *headers.values()):
        text.encode("utf-8")
    return Response(status, _serialise(answer), content_type, phrase, headers)


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
