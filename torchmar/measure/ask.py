"""Send one request to one version, and return a sample."""

from __future__ import annotations

import time
from typing import Protocol

from ..client import Inference
from ..errors import BadAnswer, ClientError, ConnectionFailed
from .samples import Sample


class Request(Protocol):
    """A request to send.

    `name` identifies it; the client chooses the content type if `content_type` is ''.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 (as above)
    @property
    def body(self) -> bytes: ...  # noqa: D102
    @property
    def content_type(self) -> str: ...  # noqa: D102


def send(inference: Inference, model: str, version: str | None, request: Request, timeout: float) -> Sample:
    """Send one request to one version, or to the default version (None). `timeout` is in seconds.

    A failure becomes a Sample too. Raises ConnectionFailed if the server is not there, which says nothing
    about the version.
    """
    begin = time.perf_counter()
    try:
        answer = inference.predict(
            model, request.body, version=version, content_type=request.content_type or None, timeout=timeout
        )
    except BadAnswer as error:
        return Sample(
            request.name, error.status, time.perf_counter() - begin, error.body.encode(), str(error)
        )
    except ConnectionFailed:
        raise
    except ClientError as error:
        return Sample(request.name, 0, time.perf_counter() - begin, error=str(error))
    return Sample(request.name, answer.status, answer.seconds, answer.content, first=answer.first_seconds)
