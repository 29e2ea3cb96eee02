"""What a file says before its pixels are decoded: metadata change no pixel, and every reason is true."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from handlers.base import Refused
from handlers.images.files import read_picture_file
from handlers.images.limits import Limits
from handlers.images.pictures import decode_image, open_picture, open_pictures, orientation
from handlers.images.transform import ImageTransform

LIMITS = Limits()


def noise(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(raw: bytes) -> np.ndarray:
    return np.asarray(decode_image(raw, LIMITS))


def why(raw: bytes, limits: Limits = LIMITS) -> str:
    """The reason for which a file is refused."""
    with pytest.raises(Refused) as refused:
        decode_image(raw, limits)
    assert refused.value.status in {400, 413}
    return refused.value.reason


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


PNG = file(noise(20, 10), "PNG")
PALETTE = file(noise(20, 10, mode="P"), "PNG")
JPEG = file(noise(20, 10), "JPEG")
WEBP = file(noise(20, 10), "WEBP")
KINDS = pytest.mark.parametrize("raw", [JPEG, PNG, WEBP], ids=["JPEG", "PNG", "WebP"])

AFTER_HEADER = 33  # of a PNG: its signature and IHDR


def png_with(more: bytes, raw: bytes = PNG) -> bytes:
    return raw[:AFTER_HEADER] + more + raw[AFTER_HEADER:]


def jpeg_with(more: bytes) -> bytes:
    return JPEG[:2] + more + JPEG[2:]


@pytest.fixture(autouse=True)
def _nothing_global() -> Iterator[None]:
    """Pillow's own settings are as they were, and it warns of nothing."""
    limits = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    after = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    assert after == limits


# -- metadata -----------------------------------------------------------------------------------

LARGE = zlib.compress(b" " * 2_000_000)


@pytest.mark.parametrize(
    "more",
    [
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b" " * 2_000_000),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0not deflated"),
        chunk(b"zTXt", b"prompt\0\0" + LARGE),
        chunk(b"zTXt", b"prompt\0\7" + LARGE),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE),
        chunk(b"iCCP", b"printer\0\0" + LARGE),
        chunk(b"iCCP", b"printer\0\7" + LARGE),
        chunk(b"tEXt", b"note\0" + b"x" * 60_000) * 70,
        chunk(b"tEXt", b"\xff" * 200 + b"\0"),
        *(chunk(name, b"") for name in (b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tRNS", b"iCCP", b"iTXt")),
        *(chunk(name, b"\0") for name in (b"acTL", b"fcTL", b"fdAT", b"eXIf", b"tIME", b"caBX", b"prVt")),
        *(chunk(name, b"\0" * 40, checksum=0) for name in (b"tEXt", b"gAMA", b"eXIf", b"acTL", b"prVt")),
        chunk(b"fcTL", struct.pack(">IIIII", 7, 90, 90, 90, 90) + bytes(6)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("raw", [PNG, PALETTE], ids=["RGB", "palette"])
def test_no_chunk_beside_the_pixels_spoils_a_png(raw: bytes, more: bytes) -> None:
    """Text, profiles, animation and private data: large, damaged, with a wrong checksum, before and after."""
    assert np.array_equal(pixels(png_with(more, raw)), pixels(raw))
    assert np.array_equal(pixels(raw[:-12] + more + raw[-12:]), pixels(raw))


ancillary_names = st.from_regex(rb"\A[a-z][a-zA-Z][A-Z][a-zA-Z]\Z")
ancillary = st.builds(chunk, ancillary_names, st.binary(max_size=60), st.none() | st.just(0))


@settings(max_examples=200)
@given(st.lists(ancillary, max_size=4).map(b"".join), st.booleans())
def test_any_chunk_beside_the_pixels_is_passed_over(more: bytes, before: bool) -> None:
    """Those that nobody has thought of yet, too."""
    raw = png_with(more) if before else PNG[:-12] + more + PNG[-12:]
    assert np.array_equal(pixels(raw), pixels(PNG))


@pytest.mark.parametrize(
    "more",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xE0, b"JFXX\0\x13" + bytes(100)),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b" " * 60_000) * 60,
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\1\1" + b"\xff\xda" * 30_000),
        segment(0xE2, b"MPF\0nonsense"),
        segment(0xED, b"Photoshop 3.0\x008BIM"),
        segment(0xED, b"Photoshop 3.0\x008BIM\3\xed\xff"),
        segment(0xEE, b"Adobe"),
        segment(0xEB, b"JP" + b"\xff\xd9" * 1000),
        segment(0xFE, b"\xff\xda" * 20_000),
        segment(0xFE, b"") + b"\0junk between segments",
        b"\xff\xe2\0\0",
        b"\xff" * 1000,
    ],
)  # fmt: skip
def test_no_segment_beside_the_pixels_spoils_a_jpeg(more: bytes) -> None:
    """JFIF, XMP, profiles, Photoshop's, a second picture's index, comments: large, cut off, nonsense."""
    assert np.array_equal(pixels(jpeg_with(more)), pixels(JPEG))


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([*range(0xE0, 0xEE), 0xEF, 0xFE]), st.binary(max_size=60)), max_size=4)
)
def test_any_metadata_of_a_jpeg_is_passed_over(more: list[tuple[int, bytes]]) -> None:
    """All but Adobe's, which says what the components are."""
    raw = jpeg_with(b"".join(segment(*one) for one in more if not one[1].startswith(b"JFIF\0")))
    assert np.array_equal(pixels(raw), pixels(JPEG))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_colours_of_a_jpeg_stay_as_it_says(mode: str) -> None:
    """JFIF and Adobe segments decide how components become colours: they are no mere metadata."""
    raw = file(noise(20, 10, mode=mode), "JPEG")
    with Image.open(io.BytesIO(raw)) as image:
        assert np.array_equal(pixels(raw), np.asarray(image.convert("RGB")))
    without_transform = segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0))
    no_jfif = raw[:2] + without_transform + raw[20:] if raw[6:10] == b"JFIF" else raw
    with Image.open(io.BytesIO(no_jfif)) as image:
        assert np.array_equal(pixels(no_jfif), np.asarray(image.convert("RGB")))


