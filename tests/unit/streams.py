"""A handler that answers in parts what it is told to: each body is a JSON list of them."""

import time
from collections.abc import Iterator
from typing import Any

from handlers.base import Refused
from handlers.worker.stream import send_parts


def parts(program: Any) -> Iterator[Any]:
    """None raises, "refuse" raises with a status, {"wait": S} waits, anything else is a part."""
    for part in program:
        if part is None:
            raise ValueError("told to fail")
        if part == "refuse":
            raise Refused("not so", 422)
        if isinstance(part, dict):
            time.sleep(part["wait"])
        else:
            yield part


def handle(data: Any, context: Any) -> Any:
    """Each request by itself."""
    if data is None:
        return None
    for index in range(len(data)):
        context.set_response_content_type(index, "text/plain; charset=utf-8")
    return send_parts(context, {i: parts(row["body"]) for i, row in enumerate(data)}, len(data))
