"""Fit a picture into a detector's input, and map boxes back to the caller's picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .transform import Interpolation

_GREY = 114  # the padding of YOLO's authors

Array = NDArray[Any]


@dataclass(frozen=True)
class Placed:
    """Where a picture of `width` × `height` lies in the model's input: scaled, then moved, in pixels."""

    width: int
    height: int
    scale_x: float = 1.0
    scale_y: float = 1.0
    left: int = 0
    top: int = 0

    def boxes_in_picture(self, boxes: Array) -> Array:
        """Map [x1, y1, x2, y2] from the model's input to the picture, clipped at its edges."""
        moved = boxes - np.array([self.left, self.top, self.left, self.top], dtype=np.float64)
        moved /= np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], dtype=np.float64)
        inside: Array = moved.clip(0, [self.width, self.height, self.width, self.height])
        return inside


@dataclass(frozen=True)
class Fit:
    """How to resize a picture.

    size: (height, width) for all; or one number that limits the longer side, and each picture keeps its own
    shape. keep_ratio: with (height, width), centre it on grey instead of stretching it.
    """

    size: tuple[int, int] | int
    keep_ratio: bool = False
    interpolation: Interpolation = "bilinear"

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return a picture's width and height after resizing."""
        if isinstance(self.size, int):
            ratio = min(1.0, self.size / max(width, height))
        elif self.keep_ratio:
            ratio = min(self.size[0] / height, self.size[1] / width)
        else:
            return self.size[1], self.size[0]
        return max(1, round(width * ratio)), max(1, round(height * ratio))

    def __call__(self, image: Image.Image) -> tuple[NDArray[np.uint8], Placed]:
        """Convert an RGB picture to uint8 of shape (height, width, 3); returns also its place there."""
        width, height = self.resized_size(*image.size)
        resized = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        scales = width / image.width, height / image.height
        if isinstance(self.size, int) or (height, width) == self.size:
            return np.asarray(resized), Placed(*image.size, *scales)
        canvas = Image.new("RGB", (self.size[1], self.size[0]), (_GREY,) * 3)
        left, top = (self.size[1] - width) // 2, (self.size[0] - height) // 2
        canvas.paste(resized, (left, top))
        return np.asarray(canvas), Placed(*image.size, *scales, left, top)