def exif_with(entries: int, size: int, turned: int = 6) -> bytes:
    """EXIF with entries that all point to the same `size` bytes, and an orientation."""
    many = b"".join(struct.pack(">HHII", 1000 + tag, 7, size, 8) for tag in range(entries))
    head = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", entries + 1)
    return head + many + struct.pack(">HHIHH", 0x0112, 3, 1, turned, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_would_fill_the_memory_does_not(kind: str) -> None:
    """5,000 entries of 60 kB each are 300 MB, in a file of 60 kB; only the orientation is read."""
    exif = exif_with(5_000, 60_000)
    raw = {
        "JPEG": lambda: jpeg_with(segment(0xE1, exif)),
        "PNG": lambda: png_with(chunk(b"eXIf", exif[6:])),
    }.get(kind, lambda: file(noise(20, 10), "WEBP", exif=exif))()
    tracemalloc.start()
    try:
        assert decode_image(raw, LIMITS).size == (10, 20)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


XMP = b'<x><rdf:Description tiff:Orientation="6"/></x>'
PROFILE = b"Raw profile type exif\0"
HEXADECIMAL = b"\nexif\n     999\n" + exif_with(0, 0).hex().encode()


@pytest.mark.parametrize(
    "raw",
    [
        jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0x\0" + zlib.compress(XMP))),
        png_with(chunk(b"zTXt", PROFILE + b"\0" + zlib.compress(HEXADECIMAL))),
        png_with(chunk(b"tEXt", PROFILE + HEXADECIMAL)),
        file(noise(20, 10), "WEBP", xmp=XMP),
    ],
    ids=["JPEG XMP", "PNG XMP", "PNG XMP deflated", "PNG zTXt", "PNG tEXt", "WebP XMP"],
)
def test_the_orientation_is_found_wherever_pillow_finds_it(raw: bytes) -> None:
    """In XMP, and in the text that ImageMagick writes."""
    assert decode_image(raw, LIMITS).size == (10, 20)


@settings(max_examples=300)
@given(st.binary(max_size=80).map(exif_with(1, 4).__add__) | st.binary(max_size=80), st.binary(max_size=80))
def test_the_orientation_of_any_bytes_is_a_number(exif: bytes, xmp: bytes) -> None:
    """Whatever stands there, reading it raises nothing."""
    assert isinstance(orientation(exif, xmp), int)
    assert isinstance(orientation(exif[::-1], xmp), int)


# -- what is said of what is refused ------------------------------------------------------------


def with_frame(raw: bytes, change: Callable[[bytearray], None]) -> bytes:
    """A JPEG with another frame header."""
    frame = raw.index(b"\xff\xc0")
    header = bytearray(raw[frame : frame + 19])
    change(header)
    return raw[:frame] + bytes(header) + raw[frame + 19 :]


def set_byte(position: int, value: int) -> Callable[[bytearray], None]:
    def change(header: bytearray) -> None:
        header[position] = value

    return change


def ihdr(width: int, height: int, depth: int, colours: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))


