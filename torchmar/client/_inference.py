"""The inference API: predictions and the health check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ClientError, ModelNotFound, NoWorker, QueueFull, ServerFailed, Unavailable
from ._http import InferenceTransport, json_of, path_of

if TYPE_CHECKING:
    from ._management import Management


@dataclass(frozen=True)
class Prediction:
    """An answer. `seconds` from sending the request until the whole answer was there."""

    status: int
    content: bytes
    content_type: str
    request_id: str
    seconds: float

    def json(self) -> Any:
        """The content, parsed. Raises ValueError where it is not JSON."""
        import json

        return json.loads(self.content)


class Inference:
    """The inference address of one server.

    With a `management` client, a 503 is told apart: no worker, or a full queue; TorchServe uses one message
    for both.
    """

    def __init__(self, transport: InferenceTransport, management: Management | None = None) -> None:
        self._transport = transport
        self._management = management

    @property
    def address(self) -> str:
        """The base URL."""
        return self._transport.address

    def predict(
        self,
        name: str,
        data: bytes | Path | Mapping[str, Any] | Sequence[Any],
        *,
        version: str | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask the default version, or the one given.

        `data` is a body, a file to send, or what is to be sent as JSON. `timeout` in seconds. Raises
        HandlerRefused with the handler's reason for input that it will not take, and whatever else
        torchmar.errors has under ClientError.
        """
        parts = ("predictions", name) if version is None else ("predictions", name, version)
        body: dict[str, Any]
        if isinstance(data, str):
            raise TypeError("predict() takes bytes, a Path, or what is to be sent as JSON; found str")
        if isinstance(data, Mapping | list | tuple):
            body = {"json": data}
        elif isinstance(data, Path):
            try:
                body = {"data": data.read_bytes()}
            except OSError as error:
                raise ClientError(f"{data}: cannot be read: {error.strerror}") from None
        else:
            body = {"data": data}
        if content_type is not None:
            body["headers"] = {"Content-Type": content_type}
        try:
            response = self._transport.call("POST", path_of(*parts), timeout=timeout, **body)
        except Unavailable as error:
            raise self._why_unavailable(name, version, error) from None
        return Prediction(
            status=response.status_code,
            content=response.content,
            content_type=response.headers.get("content-type", ""),
            request_id=response.headers.get("x-request-id", ""),
            seconds=response.elapsed.total_seconds(),
        )

    def ping(self) -> bool:
        """Whether the server calls itself healthy. Little: it does so while every worker crashes.

        `Management.wait_until_ready` tells whether a version can answer.
        """
        try:
            content = json_of(self._transport.call("GET", "/ping"))
        except ServerFailed as error:
            if error.status == 500 and "Unhealthy" in error.body:
                return False
            raise
        return isinstance(content, dict) and content.get("status") in {"Healthy", "Partial Healthy"}

    def _why_unavailable(self, name: str, version: str | None, error: Unavailable) -> ClientError:
        if self._management is None:
            return error
        try:
            model = self._management.describe(name, version)
        except ModelNotFound as gone:
            return gone
        except ClientError:
            return error
        what = f"{model.name} {model.version}"
        if not model.workers:
            text = f"{what}: has no worker; give it some: `torchmar scale {model.name} 1`"
            return NoWorker(text, status=error.status, body=error.body)
        size = model.queue.pending_requests + model.queue.remaining_capacity
        text = f"{what}: its queue of {size} requests is full; send fewer at once, or scale it up"
        return QueueFull(text, status=error.status, body=error.body)
