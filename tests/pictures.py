"""Pictures as callers send them, and the arrays of models that are functions."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image


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
