"""Call the inference API: predictions and the health check."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import ClientError, ModelNotFound, NoWorker, QueueFull, ServerFailed, Unavailable
from ..files import TEXT, content_type_of
from ..names import LONGEST, shown
from ._answers import json_of
from ._fork import ForkLock
from ._form import form_of, read
from ._http import InferenceTransport, path_of
from ._split import Split, point_of
from ._stream import StreamedPrediction

if TYPE_CHECKING:
    from ._management import Management


KEY_HEADER = "X-Torchmar-Key"


@dataclass(frozen=True)
class Prediction:
    """Holds a response. `seconds` runs from sending the request until the whole response arrived.

    `version` is the version that the client asked, None for the default version. If a split chose a candidate
    that could not take the request, `instead_of` is that candidate and `version` is None. `first_seconds`
    runs until the first part of a response in parts arrived; it is None for any other response.
    """

    status: int
    content: bytes
    content_type: str
    request_id: str
    seconds: float
    version: str | None = None
    instead_of: str | None = None
    first_seconds: float | None = None

    def json(self) -> Any:
        """Return the parsed content. Raises ValueError if it is not JSON."""
        import json

        try:
            return json.loads(self.content)
        except RecursionError:
            raise ValueError("the answer is JSON that is nested too deep") from None


class Inference:
    """Calls the inference address of one server.

    With a `management` client, a 503 becomes NoWorker or QueueFull; TorchServe sends one message for both.

    `split` is a canary. {"2.0": 0.05} sends a twentieth of the predictions that name no version to version
    2.0, and the rest to the default version. It holds for every model; a model without that version costs one
    failed request each time. `chance` draws the side for a prediction without a key. Its default is the
    system's generator, because forked children share the state of any other; if you pass one, seed it in each
    child.
    """

    def __init__(
        self,
        transport: InferenceTransport,
        management: Management | None = None,
        *,
        split: Mapping[str, float] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._transport = transport
        self._management = management
        self._split = Split.of(split or {})
        self._chance = random.SystemRandom() if chance is None else chance
        self._fallen_back: Counter[str] = Counter()
        self._lock = ForkLock()  # threads may share one client

    @property
    def address(self) -> str:
        """Return the base URL."""
        return self._transport.address

    @property
    def fallbacks(self) -> dict[str, int]:
        """Return how often the default version answered in place of each candidate of the split."""
        with self._lock.held():
            return dict(self._fallen_back)

    def predict(
        self,
        name: str,
        data: bytes | str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        fields: Mapping[str, str | bytes | Path] | None = None,
        version: str | None = None,
        key: str | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask the default version, the given version, or the one that the split chooses.

        `data` is bytes, a text (sent as text/plain), a file (a Path), or a value to send as JSON. `fields`
        replaces it with a form. A file's suffix gives its content type: .json is application/json, .txt is
        text/plain, any other is application/octet-stream; `content_type` overrides it. `timeout` is in
        seconds. The same `key` (a user, a session) always gets the same side of a split; the client sends it
        as X-Torchmar-Key, by which a canary in nginx chooses. Raises HandlerRefused with the handler's reason
        for input that it rejects, and the other errors that torchmar.errors lists under ClientError.

        A canary loses no request: if the candidate is gone, or refuses with 503 before a worker got the
        request, the client asks the default version once.
        """
        with self.predict_stream(
            name,
            data,
            fields=fields,
            version=version,
            key=key,
            content_type=content_type,
            timeout=timeout,
        ) as answer:
            content = b"".join(answer)
        assert answer.seconds is not None
        return Prediction(
            status=answer.status,
            content=content,
            content_type=answer.content_type,
            request_id=answer.request_id,
            seconds=answer.seconds,
            version=answer.version,
            instead_of=answer.instead_of,
            first_seconds=answer.first_seconds if answer.in_parts else None,
        )

    def predict_stream(
        self,
        name: str,
        data: bytes | str | Path | Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        fields: Mapping[str, str | bytes | Path] | None = None,
        version: str | None = None,
        key: str | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> StreamedPrediction:
        """Ask as `predict` does, and return the response's parts as they arrive.

            with server.inference.predict_stream("writer", b"Once") as answer:
                for part in answer:
                    print(part.decode(), end="", flush=True)

        `timeout` in seconds applies to each part. Raises what `predict` raises until the response begins; see
        StreamedPrediction for later failures.
        """
        body = _body_of(data, fields, content_type, key)
        if version is None and self._split.shares:
            candidate = self._choose(name, key)
            if candidate is not None:
                try:
                    return self._ask(name, candidate, body, timeout)
                except (ModelNotFound, Unavailable):
                    with self._lock.held():
                        self._fallen_back[candidate] += 1
                answer = self._ask_explained(name, None, body, timeout)
                answer.instead_of = candidate
                return answer
        return self._ask_explained(name, version, body, timeout)

    def _choose(self, name: str, key: str | None) -> str | None:
        point = self._chance.random() if key is None else point_of(name, key)
        return self._split.version_at(point)

    def _ask(
        self, name: str, version: str | None, body: Mapping[str, Any], timeout: float | None
    ) -> StreamedPrediction:
        path = path_of("predictions", name, *(() if version is None else (version,)))
        response = self._transport.call("POST", path, timeout=timeout, stream=True, **body)
        where = f"POST {self.address}{path}"
        return StreamedPrediction(response, self._transport.parts(response, where, timeout), where, version)

    def _ask_explained(
        self, name: str, version: str | None, body: Mapping[str, Any], timeout: float | None
    ) -> StreamedPrediction:
        try:
            return self._ask(name, version, body, timeout)
        except Unavailable as error:
            raise self._why_unavailable(name, version, error) from None

    def ping(self) -> bool:
        """Return whether the server calls itself healthy. It does so even while every worker crashes.

        `Management.wait_until_ready` shows whether a version can answer.
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
        if not model.workers:
            text = f"{model}: has no worker; give it some: `torchmar scale {shown(model.name, LONGEST)} 1`"
            return NoWorker(text, status=error.status, body=error.body)
        size = model.queue.pending_requests + model.queue.remaining_capacity
        text = f"{model}: its queue of {size} requests is full; send fewer at once, or scale it up"
        return QueueFull(text, status=error.status, body=error.body)


def _body_of(
    data: bytes | str | Path | Mapping[str, Any] | Sequence[Any] | None,
    fields: Mapping[str, str | bytes | Path] | None,
    content_type: str | None,
    key: str | None,
) -> dict[str, Any]:
    """Return the keyword arguments for requests."""
    body: dict[str, Any]
    if fields is not None:
        if data is not None or content_type is not None:
            raise TypeError(
                "predict() takes `fields` without `data` and `content_type`: a form has its own type"
            )
        body = form_of(fields)
    elif isinstance(data, Mapping | list | tuple):
        body = {"json": data}
    elif isinstance(data, Path):
        body = {"data": read(data)}
        content_type = content_type or content_type_of(data.name)
    elif isinstance(data, str):
        body = {"data": data.encode()}
        content_type = content_type or TEXT
    elif isinstance(data, bytes | bytearray | memoryview):
        body = {"data": bytes(data)}
    else:  # a stream can be sent only once, but a refused token requires a second send
        found = type(data).__name__
        raise TypeError(f"predict() takes bytes, a text, a Path, or a value to send as JSON; found {found}")
    sent_key = None if key is None else quote(key.encode("utf-8", "surrogatepass"))
    headers = {"Content-Type": content_type, KEY_HEADER: sent_key}
    body["headers"] = {name: value for name, value in headers.items() if value is not None}
    return body
