"""Text and JSON in what callers send: in any encoding of Unicode, with or without a byte order mark."""

from __future__ import annotations

import json


def text_of(value: bytes | bytearray | str) -> str | None:
    """The text without its byte order mark; None for bytes that are no text."""
    if isinstance(value, str):
        return value.removeprefix("\ufeff")
    raw = bytes(value)
    try:
        return raw.decode(json.detect_encoding(raw)).removeprefix("\ufeff")
    except UnicodeDecodeError:
        return None


def looks_like_json(text: str) -> bool:
    """Whether it begins as an object, a list or a string does."""
    return text.lstrip()[:1] in {"{", "[", '"'}
