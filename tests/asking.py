"""A handler without a server: opened on a model that is a function, and asked as TorchServe asks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.base import BatchHandler
from handlers.params import build_params
from torchmar.worker import WorkerContext
from torchmar.worker._context import RequestState

NOWHERE = Path("/nowhere")
"""The folder of a handler that reads no files."""


@dataclass(frozen=True)
class Answer:
    """What a caller gets."""

    status: int
    kind: str
    body: str | bytes

    @property
    def content(self) -> Any:
        """JSON where it is that, else the body."""
        return json.loads(self.body) if self.kind == "application/json" else self.body

    @property
    def reason(self) -> str:
        """Why a request is not answered."""
        assert self.status >= 400, self.body
        return str(self.content["error"])


def opened(
    kind: type[BatchHandler[Any]], params: Mapping[str, Any], folder: Path, models: Any, batch_size: int = 8
) -> Any:
    """A handler that is ready; `models` is a model, or its parts by name."""
    handler = kind()
    parts = models if isinstance(models, Mapping) else {"model": models}
    handler.open(build_params(kind.params_type(), params), folder, parts, batch_size=batch_size)
    return handler


def ask(
    handler: BatchHandler[Any], *bodies: Any, headers: Mapping[str, str] | Sequence[Mapping[str, str]] = ()
) -> list[Answer]:
    """The answers to a batch: bytes and text as they are sent, objects as TorchServe parses JSON.

    `headers` are those of each request, or of all.
    """
    each = [headers] * len(bodies) if isinstance(headers, Mapping) else headers or [{}] * len(bodies)
    context = WorkerContext("model", NOWHERE, {"model": {}}, len(bodies), None, {})
    context.request_processor = [RequestState(one) for one in each]
    context.request_ids = {index: f"id-{index}" for index in range(len(bodies))}
    rows: Sequence[Any] = [body if isinstance(body, _Form) else {"body": _sent(body)} for body in bodies]
    found = handler.handle(rows, context)
    assert len(found) == len(bodies)
    return [_answer(context, index, body) for index, body in enumerate(found)]


class _Form(dict[str, Any]):
    """The fields of a form."""


def form(**fields: Any) -> _Form:
    """A multipart form: its fields, text as bytes."""
    return _Form({name: _sent(value) for name, value in fields.items()})


def _sent(body: Any) -> Any:
    raw = body.encode() if isinstance(body, str) else body
    return bytearray(raw) if isinstance(raw, bytes) else raw


def _answer(context: Any, index: int, body: Any) -> Answer:
    status, _ = context.get_response_status(index)
    assert status is not None
    return Answer(status, context.get_response_content_type(index) or "", body)
