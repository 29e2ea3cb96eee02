"""One request to one version, and the sample that it gives."""

from __future__ import annotations

import time
from typing import Protocol

from ..client import Inference
from ..errors import BadAnswer, ClientError, ConnectionFailed
from .samples import Sample


class Request(Protocol):
    """What is sent. `name` tells it from others; a `content_type` of '' is left to the client."""

    @property
    def name(self) -> str: ...  # noqa: D102 (as above)
    @property
    def body(self) -> bytes: ...  # noqa: D102
    @property
    def content_type(self) -> str: ...  # noqa: D102


def send(inference: Inference, model: str, version: str | None, request: Request, timeout: float) -> Sample:
    """One request to one version, None: the default one. Whatever comes is a Sample. `timeout` in seconds.

    Raises ConnectionFailed where the server is not there: that says nothing of the version.
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
