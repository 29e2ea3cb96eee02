"""Decode files to upright RGB pictures, within limits that are checked before decoding."""

from __future__ import annotations

import io
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import numpy as np
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..worker.answers import Refused
from .files import Damaged, PictureFile, Unread, read_picture_file
from .limits import Limits

# Image.open has its own limits and hides why a file has no format, so use the classes directly.
_DECODERS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
}
# A baseline JPEG takes 2 to 10 ns per pixel, each further scan up to 1 ns.
_SCANS_AT_ONE_PIXEL = 10


def decode_image(raw: bytes, limits: Limits) -> Image.Image:
    """Decode a JPEG, PNG or WebP file to an upright RGB picture. Raises Refused.

    Drops alpha, as torchvision's loader does; applies EXIF rotation; keeps the upper 8 bits of 16-bit grey
    (Pillow's own conversion would clip); takes the first frame of an animation.
    """
    return open_picture(raw, limits).decode()


@dataclass(frozen=True)
class Picture:
    """A file within the limits for one picture, not decoded yet."""

    file: PictureFile

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height as stored."""
        return self.file.width, self.file.height

    @property
    def cost(self) -> int:
        """Return its pixels, and as many again for every ten scans of a JPEG beyond the first ten."""
        return (
            self.file.width
            * self.file.height
            * max(self.file.scans, _SCANS_AT_ONE_PIXEL)
            // (_SCANS_AT_ONE_PIXEL)
        )

    def decode(self) -> Image.Image:
        """Return the picture, upright and in RGB. Raises Refused."""
        try:
            if self.file.problem:
                raise Damaged(self.file.problem)
            with _without_pillows_limit(self.file):
                image = _DECODERS[self.file.kind](io.BytesIO(self.file.raw))
            if image.size != self.size:
                raise Damaged("its headers tell different sizes")
            # A model's code may have set it for training; it would return half a picture.
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises OSError, ValueError, SyntaxError, struct.error and others
            raise _damaged(_why(self.file, error)) from None
        exif = self.file.exif or image.info.get("exif", b"")
        xmp = self.file.xmp or image.info.get("xmp", b"")
        method = _TO_UPRIGHT.get(orientation(exif, xmp))
        return to_rgb(image if method is None else image.transpose(method))


def open_picture(raw: bytes, limits: Limits) -> Picture:
    """Open a file and check the size in its header, before anything is unpacked. Raises Refused."""
    if not isinstance(raw, bytes | bytearray):  # a form's field that is text
        raise Refused(f"not a JPEG, PNG or WebP picture: found a {type(raw).__name__}")
    try:
        file = read_picture_file(raw)
    except Damaged as error:
        raise _damaged(str(error)) from None
    except Unread as error:
        raise Refused(f"the picture is not of a supported kind: {error}") from None
    if file is None:
        raise Refused(f"not a JPEG, PNG or WebP picture: it starts with {raw[:8].hex(' ')}")
    if file.width * file.height > limits.max_pixels:
        raise Refused(
            f"the picture has {file.width} × {file.height} pixels, at most {limits.max_pixels:,} are allowed",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    picture = Picture(file)
    if picture.cost > limits.total_pixels:
        scans = f" in {file.scans:,} scans, as much work as {picture.cost:,} pixels" if file.scans > 1 else ""
        raise Refused(
            f"the picture has {file.width} × {file.height} pixels{scans}; a request may have at most "
            f"{limits.total_pixels:,}",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return picture


def open_pictures(
    raws: Sequence[bytes],
    limits: Limits,
    resized_size: Callable[[int, int], tuple[int, int]],
    *,
    listed: bool,
) -> Iterator[Image.Image]:
    """Yield the pictures of one request, each decoded on demand, if all of them are affordable.

    resized_size: returns a picture's size after resizing. Raises Refused at once, or when a picture is
    decoded; if `listed`, the reason names the picture.
    """
    cost = 0
    pictures = []
    for index, raw in enumerate(raws):
        with _named(index if listed else None):
            picture = open_picture(raw, limits)
            width, height = resized_size(*picture.size)
        cost += max(picture.cost, width * height)
        pictures.append(picture)
    if cost > limits.total_pixels:
        raise Refused(
            f"{len(raws)} pictures with the work of {cost:,} pixels in one request, at most "
            f"{limits.total_pixels:,} are allowed; send them in several requests",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    return _decoded(pictures, listed=listed)


def _decoded(pictures: Sequence[Picture], *, listed: bool) -> Iterator[Image.Image]:
    for index, picture in enumerate(pictures):
        with _named(index if listed else None):
            image = picture.decode()
        yield image


@contextmanager
def _named(index: int | None) -> Iterator[None]:
    """Put the picture's place in the request before a reason."""
    try:
        yield
    except Refused as refused:
        if index is None:
            raise
        raise Refused(f"instances[{index}]: {refused.reason}", refused.status) from None


def _damaged(why: str) -> Refused:
    return Refused(f"the picture is damaged: {why}")


def _why(file: PictureFile, error: Exception) -> str:
    """Explain why a file could not be decoded."""
    if isinstance(error, Damaged):
        return str(error)
    if file.kind == "JPEG" and b"\xff\xd9" not in file.raw:
        return "it is cut off, its end marker is missing"
    if "truncated" in str(error):
        return "it is cut off, or its pixels are incomplete"
    if file.kind == "WEBP":
        return "its pixels or its frames cannot be decoded"
    return str(error)


_PILLOWS_LIMIT = threading.Lock()


@contextmanager
def _without_pillows_limit(file: PictureFile) -> Iterator[None]:
    """Lift Pillow's own, global limit, which only the WebP class checks; it may be lower than ours."""
    limit = Image.MAX_IMAGE_PIXELS
    if file.kind != "WEBP" or limit is None or file.width * file.height <= limit:
        yield
        return
    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


# -- orientation --------------------------------------------------------------------------------

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(exif: bytes, xmp: bytes | str) -> int:
    """Return EXIF's orientation, from EXIF or else from XMP; 1 if neither has it, or both are damaged.

    Pillow would read what every entry points to, and many entries may point to the same megabyte.
    """
    with_exif = _exif_orientation(exif)
    if with_exif is not None:
        return with_exif
    text = xmp.encode() if isinstance(xmp, str) else xmp
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])\b", text)
    return 1 if found is None else int(found[1])


def _exif_orientation(exif: bytes) -> int | None:
    tiff = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        [first] = struct.unpack_from(f"{order}I", tiff, 4)
        [count] = struct.unpack_from(f"{order}H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", tiff, entry)
            if tag == _ORIENTATION and length == 1 and kind in {_SHORT, _LONG}:
                [value] = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", tiff, entry + 8)
                return int(value)
    except struct.error:  # damaged EXIF is no reason to refuse a valid picture
        pass
    return None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode that Pillow reads from JPEG, PNG or WebP to RGB."""
    if image.mode.startswith("I"):
        high = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(high)
    return image if image.mode == "RGB" else image.convert("RGB")
