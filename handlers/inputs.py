"""What a request carries → arrays: raw bytes, multipart, JSON with base64; pictures, with limits.

The preprocessing here gives bit for bit the picture of torchvision's `Compose([Resize(size),
CenterCrop(crop)])`, with Pillow and numpy alone, so that a worker which serves ONNX needs no torch. ToTensor
and Normalize are the first operations of the artifact: a pixel travels as one byte and not as four, and is
normalised where the model computes.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .base import Refused

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")

FORMS = (
    "send the picture as the raw body (curl -T FILE), as multipart field `data` (curl -F data=@FILE), "
    'or as JSON {"data": {"b64": "…"}} or {"instances": [{"b64": "…"}]}'
)


@dataclass(frozen=True)
class Limits:
    """What a request may cost before anything is computed."""

    max_bytes: int = 6_000_000  # of one decoded picture file; TorchServe's max_request_size is 6,553,500
    max_pixels: int = 50_000_000  # width times height: a small file can be a very large picture
    max_instances: int = 16  # in one request


# -- request → the bytes of each instance -------------------------------------------------------


def instances(request: Mapping[str, Any], limits: Limits) -> tuple[list[bytes], bool]:
    """The bytes of each instance in one request, and whether they came as a list. Raises Refused.

    TorchServe gives a request as {parameter: value}: `body` for a plain body, a multipart field's own name,
    and the value as bytearray, or parsed already where the content type is JSON or text.
    """
    value = request.get("data", request.get("body"))
    if value is None:
        found = f"only {sorted(request)}" if request else "an empty request"
        raise Refused(f"no picture: found {found}, no `data` or `body`; {FORMS}")
    if isinstance(value, str):
        raise Refused(f"no picture: found text; {FORMS}")
    if isinstance(value, bytes | bytearray):
        raw = bytes(value)
        if not raw:
            raise Refused(f"no picture: the body is empty; {FORMS}")
        if raw.lstrip()[:1] != b"{":
            return [_within(raw, limits, "")], False
        value = _parse_json(raw)  # JSON without its content type: TorchServe has not parsed it
    return _json_instances(value, limits)


def _parse_json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Refused(f"neither a picture nor JSON: {error}; {FORMS}") from None


def _json_instances(value: Any, limits: Limits) -> tuple[list[bytes], bool]:
    if isinstance(value, Mapping) and "instances" in value:
        rows = value["instances"]
        if not isinstance(rows, list) or not rows:
            raise Refused("`instances` must be a list with at least one item")
        if len(rows) > limits.max_instances:
            raise Refused(
                f"{len(rows)} instances in one request, at most {limits.max_instances} are allowed; "
                "send them in several requests, the server batches them",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return [_base64(row, limits, f"instances[{i}]: ") for i, row in enumerate(rows)], True
    if isinstance(value, Mapping) and "data" in value:
        return [_base64(value["data"], limits, "data: ")], False
    found = f"keys {sorted(map(str, value))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
    raise Refused(f"JSON with neither `data` nor `instances` (found {found}); {FORMS}")


def _base64(row: Any, limits: Limits, where: str) -> bytes:
    text = row.get("b64") if isinstance(row, Mapping) else None
    if not isinstance(text, str):
        raise Refused(f'{where}expected {{"b64": "<base64 of the picture>"}}')
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"{where}not base64: {error}") from None
    if not raw:
        raise Refused(f"{where}empty")
    return _within(raw, limits, where)


def _within(raw: bytes, limits: Limits, where: str) -> bytes:
    if len(raw) > limits.max_bytes:
        raise Refused(
            f"{where}{len(raw):,} bytes, at most {limits.max_bytes:,} are allowed",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return raw


# -- bytes → picture ----------------------------------------------------------------------------


def decode_image(raw: bytes, limits: Limits) -> Image.Image:
    """A JPEG, PNG or WebP file to an upright RGB picture. Raises Refused.

    Alpha is dropped, as torchvision's loader does; EXIF rotation is applied; 16-bit grey keeps its
    upper 8 bits (Pillow's own conversion would clip); of an animation the first frame is taken.
    """
    try:
        # The size is known from the header alone: a bomb is refused before it is unpacked.
        image: Image.Image = Image.open(io.BytesIO(raw), formats=IMAGE_FORMATS)
        pixels = image.width * image.height
        if pixels <= limits.max_pixels:
            image.load()
    except UnidentifiedImageError:
        raise Refused(f"not a JPEG, PNG or WebP picture: it starts with {raw[:8].hex(' ')}") from None
    except Image.DecompressionBombError as error:
        raise Refused(str(error), HTTPStatus.REQUEST_ENTITY_TOO_LARGE) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, ValueError, SyntaxError, struct.error, …
        raise Refused(f"the picture is damaged: {error}") from None
    if pixels > limits.max_pixels:
        raise Refused(
            f"the picture has {image.width} × {image.height} pixels, at most {limits.max_pixels:,} "
            "are allowed",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return to_rgb(_upright(image))


_ORIENTATION = 0x0112
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    """As ImageOps.exif_transpose, which also rewrites the EXIF and so fails where another tag is damaged."""
    try:
        method = _TO_UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:  # damaged EXIF is no reason to refuse a sound picture
        return image
    return image if method is None else image.transpose(method)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode Pillow reads from JPEG, PNG or WebP to RGB."""
    if image.mode.startswith("I"):
        high = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(high)
    return image if image.mode == "RGB" else image.convert("RGB")


# -- picture → array ----------------------------------------------------------------------------

# With one number for the shorter side, a picture of 1 × 60,000 pixels would become one of billions.
MAX_RESIZED_PIXELS = 50_000_000


@dataclass(frozen=True)
class ImageTransform:
    """Resize and CenterCrop, as torchvision computes them on a PIL image.

    size: (height, width), or one int for the shorter side. crop: (height, width) or None.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImageTransform:
        """From the `image` section that the archive's model-config.yaml carries."""
        size, crop = config["size"], config.get("crop")
        return cls(
            size=size if isinstance(size, int) else (size[0], size[1]),
            crop=None if crop is None else (crop[0], crop[1]),
            interpolation=config.get("interpolation", "bilinear"),
        )

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of every array this gives."""
        if self.crop is not None:
            return self.crop
        if isinstance(self.size, int):
            raise ValueError("`size` is one number: without `crop` the arrays have no common shape")
        return self.size

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """An RGB picture to uint8 of shape (height, width, 3)."""
        return np.asarray(self._center_crop(self._resize(image)))

    def _resize(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        if not isinstance(self.size, int):
            height, width = self.size
        elif width <= height:
            width, height = self.size, int(self.size * height / width)
        else:
            width, height = int(self.size * width / height), self.size
        if width * height > MAX_RESIZED_PIXELS:
            raise Refused(
                f"the picture is too narrow: its {image.width} × {image.height} pixels would be resized to "
                f"{width:,} × {height:,}",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return image.resize((width, height), Image.Resampling[self.interpolation.upper()])

    def _center_crop(self, image: Image.Image) -> Image.Image:
        if self.crop is None:
            return image
        height, width = self.crop
        top, left = _margin(image.height, height), _margin(image.width, width)
        return image.crop((left, top, left + width, top + height))


def _margin(length: int, crop: int) -> int:
    """Where the crop begins; negative where black is added, as torchvision rounds either."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)
