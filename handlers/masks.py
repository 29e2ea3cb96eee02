"""Masks: a class for each pixel, as a PNG, as runs or as shares of the picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Classes = NDArray[np.uint8]


def resized(values: NDArray[Any], width: int, height: int, resample: Image.Resampling) -> NDArray[Any]:
    """uint8 or float32 of shape (height, width) to another size."""
    return np.asarray(Image.fromarray(values).resize((width, height), resample))


def png_of(classes: Classes) -> bytes:
    """A PNG whose pixels are indexes of classes, with colours that tell them apart."""
    image = Image.fromarray(classes)
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=8)
    return buffer.getvalue()


def _palette() -> bytes:
    """The colours of PASCAL VOC's masks: bits of the index, one after another, make red, green and blue."""
    index = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.int64)
    for step in range(8):
        for channel in range(3):
            colours[:, channel] |= (index >> (3 * step + channel) & 1) << (7 - step)
    return colours.astype(np.uint8).tobytes()


def runs_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Run lengths as COCO has them: column by column, of 0 and 1 in turn, 0 first."""
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], turns, [flat.size]]))
    counts = lengths.tolist() if not flat[:1].any() else [0, *lengths.tolist()]
    return {"size": list(mask.shape), "counts": counts}


def counts_of(classes: Classes, number: int) -> NDArray[np.int64]:
    """How many pixels each of `number` classes has."""
    found: NDArray[np.int64] = np.bincount(classes.ravel(), minlength=number)
    return found
