"""Define a request as the frontend passes it on, and the response that its caller gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Parameter:
    """One input of a request: a multipart field, or the whole body under the name `body`."""

    name: str
    value: bytes
    content_type: str = ""


@dataclass(frozen=True)
class Request:
    """One HTTP request to /predictions, as the frontend passes it on."""

    parameters: tuple[Parameter, ...]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def body(
        cls, content: bytes, content_type: str = "", headers: Mapping[str, str] | None = None
    ) -> Request:
        """Return a request with a plain body, as `curl -T FILE` sends it."""
        return cls((Parameter("body", content, content_type),), headers or {})

    @classmethod
    def form(cls, headers: Mapping[str, str] | None = None, **fields: bytes) -> Request:
        """Return a request with a multipart form, as `curl -F name=@FILE` sends it."""
        parts = tuple(Parameter(name, value, "application/octet-stream") for name, value in fields.items())
        return cls(parts, headers or {})

    @classmethod
    def json(cls, content: Any) -> Request:
        """Return a request with a JSON body and its content type."""
        return cls.body(json.dumps(content).encode(), "application/json")


@dataclass(frozen=True)
class Response:
    """The response that the caller gets over HTTP.

    `parts` holds the parts of a response in parts; its `body` joins them. `broken` says why the connection
    closed early, or never closed; the status came before that and may be 200. `request_id` is the value of
    X-Request-Id.
    """

    status: int
    body: bytes
    content_type: str = ""
    phrase: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[bytes, ...] = ()
    broken: str = ""
    request_id: str = field(default="", compare=False)

    def json(self) -> Any:
        """Return the parsed body."""
        return json.loads(self.body)