BROKEN_IHDR = PNG[:29] + bytes(4) + PNG[33:]
BROKEN_PLTE = png_with(chunk(b"PLTE", bytes(768), checksum=0))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (BROKEN_IHDR, "damaged: the checksum of its chunk IHDR is wrong"),
        (BROKEN_PLTE, "damaged: the checksum of its chunk PLTE is wrong"),
        (PNG[:20], "damaged: it is cut off in its header"),
        (PNG[:12], "damaged: it is cut off in its header"),
        (PNG[:AFTER_HEADER], "damaged: it is cut off or damaged before its pixels"),
        (PNG[:200], "damaged: it is cut off, or its pixels are incomplete"),
        (PNG[:8] + chunk(b"tEXt", b"") + PNG[8:], "damaged: its first chunk is not IHDR"),
        (PNG[:8] + chunk(b"CgBI", bytes(4)) + PNG[8:], "not of a supported kind: a PNG in the form"),
        (PNG[:8] + ihdr(20, 10, 3, 2) + PNG[33:], "damaged: no PNG has 3 bits in colour type 2"),
        (PNG[:8] + ihdr(20, 0, 8, 2) + PNG[33:], "damaged: its header says 20 × 0 pixels"),
        (PNG[:8] + chunk(b"IHDR", PNG[16:28]) + PNG[33:], "damaged: its header has 12 bytes and not 13"),
        (JPEG[:5], "damaged: it is cut off before its pixels"),
        (JPEG[:300], "damaged: it is cut off before its pixels"),
        (JPEG[:2] + b"\xff\xd9", "damaged: it ends before its pixels"),
        (JPEG[:-200], "damaged: it is cut off, its end marker is missing"),
        (with_frame(JPEG, set_byte(4, 12)), "not of a supported kind: a JPEG of 12 bits a sample"),
        (with_frame(JPEG, set_byte(9, 2)), "not of a supported kind: a JPEG of 2 components"),
        (with_frame(JPEG, set_byte(1, 0xC5)), "not of a supported kind: a JPEG of the rare process"),
        (jpeg_with(segment(0xFE, b"") * 1001), "damaged: more than 1,000 segments stand before its pixels"),
        (WEBP[:-20], f"damaged: it is cut off: {len(WEBP) - 20:,} of {len(WEBP):,} bytes are there"),
        (WEBP[:12] + b"VP9 " + WEBP[16:], "damaged: it does not begin as WebP does"),
        (WEBP[:20] + b"\xfe\xff\xff" + WEBP[23:], "damaged: its pixels or its frames cannot be decoded"),
    ],
)  # fmt: skip
def test_what_is_said_of_a_file_is_true(raw: bytes, reason: str) -> None:
    """What is wrong, and not that it were no picture, or what Pillow makes of it."""
    assert why(raw).startswith(f"the picture is {reason}")


