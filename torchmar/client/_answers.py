"""Read TorchServe's responses: parse their JSON, and turn each failure into an error of torchmar.errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests

from ..errors import (
    AlreadyRegistered,
    ArchiveNotInStore,
    BadAnswer,
    ClientError,
    HandlerFailed,
    HandlerRefused,
    InvalidRequest,
    IsDefaultVersion,
    ModelNotFound,
    NotAllowed,
    NotFound,
    OutOfResources,
    ServerFailed,
    Unavailable,
    WorkerDied,
)
from ..names import shown

# The parser raises RecursionError for JSON that is nested too deep; TorchServe sends none.
_NOT_JSON = (ValueError, RecursionError)


def json_of(response: requests.Response) -> Any:
    """Return the response's JSON. Raises ClientError if it is not JSON, so hardly from TorchServe."""
    try:
        # json.loads accepts UTF-8, UTF-16 and UTF-32, with or without a byte order mark
        return json.loads(response.content)
    except _NOT_JSON:
        raise ClientError(
            f"{response.url}: answered {response.status_code} with something that is not JSON: "
            f"{response.text[:200]!r}; is this TorchServe?"
        ) from None


@contextmanager
def understood(where: str) -> Iterator[None]:
    """Raise ClientError if the block finds that the JSON lacks TorchServe's form."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ClientError(
            f"{where}: answered with JSON that is not TorchServe's; is this TorchServe?"
        ) from error


# -- answers that are not success ---------------------------------------------------------------


def bad_answer(response: requests.Response, where: str) -> BadAnswer:  # noqa: PLR0911 (one for each kind)
    """Return the error for a failed response of TorchServe, of the handler behind it, or of a proxy."""
    status, body = response.status_code, response.text
    own = _own_error(response)
    if own is None:
        return _handlers_answer(where, status, body, response)
    kind, message = own
    text = f"{where}: {status}: {one_line(message)}"
    if kind == _INVALID_KEY:
        return NotAllowed(
            f"{where}: the token is missing, wrong or expired (TorchServe answers {status}). Tokens are in "
            "key_file.json in the folder the server was started in; a restart makes new ones",
            status=status,
            body=body,
        )
    if kind == "MethodNotAllowedException":
        remedy = "models cannot be registered or unregistered here: start it with enable_model_api=true"
        return NotAllowed(f"{where}: {status}: {remedy}", status=status, body=body)
    if kind == "ModelNotFoundException" and message.startswith("Model not found at"):
        return ArchiveNotInStore(
            f"{text} in the server's model store: put it there, nothing is uploaded", status=status, body=body
        )
    if kind == "ModelNotFoundException" and not message.startswith("Model not found"):
        # not in allowed_urls, or a name with .., which TorchServe refuses as a relative path
        relative = message.startswith("Relative path")
        remedy = "put the archive into the server's model store"
        remedy += ", under a name without '..'" if relative else ""
        return NotAllowed(f"{text}; {remedy}", status=status, body=body)
    simple: dict[str, type[BadAnswer]] = {
        "ModelNotFoundException": ModelNotFound,
        "ModelVersionNotFoundException": ModelNotFound,
        "ConflictStatusException": AlreadyRegistered,
        "InvalidModelVersionException": IsDefaultVersion,
        "ServiceUnavailableException": Unavailable,
        "ResourceNotFoundException": NotFound,
    }
    if kind in simple:
        return simple[kind](text, status=status, body=body)
    if kind == "InternalServerException":
        return _backends_answer(text, status, body, message)
    family: type[BadAnswer] = ServerFailed if status >= 500 else InvalidRequest
    return family(text, status=status, body=body)


# The messages TorchServe sends when a handler failed. Other messages come from a PredictionException.
_FAILED = {
    "Prediction failed",
    "Invalid model predict output",
    "number of batch response mismatched",
    "Unsupported model output data type.",
}


def _backends_answer(text: str, status: int, body: str, message: str) -> BadAnswer:
    """Return the error for the frontend's report that a worker failed a request."""
    if message == "Worker died.":
        return WorkerDied(
            f"{text} The worker crashed or took longer than responseTimeout; its log is model_log.log",
            status=status,
            body=body,
        )
    if status == 507 and message == "Out of resources":
        return OutOfResources(text, status=status, body=body)
    if message in _FAILED:
        return HandlerFailed(f"{text} (the traceback is in model_log.log)", status=status, body=body)
    if 400 <= status < 500:
        return HandlerRefused(text, status=status, body=body, reason=message)
    if status > 500:  # a management call that failed is 500
        return HandlerFailed(text, status=status, body=body, reason=message)
    return ServerFailed(text, status=status, body=body)


def _handlers_answer(where: str, status: int, body: str, response: requests.Response) -> BadAnswer:
    """Return the error for a response without TorchServe's form: the handler sent it, or a proxy."""
    if status < 400:
        there = one_line(response.headers.get("location", "another address"))
        text = f"{where}: {status}: redirects to {there}; not followed, because the token would go along"
        return BadAnswer(text, status=status, body=body)
    reason = body[:500] or str(response.reason or "no reason given")
    content = _json_or_none(response)
    if isinstance(content, dict) and isinstance(content.get("error"), str):
        reason = content["error"]
    text = f"{where}: {status}: {one_line(reason)}"
    if 400 <= status < 500 or status == 501:
        return HandlerRefused(text, status=status, body=body, reason=reason)
    # TorchServe adds this header to every response, and a type to its own errors
    if "x-request-id" in response.headers:
        return HandlerFailed(text, status=status, body=body, reason=reason)
    return ServerFailed(text, status=status, body=body)


_INVALID_KEY = "InvalidKeyException"


def refuses_key(response: requests.Response) -> bool:
    """Return whether TorchServe refuses the token. Skips the body of a success, which may be megabytes."""
    own = _own_error(response) if response.status_code >= 300 else None
    return own is not None and own[0] == _INVALID_KEY


def wants_tls(response: requests.Response) -> bool:
    """Return whether TorchServe or nginx refuses plain HTTP on an https port."""
    messages = ("only accepts HTTPS requests", "plain HTTP request was sent to HTTPS port")
    return response.status_code in {400, 403} and any(words in response.text for words in messages)


def _own_error(response: requests.Response) -> tuple[str, str] | None:
    """Return type and message of TorchServe's own errors, {"code", "type", "message"}; None for others."""
    content = _json_or_none(response)
    if isinstance(content, dict) and isinstance(content.get("type"), str) and "code" in content:
        return content["type"], str(content.get("message"))
    return None


def _json_or_none(response: requests.Response) -> Any:
    try:
        return json.loads(response.content)
    except _NOT_JSON:
        return None


def one_line(text: str) -> str:
    """Return a server's text on one line, without control characters that could drive a terminal."""
    return shown(" ".join(text.split()), 500)
