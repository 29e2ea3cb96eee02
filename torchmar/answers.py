"""Parse an answer's body, and show it to people."""

from __future__ import annotations

import json
from typing import Any


def parsed(body: bytes) -> Any:
    """Parse an answer: as JSON, or else as text, or else return the bytes."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body


def split_error(part: bytes, request_id: str) -> tuple[bytes, str | None]:
    """Split the last part of an answer into the model's bytes and the reason why it broke off.

    The reason is None without an error line. A handler ends the answer with a line that no model can write,
    because it contains the server's id for the request (handlers/worker/stream.py).
    """
    if not (request_id and part.endswith(b"}\n") and request_id.encode() in part):
        return part, None
    before, _, line = part[:-1].rpartition(b"\n")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return part, None
    if not isinstance(message, dict) or message.get("request_id") != request_id:
        return part, None
    reason = message.get("error")
    return (before, reason) if isinstance(reason, str) else (part, None)


def shown(body: bytes, length: int = 200) -> str:
    """Return an answer for people: on one line, at most `length` characters, without control characters."""
    # A character has at most four bytes, so the rest of a large answer can be skipped.
    start = body[: 4 * length + 4].decode(errors="replace")
    text = " ".join("".join(each if each.isprintable() else " " for each in start).split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