@KINDS
def test_pillows_own_limit_is_not_ours(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where max_pixels allows more than Pillow would, it holds: no error, no warning."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert pixels(raw).shape == (10, 20, 3)
    assert why(raw, Limits(max_pixels=199)) == "the picture has 20 × 10 pixels, at most 199 are allowed"


@pytest.mark.parametrize("raw", [PNG[:200], JPEG[:-200]], ids=["PNG", "JPEG"])
def test_a_models_own_setting_lets_no_half_picture_pass(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training scripts set it for their data sets; a worker would answer for a picture that is grey below."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert "it is cut off" in why(raw)


# -- what a request may cost --------------------------------------------------------------------


def with_scans(raw: bytes, more: int) -> bytes:
    """A progressive JPEG with its last scan repeated: each is a pass over the whole picture."""
    body = raw[:-2]
    return body + body[body.rindex(b"\xff\xda") :] * more + b"\xff\xd9"


PROGRESSIVE = file(noise(20, 10), "JPEG", progressive=True)


@pytest.mark.parametrize(
    ("raw", "scans"),
    [
        (JPEG, 1),
        (PNG, 1),
        (WEBP, 1),
        (PROGRESSIVE, 10),
        (with_scans(PROGRESSIVE, 5), 15),
        (with_scans(PROGRESSIVE, 500), 510),
        (PROGRESSIVE + b"\xff\xda\0\x08" * 500, 10),
        (JPEG + b"\xff\xda\0\x08" * 500, 1),
        (PROGRESSIVE[:2] + segment(0xE1, b"\xff\xda" * 500) + PROGRESSIVE[2:], 10),
        (with_scans(PROGRESSIVE, 500).replace(b"\xff\xda", b"\xff\xff\xda"), 510),
        (with_scans(PROGRESSIVE, 500).replace(b"\xff\xda", segment(0xFE, b"\xff\xd9") + b"\xff\xda"), 510),
        (with_scans(JPEG, 500), 1),
    ],
)  # fmt: skip
def test_scans_are_counted_as_the_decoder_takes_them(raw: bytes, scans: int) -> None:
    """Not those of a preview inside, nor of the film that a phone appends; behind padding and comments."""
    found = read_picture_file(raw)
    assert found is not None
    assert found.scans == scans


@pytest.mark.parametrize(("more", "cost"), [(0, 200), (10, 400), (290, 6_000)])
def test_ten_scans_count_as_one_picture(more: int, cost: int) -> None:
    """An ordinary progressive JPEG counts as its pixels."""
    raw = with_scans(PROGRESSIVE, more)
    assert open_picture(raw, LIMITS).cost == cost
    assert decode_image(raw, Limits(max_total_pixels=cost)).size == (20, 10)
    if more:
        reason = why(raw, Limits(max_total_pixels=cost - 1))
        assert reason == (
            f"the picture has 20 × 10 pixels in {more + 10:,} scans, as much work as {cost:,} pixels; "
            f"a request may have at most {cost - 1:,}"
        )


def opened(raws: list[bytes], limits: Limits, size: int | tuple[int, int] = (8, 8)) -> list[Image.Image]:
    transform = ImageTransform(size, (8, 8))
    return list(open_pictures(raws, limits, transform.resized_size, listed=True))


@KINDS
def test_a_request_may_have_as_many_pixels_as_its_limit_and_not_one_more(raw: bytes) -> None:
    """All of its pictures together, before any of them is decoded."""
    assert len(opened([raw] * 3, Limits(max_total_pixels=600))) == 3
    with pytest.raises(Refused, match=r"3 pictures with the work of 600 pixels .*, at most 599") as refused:
        opened([raw] * 3, Limits(max_total_pixels=599))
    assert refused.value.status == 413


def test_what_pictures_are_resized_to_counts_too() -> None:
    """Slivers are few pixels, and many once their shorter side has the size that the model takes."""
    sliver = file(noise(1, 200), "PNG")
    assert len(opened([sliver] * 2, Limits(max_total_pixels=26_000), size=8)) == 2
    with pytest.raises(Refused, match="25,600"):
        opened([sliver] * 2, Limits(max_total_pixels=25_599), size=8)


def test_a_reason_says_which_picture_it_is_about() -> None:
    """Of a list; whether its header or its pixels are damaged."""
    for damaged in (b"a cat", PNG[:200]):
        with pytest.raises(Refused, match=r"^instances\[1\]: "):
            opened([PNG, damaged], LIMITS)


def test_the_total_is_never_less_than_one_picture_may_have() -> None:
    """Who raises max_pixels alone means it."""
    assert Limits().total_pixels == 100_000_000
    assert Limits(max_pixels=300_000_000).total_pixels == 300_000_000
    assert Limits(max_total_pixels=5).total_pixels == 5
