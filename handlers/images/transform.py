"""Convert pictures to arrays, bit for bit as torchvision's `Compose([Resize(size), CenterCrop(crop)])`.

It uses only Pillow and numpy, so that a worker with an ONNX model needs no torch. ToTensor and Normalize are
the first operations of the artifact: a pixel travels as one byte instead of four, and the model's device
normalises it. Resize and CenterCrop can be, too, with other rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

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
        return np.asarray(self._center_crop(self.resize(image)))

    def of_tensors(self, pixels: Any) -> Any:
        """Compute the same by torch: uint8 (n, height, width, 3) to float32 of the same order, from 0 to 255.

        It can be exported with a free height and width. Both antialias alike, the width before the height,
        but Pillow rounds to whole numbers after each, and torch not at all.
        """
        import torch
        from torch.nn.functional import interpolate

        pictures = pixels.permute(0, 3, 1, 2).to(torch.float32)
        height, width = self._resized_by_torch(pictures.shape[2], pictures.shape[3])
        if self.interpolation == "nearest":
            pictures = interpolate(pictures, size=(height, width), mode="nearest-exact")
        else:
            for size in ((pictures.shape[2], width), (height, width)):
                resized = interpolate(pictures, size=size, mode=self.interpolation, antialias=True)
                pictures = resized.clamp(0, 255)
        if self.crop is not None:
            for axis, (length, crop) in enumerate(zip((height, width), self.crop, strict=True), 2):
                # round((length - crop) / 2) of _margin, by whole numbers, as `length` may be a symbol
                half, odd = (length - crop) // 2, (length - crop) % 2
                kept = torch.arange(crop, device=pixels.device) + half + odd * (half % 2)
                pictures = pictures.index_select(axis, kept)
        return pictures.permute(0, 2, 3, 1)

    def _resized_by_torch(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Return height and width after Resize, without a branch on numbers that may be symbols."""
        import torch

        if not isinstance(self.size, int):
            return self.size
        longer = (self.size * height // width, self.size * width // height)
        return torch.sym_max(self.size, longer[0]), torch.sym_max(self.size, longer[1])

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

    def resize(self, image: Image.Image) -> Image.Image:
        """Return the picture after Resize."""
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
