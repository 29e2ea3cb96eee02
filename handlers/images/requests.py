"""Read the bytes of a request's pictures: raw, multipart, text, or JSON with base64."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from ..requests import json_of, looks_like_json, rows_of, some, text_of, value_of
from ..worker.answers import Refused
from .files import kind_of
from .limits import Limits

FORMS = (
    "send the picture as the raw body (curl -T FILE), as multipart field `data` (curl -F data=@FILE), "
    'or as JSON {"data": {"b64": "…"}} or {"instances": [{"b64": "…"}]}'
)

# A picture's names in requests to KServe, Vertex AI, TensorFlow Serving and the stock handlers.
_NAMES = ("data", "image_bytes", "image")


def instances(request: Mapping[str, Any], limits: Limits) -> tuple[list[bytes], bool]:
    """Return the bytes of each instance of a request, and whether they came as a list. Raises Refused."""
    value = value_of(request, "picture", FORMS)
    if isinstance(value, bytes | bytearray):
        raw = bytes(value)
        if not raw:
            raise Refused(f"no picture: the body is empty; {FORMS}")
        text = None if kind_of(raw) else text_of(raw)
        if text is None and raw.lstrip()[:1] == b"{":
            raise Refused(f"neither a picture nor JSON: it is not UTF-8; {FORMS}")
        if text is None or not looks_like_json(text):
            # If it is no picture, decoding explains why.
            return [_within(_picture_in(text or "") or raw, limits, "")], False
        value = json_of(text, "a picture", FORMS)  # without its content type, or with a byte order mark
    elif isinstance(value, str):
        text = text_of(value) or ""
        value = json_of(text, "a picture", FORMS) if looks_like_json(text) else text
    return _json_instances(value, limits)


def _json_instances(value: Any, limits: Limits) -> tuple[list[bytes], bool]:
    if isinstance(value, str):
        picture = _picture_in(value)
        if picture is None:
            raise Refused(f"no picture: found text that is not base64 of one; {FORMS}")
        return [_within(picture, limits, "")], False
    if isinstance(value, Mapping) and "instances" in value:
        rows, _ = rows_of(value, limits.max_instances)
        return [_instance(row, limits, f"instances[{i}]") for i, row in enumerate(rows)], True
    if isinstance(value, Mapping) and any(name in value for name in ("b64", *_NAMES)):
        return [_instance(value, limits, "")], False
    found = f"keys {some(value)}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
    raise Refused(f"JSON with neither `data` nor `instances` (found {found}); {FORMS}")


def _instance(row: Any, limits: Limits, where: str) -> bytes:
    """Return one picture: {"b64": TEXT}, that or the text alone under one of _NAMES, or the text alone."""
    if isinstance(row, Mapping) and "b64" not in row:
        names = [name for name in _NAMES if name in row]
        if len(names) > 1:
            raise Refused(f"{where or 'JSON'}: found {names}, which of them is the picture?")
        if names:
            row = row[names[0]]
            where = f"{where}.{names[0]}".lstrip(".")
    where = f"{where}: " if where else ""
    text = row.get("b64") if isinstance(row, Mapping) else row
    if not isinstance(text, str):
        raise Refused(f'{where}expected {{"b64": "<base64 of the picture>"}}')
    if text is row:
        picture = _picture_in(text)
        if picture is None:
            raise Refused(
                f'{where}expected {{"b64": "<base64 of the picture>"}}, found text that is not base64 of one'
            )
        return _within(picture, limits, where)
    try:
        raw = _from_base64(text)
    except ValueError as error:
        raise Refused(f"{where}not base64: {error}") from None
    if not raw:
        raise Refused(f"{where}empty")
    return _within(raw, limits, where)


def _picture_in(text: str) -> bytes | None:
    """Return a picture in base64, None for other content.

    Any word is base64 of something, so check the kind.
    """
    try:
        raw = _from_base64(text)
    except ValueError:
        return None
    return None if kind_of(raw) is None else raw


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def _from_base64(text: str) -> bytes:
    """Decode base64, also in lines, URL-safe, without padding, or as a data URL. Raises ValueError."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    text = text.strip()
    if text[:5].lower() == "data:":
        about, comma, text = text.partition(",")
        if not comma or not about.lower().endswith(";base64"):
            raise ValueError("a data URL must begin with data:TYPE;base64,")
        text = unquote_to_bytes(text).decode("ascii")
    digits = "".join(map(str.strip, text.splitlines())).encode("ascii").translate(_URL_SAFE).rstrip(b"=")
    return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)


def _within(raw: bytes, limits: Limits, where: str) -> bytes:
    if len(raw) > limits.max_bytes:
        raise Refused(
            f"{where}{len(raw):,} bytes, at most {limits.max_bytes:,} are allowed",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return raw
