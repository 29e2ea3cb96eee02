"""Case 32: what a request may cost is bounded in work, as it is in bytes and pixels."""

from __future__ import annotations

import io
from functools import cache

import pytest
from PIL import Image

from handlers.base import Refused
from handlers.images.limits import Limits
from handlers.images.pictures import decode_image, open_picture, open_pictures


@cache
def progressive(side: int, repeated: int) -> bytes:
    """A progressive JPEG with its last scan repeated: a few hundred bytes, and a pass over the picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 30)).save(buffer, "JPEG", progressive=True, quality=50)
    body = buffer.getvalue()[:-2]
    return body + body[body.rindex(b"\xff\xc4") :] * repeated + b"\xff\xd9"


@pytest.mark.parametrize(("side", "repeated"), [(7_000, 1_500), (7_000, 20), (2_000, 300)])
def test_scans_that_take_seconds_are_refused_before_the_first(side: int, repeated: int) -> None:
    """1,500 scans of 49 megapixels are half a minute; nothing of them is decoded."""
    with pytest.raises(
        Refused, match=r"scans, as much work as .*; a request may have at most 100,000,000"
    ) as no:
        decode_image(progressive(side, repeated), Limits())
    assert no.value.status == 413


def test_an_ordinary_progressive_picture_is_taken() -> None:
    """It has ten scans, or a few more where an optimiser has chosen them, and counts as its pixels."""
    assert open_picture(progressive(7_000, 0), Limits()).cost == 49_000_000
    assert open_picture(progressive(7_000, 10), Limits()).cost <= 100_000_000
    assert decode_image(progressive(500, 10), Limits()).size == (500, 500)


def test_sixteen_of_the_largest_pictures_are_refused_before_the_first() -> None:
    """Each is within the limit of one; together they would hold a worker for ten seconds."""
    buffer = io.BytesIO()
    Image.new("1", (7_000, 7_000)).save(buffer, "PNG")
    with pytest.raises(Refused, match="16 pictures with the work of 784,000,000 pixels in one request") as no:
        open_pictures([buffer.getvalue()] * 16, Limits(), lambda *size: size, listed=True)
    assert no.value.status == 413
