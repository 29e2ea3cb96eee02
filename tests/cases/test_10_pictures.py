"""Cases 10 to 13: sound pictures in whatever form people send them, and true words for the others."""

from __future__ import annotations

import base64
import io
import json
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.base import Refused
from handlers.images.limits import Limits
from handlers.images.pictures import decode_image
from handlers.images.requests import instances

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def saved(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


PNG, JPEG = saved("PNG"), saved("JPEG")


def with_chunk(name: bytes, content: bytes, *, sound: bool = True) -> bytes:
    checksum = zlib.crc32(name + content) ^ (not sound)
    return (
        PNG[:33] + struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum) + PNG[33:]
    )


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


LARGE = zlib.compress(b"{}" * 1_000_000)
SOUND = {
    "an editor's XMP": with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "a generator's prompt": with_chunk(b"zTXt", b"prompt\0\0" + LARGE),
    "a printer's profile": with_chunk(b"iCCP", b"printer\0\0" + LARGE),
    "a wrong checksum in a note": with_chunk(b"tEXt", b"a\0b", sound=False),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_png_is_its_pixels(name: str) -> None:
    """Whatever stands beside them."""
    assert np.array_equal(np.asarray(decode_image(SOUND[name], Limits())), PIXELS)


def test_transparency_in_a_palette_is_no_warning() -> None:
    """It is dropped like all transparency."""
    palette = Image.fromarray(PIXELS).convert("P")
    found = decode_image(saved("PNG", palette, transparency=bytes(range(256))), Limits())
    assert np.array_equal(np.asarray(found), np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_our_limit_holds_where_pillows_is_lower(kind: str) -> None:
    """180 megapixels; a JPEG or WebP of that size is stood for by one below a lower limit of Pillow's."""
    if kind == "PNG":
        large = saved("PNG", Image.new("1", (18_000, 10_000)))
        with pytest.raises(Refused, match=r"18000 × 10000 pixels, at most 50,000,000"):
            decode_image(large, Limits())
        assert decode_image(large, Limits(max_pixels=200_000_000)).size == (18_000, 10_000)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert decode_image(saved(kind), Limits()).size == (40, 40)
        assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (PNG[:-200], "the picture is damaged: it is cut off, or its pixels are incomplete"),
        (JPEG[:-200], "the picture is damaged: it is cut off, its end marker is missing"),
        (saved("WEBP")[:-200], "the picture is damaged: it is cut off: "),
        (saved("GIF"), "not a JPEG, PNG or WebP picture: it starts with 47 49 46 38"),
    ],
    ids=["PNG", "JPEG", "WebP", "GIF"],
)
def test_what_is_said_is_true(raw: bytes, reason: str) -> None:
    """A file that is cut off is a damaged picture, and another format is no damage."""
    with pytest.raises(Refused) as refused:
        decode_image(raw, Limits())
    assert refused.value.reason.startswith(reason)


TEXT = base64.b64encode(JPEG).decode()
WRITTEN = {
    "in lines": base64.encodebytes(JPEG).decode(),
    "as a data URL": f"data:image/jpeg;base64,{TEXT}",
    "URL-safe": base64.urlsafe_b64encode(JPEG).decode(),
    "without padding": TEXT.rstrip("="),
    "with a line end": f"{TEXT}\n",
}
BODIES: dict[str, Any] = {
    **{f"base64 {name}": {"data": {"b64": text}} for name, text in WRITTEN.items()},
    "KServe": {"instances": [{"data": TEXT}]},
    "Vertex AI": {"instances": [{"data": {"b64": TEXT}}]},
    "the stock handler": {"data": TEXT},
    "TensorFlow Serving": {"instances": [{"image_bytes": {"b64": TEXT}}]},
    "a mark before JSON": bytearray(b"\xef\xbb\xbf" + json.dumps({"data": {"b64": TEXT}}).encode()),
    "UTF-16": bytearray(json.dumps({"data": {"b64": TEXT}}).encode("utf-16")),
    "text": TEXT,
    "a mark before text": f"\ufeff{TEXT}",
}


@pytest.mark.parametrize("name", BODIES)
def test_what_people_send_is_taken(name: str) -> None:
    """Each of these has one meaning."""
    raws, listed = instances({"body": BODIES[name]}, Limits())
    assert raws == [JPEG]
    assert listed == (isinstance(BODIES[name], dict) and "instances" in BODIES[name])
