"""Write masks, a class for each pixel, as a PNG, as run lengths or as shares of the picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Classes = NDArray[np.uint8]


def resized(values: NDArray[Any], width: int, height: int, resample: Image.Resampling) -> NDArray[Any]:
    """Resize uint8 or float32 of shape (height, width)."""
    return np.asarray(Image.fromarray(values).resize((width, height), resample))


def png_of(classes: Classes) -> bytes:
    """Return a PNG whose pixels are class indexes, with distinguishable colours."""
    image = Image.fromarray(classes)
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=8)
    return buffer.getvalue()


def _palette() -> bytes:
    """Return the colours of PASCAL VOC's masks: successive bits of the index make red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.int64)
    for step in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * step + channel) & 1) << (7 - step)
    return colours.astype(np.uint8).tobytes()


def runs_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return COCO's run lengths: column by column, of 0 and 1 in turn, 0 first."""
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], turns, [flat.size]]))
    counts = lengths.tolist() if not flat[:1].any() else [0, *lengths.tolist()]
    return {"size": list(mask.shape), "counts": counts}


def counts_of(classes: Classes, number: int) -> NDArray[np.int64]:
    """Return how many pixels each of `number` classes has."""
    found: NDArray[np.int64] = np.bincount(classes.ravel(), minlength=number)
    return found
