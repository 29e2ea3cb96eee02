"""What a request is answered with: JSON with its status, never longer than the frontend takes.

The frontend ends a worker whose answer is larger than `max_response_size`, and with it every request of the
batch.
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

MOST_REASON = 500  # characters; what a caller sent must not come back as megabytes


class Refused(Exception):
    """This request cannot be answered, and why; `status` is its HTTP status (4xx, 500 or 501).

    The caller is told the reason: its beginning, where it is long.
    """

    def __init__(self, reason: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        self.reason = str(reason)
        self.status = HTTPStatus(status)
        super().__init__(reason)


def not_finite(what: str) -> Refused:
    """The refusal (500) of a request for which the model gives no numbers; `what` is what was sent."""
    return Refused(
        f"the output could not be encoded: for this {what} the model gives NaN or infinity",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )


@dataclass(frozen=True)
class Content:
    """An answer that is no JSON: text, a picture, sound."""

    body: bytes | str
    content_type: str


def answer(context: Any, index: int, content: Any, status: int = HTTPStatus.OK) -> str | bytes:
    """JSON for the request at `index`, or Content as it is.

    Raises ValueError for NaN and infinity, which JSON does not know.
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
    """Tell why a request has none: the reason of Refused, or else `what` failed."""
    if isinstance(error, Refused):
        return refusal(context, index, error.reason, error.status)
    return failure(context, index, what, error)


def refusal(context: Any, index: int, reason: str, status: int) -> str | bytes:
    """Why this request is not answered; `reason` in printable characters, and cut short where it is long."""
    reason = printable(reason)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:  # the request is not at fault
        logger.error("request %s: %s", context.get_request_id(index), reason)
    return answer(context, index, {"error": reason}, status)


def failure(context: Any, index: int, what: str, error: Exception) -> str | bytes:
    """The caller is told what to quote, and not what the traceback says, which is logged."""
    request_id = context.get_request_id(index)
    # The frontend takes lines that begin with [PID] or [METRICS] for the worker's own, whoever wrote them.
    traced = textwrap.indent("".join(traceback.format_exception(error)), "  ")
    logger.error("request %s: %s\n%s", request_id, what, traced)
    reason = f"{what}; the reason is in the server's model_log.log"
    content = {"error": reason, "request_id": request_id}
    return answer(context, index, content, HTTPStatus.INTERNAL_SERVER_ERROR)


def printable(text: str, most: int = MOST_REASON) -> str:
    """Its beginning, with escapes in place of line breaks and whatever else a terminal would not print."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return shown if len(text) <= most and len(shown) <= most else f"{shown[: most - 1]}…"
