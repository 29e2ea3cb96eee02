"""Read a request: TorchServe's parameters, text in any Unicode encoding, JSON, lists of instances.

TorchServe gives a request as {parameter: value}: `body` for a plain body, or a multipart field's name. The
value is a bytearray, or already parsed if the content type is JSON or text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from itertools import islice
from typing import Any

from .worker.answers import Refused


class Request(dict[str, Any]):
    """A request's parameters by name; `headers` are the client's, with names in lower case."""

    headers: Mapping[str, str]

    def __init__(self, parameters: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__(parameters)
        self.headers = headers


def text_of(value: bytes | bytearray | str) -> str | None:
    """Return the text without its byte order mark; None for bytes that are no text."""
    if isinstance(value, str):
        return value.removeprefix("\ufeff")
    raw = bytes(value)
    try:
        return raw.decode(json.detect_encoding(raw)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None


def looks_like_json(text: str) -> bool:
    """Return whether it begins like an object, a list or a string."""
    return text.lstrip()[:1] in {"{", "[", '"'}


def value_of(request: Mapping[str, Any], what: str, forms: str) -> Any:
    """Return the value of `data` or `body`.

    Raises Refused, which names `what` and the `forms` to send it in.
    """
    value = request.get("data", request.get("body"))
    if value is None:
        if "data" in request or "body" in request:
            raise Refused(f"no {what}: found null; {forms}")
        found = f"only {some(request)}" if request else "an empty request"
        raise Refused(f"no {what}: found {found}, no `data` or `body`; {forms}")
    return value


def json_of(text: str, what: str, forms: str) -> Any:
    """Parse a caller's JSON. Raises Refused for text that is neither `what` nor JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"neither {what} nor JSON: {error}; {forms}") from None


def content_of(request: Mapping[str, Any], what: str, forms: str) -> Any:
    """Return a request's content as text or parsed JSON: the body, or a form's fields as an object.

    Of a form, a field that is no text, such as a picture, stays bytes; text is parsed if it is JSON. Raises
    Refused for a body that is no text.
    """
    if request and not {"data", "body"} & request.keys():
        return {name: _field(value) for name, value in request.items()}
    value = _readable(value_of(request, what, forms), what, forms)
    return json_of(value, what, forms) if isinstance(value, str) and looks_like_json(value) else value


def _readable(value: Any, what: str, forms: str) -> Any:
    if not isinstance(value, bytes | bytearray | str):
        return value
    text = text_of(value)
    if text is None:
        raise Refused(f"no {what}: found bytes that are no text in UTF-8; {forms}")
    return text


def _field(value: Any) -> Any:
    """Return a form's field: parsed JSON, or else UTF-8 text, or else bytes."""
    if isinstance(value, bytes | bytearray):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError:
            return bytes(value)
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def rows_of(content: Any, most: int) -> tuple[Sequence[Any], bool]:
    """Return the instances in {"instances": [...]} or the content itself, and whether they are listed.

    Raises Refused unless it is a list with one to `most` entries.
    """
    if not (isinstance(content, Mapping) and "instances" in content):
        return [content], False
    rows = content["instances"]
    if not isinstance(rows, list) or not rows:
        raise Refused("`instances` must be a list with at least one item")
    if len(rows) > most:
        raise Refused(
            f"{len(rows)} instances in one request, at most {most} are allowed; "
            "send them in several requests, the server batches them",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return rows, True


def some(names: Iterable[Any]) -> str:
    """Return the first few names, shortened: callers choose them, and may send a million."""
    first = [str(name)[:40] for name in islice(names, 6)]
    return str(first) if len(first) < 6 else f"{first[:5]} and more"
