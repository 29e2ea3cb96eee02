"""A task's handler with a model that is a function, asked without a server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from handlers.base import BatchHandler, Inputs, Outputs
from handlers.params import build_params


@dataclass
class Context:
    """What a handler asks TorchServe's context, and what it tells it."""

    headers: Sequence[Mapping[str, str]]
    model_name: str = "model"
    told: dict[int, dict[str, Any]] = field(default_factory=dict)

    def get_request_header(self, index: int, name: str) -> str | None:
        return self.headers[index].get(name)

    def get_all_request_header(self, index: int) -> Mapping[str, str]:
        return self.headers[index]

    def get_request_id(self, index: int) -> str:
        return f"id-{index}"

    def set_response_content_type(self, index: int, value: str) -> None:
        self.told.setdefault(index, {})["type"] = value

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        self.told.setdefault(idx, {}).update(status=code, phrase=phrase)


@dataclass(frozen=True)
class Answer:
    """One answer as its caller gets it."""

    status: int
    kind: str
    body: str | bytes

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert self.status >= 400, self.body
        return str(self.content["error"])


def opened(
    handler: BatchHandler[Any],
    model: Callable[[Inputs], Outputs],
    params: Mapping[str, Any],
    files: Path = Path("/nowhere"),
) -> Any:
    """The handler, ready to answer."""
    handler.params = build_params(handler.params_type(), params)
    handler.open(handler.params, files, {"model": model}, batch_size=4)
    handler.warm_up()
    return handler


def ask(
    handler: BatchHandler[Any], *bodies: Any, headers: Sequence[Mapping[str, str]] | None = None
) -> list[Answer]:
    """One batch, and what each of its requests gets."""
    context = Context(headers or [{}] * len(bodies))
    returned = handler.handle([{"body": body} for body in bodies], context)
    assert len(returned) == len(bodies)
    told = [context.told[index] for index in range(len(bodies))]
    return [Answer(one["status"], one["type"], body) for one, body in zip(told, returned, strict=True)]


def picture(width: int, height: int, colour: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    """A PNG of one colour."""
    return encoded(Image.new("RGB", (width, height), colour))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def listed(*raws: bytes) -> dict[str, Any]:
    """A request with several pictures."""
    return {"instances": [{"b64": base64.b64encode(raw).decode()} for raw in raws]}


def array(*rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.float32)
