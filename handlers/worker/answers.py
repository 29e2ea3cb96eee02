"""Answer a request: JSON with its status, never longer than the frontend takes.

The frontend kills a worker whose answer exceeds `max_response_size`, and fails the whole batch.
"""

from __future__ import annotations

import json
import logging
import textwrap
import traceback
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

logger = logging.getLogger(__name__)

MOST_REASON = 500  # characters; a caller's megabytes must not come back


class Refused(Exception):
    """Refuses this request with a reason; `status` is its HTTP status (4xx, 500 or 501).

    The caller gets the reason; a long one is shortened.
    """

    def __init__(self, reason: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        self.reason = str(reason)
        self.status = HTTPStatus(status)
        super().__init__(reason)


def not_finite(what: str) -> Refused:
    """Return the refusal (500) of an input for which the model gives NaN or infinity; `what` names it."""
    return Refused(
        f"the output could not be encoded: for this {what} the model gives NaN or infinity",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )


@dataclass(frozen=True)
class Content:
    """An answer other than JSON: text, a picture, sound."""

    body: bytes | str
    content_type: str


def answer(context: Any, index: int, content: Any, status: int = HTTPStatus.OK) -> str | bytes:
    """Return JSON for the request at `index`, or Content as it is.

    Raises ValueError for NaN and infinity, which JSON lacks.
    """
    body: str | bytes
    if isinstance(content, Content):
        body = content.body.encode() if isinstance(content.body, str) else content.body
        kind = content.content_type
    else:
        body, kind = json.dumps(content, allow_nan=False), "application/json"
    context.set_response_content_type(index, kind)
    context.set_response_status(int(status), HTTPStatus(status).phrase, index)
    return body


def no_answer(context: Any, index: int, error: Exception, what: str) -> str | bytes:
    """Return the error for a request: the reason of Refused, or else that `what` failed."""
    if isinstance(error, Refused):
        return refusal(context, index, error.reason, error.status)
    return failure(context, index, what, error)


def refusal(context: Any, index: int, reason: str, status: int) -> str | bytes:
    """Return the refusal of this request; `reason` becomes printable, and is shortened if long."""
    reason = printable(reason)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:  # the request is not at fault
        logger.error("request %s: %s", context.get_request_id(index), reason)
    return answer(context, index, {"error": reason}, status)


def failure(context: Any, index: int, what: str, error: Exception) -> str | bytes:
    """Return an error with an id for the caller to quote; only the log gets the traceback."""
    request_id = context.get_request_id(index)
    # The frontend takes any line that begins with [PID] or [METRICS] for the worker's own.
    traced = textwrap.indent("".join(traceback.format_exception(error)), "  ")
    logger.error("request %s: %s\n%s", request_id, what, traced)
    reason = f"{what}; the reason is in the server's model_log.log"
    content = {"error": reason, "request_id": request_id}
    return answer(context, index, content, HTTPStatus.INTERNAL_SERVER_ERROR)


def printable(text: str, most: int = MOST_REASON) -> str:
    """Return the beginning of a text, with escapes for line breaks and other unprintable characters."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown if len(text) <= most and len(shown) <= most else f"{shown[: most - 1]}…"
