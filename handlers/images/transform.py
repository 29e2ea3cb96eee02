"""Convert pictures to arrays, bit for bit as torchvision's `Compose([Resize(size), CenterCrop(crop)])`.

It uses only Pillow and numpy, so that a worker with an ONNX model needs no torch. ToTensor and Normalize are
the first operations of the artifact: a pixel travels as one byte instead of four, and the model's device
normalises it.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..params import Positive
from ..worker.answers import Refused

HeightWidth = tuple[Positive, Positive]
Interpolation = Literal["nearest", "bilinear", "bicubic"]

# With one number for the shorter side, a picture of 1 × 60,000 pixels would become one of billions.
MAX_RESIZED_PIXELS = 50_000_000


@dataclass(frozen=True)
class ImageTransform:
    """Resize and CenterCrop, as torchvision computes them on a PIL image.

    size: (height, width), or one int for the shorter side. crop: (height, width) or None.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def require_one_shape(self) -> None:
        """Raise ValueError unless all pictures become arrays of one shape."""
        if isinstance(self.size, int) and self.crop is None:
            raise ValueError("size: one number gives pictures of different shapes; add crop: [h, w]")
        for key, shape in (("size", self.size), ("crop", self.crop)):
            height, width = shape if isinstance(shape, tuple) else (shape or 0, shape or 0)
            if height * width > MAX_RESIZED_PIXELS:
                raise ValueError(f"{key}: no picture is resized to more than {MAX_RESIZED_PIXELS:,} pixels")
        if self.crop is not None:
            least = (self.size, self.size) if isinstance(self.size, int) else self.size
            if self.crop[0] > least[0] or self.crop[1] > least[1]:
                raise ValueError(f"crop: {list(self.crop)} is larger than size")

    @property
    def output_size(self) -> tuple[int, int]:
        """Return (height, width) of every resulting array."""
        if self.crop is not None:
            return self.crop
        if isinstance(self.size, int):
            raise ValueError("`size` is one number: without `crop` the arrays have no common shape")
        return self.size

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Convert an RGB picture to uint8 of shape (height, width, 3)."""
        return np.asarray(self._center_crop(self._resize(image)))

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return a picture's width and height after Resize. Raises Refused for a sliver."""
        if not isinstance(self.size, int):
            return self.size[1], self.size[0]
        if width <= height:
            resized = self.size, int(self.size * height / width)
        else:
            resized = int(self.size * width / height), self.size
        if resized[0] * resized[1] > MAX_RESIZED_PIXELS:
            raise Refused(
                f"the picture is too narrow: its {width} × {height} pixels would be resized to "
                f"{resized[0]:,} × {resized[1]:,}",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return resized

    def _resize(self, image: Image.Image) -> Image.Image:
        size = self.resized_size(*image.size)
        return image.resize(size, Image.Resampling[self.interpolation.upper()])

    def _center_crop(self, image: Image.Image) -> Image.Image:
        if self.crop is None:
            return image
        height, width = self.crop
        top, left = _margin(image.height, height), _margin(image.width, width)
        return image.crop((left, top, left + width, top + height))


def _margin(length: int, crop: int) -> int:
    """Return where the crop begins; negative if black is added, with torchvision's rounding of both."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)
