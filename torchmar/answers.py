"""An answer's body: parsed, and shown to people."""

from __future__ import annotations

import json
from typing import Any


def parsed(body: bytes) -> Any:
    """Parse an answer: JSON, else text, as a handler's str is sent, else the bytes as they are."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body


def end_told(part: bytes, request_id: str) -> tuple[bytes, str | None]:
    """Split the last part of an answer: what is the model's, and why there is no more where that is told.

    A handler tells it by a line that no model can write, for it has the number that the server gave the
    request (handlers/worker/stream.py).
    """
    if not (request_id and part.endswith(b"}\n") and request_id.encode() in part):
        return part, None
    before, _, line = part[:-1].rpartition(b"\n")
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return part, None
    if not isinstance(told, dict) or told.get("request_id") != request_id:
        return part, None
    reason = told.get("error")
    return (before, reason) if isinstance(reason, str) else (part, None)


def shown(body: bytes, length: int = 200) -> str:
    """An answer for people: on one line, at most `length` characters, nothing that a terminal would obey."""
    # Four bytes are the longest character there is: the rest of a large answer is not even looked at.
    start = body[: 4 * length + 4].decode(errors="replace")
    text = " ".join("".join(each if each.isprintable() else " " for each in start).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
