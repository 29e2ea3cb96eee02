"""What a request carries becomes arrays: as torchvision computes them, or refused with a reason."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from handlers.base import Refused
from handlers.image_classifier import Params
from handlers.images.limits import Limits
from handlers.images.normalize import Normalize
from handlers.images.pictures import decode_image, to_rgb
from handlers.images.requests import instances
from handlers.images.transform import ImageTransform
from handlers.params import build_params

LIMITS = Limits()
SMALL = Limits(max_bytes=1_000, max_pixels=10_000, max_instances=3)


# -- pictures to test with ----------------------------------------------------------------------


def noise(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of any mode in which every pixel counts."""
    rng = np.random.default_rng(seed)
    if mode == "1":
        return noise("L", width, height, seed).convert("1")
    bands = len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, (width, height), rng.bytes(width * height * bands))
    if mode == "P":
        image.putpalette(rng.bytes(768))
    return image


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(raw: bytes) -> np.ndarray:
    """What decode_image gives, after the checks that hold for every picture."""
    image = decode_image(raw, LIMITS)
    assert image.mode == "RGB"
    return np.asarray(image)


def as_torchvision_loads(raw: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(raw)) as image:
        return np.asarray(image.convert("RGB"))


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of one bit a pixel, chunk by chunk: its header, and what else is given."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), *more, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


JPEG = file(noise("RGB", 20, 10), "JPEG")
PNG = file(noise("RGB", 20, 10), "PNG")
WEBP = file(noise("RGB", 20, 10), "WEBP")
FORMATS = pytest.mark.parametrize("raw", [JPEG, PNG, WEBP], ids=["JPEG", "PNG", "WebP"])


# -- the preprocessing is torchvision's ---------------------------------------------------------

sides = st.one_of(st.integers(1, 300), st.sampled_from([1, 2, 3, 299, 300]))
targets = st.integers(1, 64)
pairs = st.tuples(targets, targets)
MODES = ["L", "RGB", "RGBA", "LA", "P", "CMYK", "1"]
INTERPOLATIONS = ["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]


def by_torchvision(image: Image.Image, transform: ImageTransform) -> np.ndarray:
    size = transform.size if isinstance(transform.size, int) else list(transform.size)
    from torchvision import transforms

    interpolation = transforms.InterpolationMode(transform.interpolation)
    steps = [
        transforms.Resize(size, interpolation),
        *([] if transform.crop is None else [transforms.CenterCrop(transform.crop)]),
    ]
    return np.asarray(transforms.Compose(steps)(image.convert("RGB")))


@settings(max_examples=300)
@given(
    picture=st.builds(noise, st.sampled_from(MODES), sides, sides, st.integers(0, 2**32)),
    transform=st.builds(
        ImageTransform,
        size=st.one_of(targets, pairs),
        crop=st.one_of(st.none(), pairs),
        interpolation=st.sampled_from(INTERPOLATIONS),
    ),
)
@example(noise("RGB", 1, 300), ImageTransform(64, crop=(64, 64)))
@example(noise("RGB", 300, 1), ImageTransform(64, crop=(64, 64)))
@example(noise("L", 7, 5), ImageTransform(5, crop=(8, 8)))
def test_the_transform_is_torchvisions_bit_for_bit(picture: Image.Image, transform: ImageTransform) -> None:
    """A model sees here exactly what it was trained on there: no pixel differs."""
    expected = by_torchvision(picture, transform)
    found = transform(to_rgb(picture))
    assert found.dtype == expected.dtype == np.uint8
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_photographs_size_is_torchvisions_too(interpolation: Any) -> None:
    """ImageNet's own sizes, once for each interpolation."""
    imagenet = ImageTransform(256, crop=(224, 224), interpolation=interpolation)
    picture = noise("RGB", 641, 427)
    assert np.array_equal(imagenet(picture), by_torchvision(picture, imagenet))


@pytest.mark.parametrize(
    ("size", "crop", "expected"),
    [((30, 40), None, (30, 40)), (40, (20, 30), (20, 30)), ((50, 60), (20, 30), (20, 30))],
)
def test_output_size_is_the_shape_of_every_array(size: Any, crop: Any, expected: tuple[int, int]) -> None:
    """The warm-up's example has the shape that requests will have."""
    transform = ImageTransform(size, crop)
    assert transform.output_size == expected
    assert transform(noise("RGB", 33, 77)).shape == (*expected, 3)


def test_one_number_without_crop_has_no_output_size() -> None:
    """Such arrays cannot be stacked, and the error says what is missing."""
    with pytest.raises(ValueError, match="without `crop`"):
        _ = ImageTransform(32).output_size


@pytest.mark.parametrize(
    "params",
    [
        "{size: [20, 30], mean: [0.5, 0.4, 0.3], std: [0.1, 0.2, 0.3]}",
        "{size: 24, crop: [20, 16], mean: [0.5, 0.4, 0.3], std: [0.1, 0.2, 0.3], interpolation: bicubic}",
        "{size: [20, 30], mean: [0.5, 0.4, 0.3], std: [0.1, 0.2, 0.3], interpolation: nearest}",
    ],
)
def test_what_the_module_gets_is_what_torchvision_makes(params: str) -> None:
    """Resize, CenterCrop, ToTensor, Normalize, with [height, width] in that order; numpy rounds otherwise."""
    content = yaml.safe_load(params)
    own = build_params(Params, content)
    picture = noise("RGB", 61, 47)
    pixels = ImageTransform(own.size, own.crop, own.interpolation)(picture)[None]
    from torchvision import transforms

    mode = transforms.InterpolationMode(own.interpolation)
    steps = [transforms.Resize(content["size"], interpolation=mode)]
    steps += [transforms.CenterCrop(content["crop"])] if own.crop else []
    steps += [transforms.ToTensor(), transforms.Normalize(own.mean, own.std)]
    wanted = transforms.Compose(steps)(picture)[None]
    normalise = Normalize(own.mean, own.std)
    assert torch.equal(normalise.of_tensors(torch.from_numpy(pixels.copy())), wanted)
    assert normalise.of_arrays(pixels).dtype == np.float32
    assert np.allclose(normalise.of_arrays(pixels), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("sides", [(1, 60_000), (60_000, 1)], ids=["tall", "wide"])
def test_a_sliver_is_refused_before_it_is_blown_up(sides: tuple[int, int]) -> None:
    """60,000 pixels are few, but with its shorter side enlarged to 256 this would take 16 GB."""
    transform = ImageTransform(256, crop=(224, 224))
    with pytest.raises(Refused, match="15,360,000") as refused:
        transform(Image.new("RGB", sides))
    assert refused.value.status == 413


# -- pictures that are decoded ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 7}),
        ("P", "PNG", {"transparency": bytes(range(256))}),
        ("L", "PNG", {"transparency": 7}),
        ("RGB", "PNG", {"transparency": (1, 2, 3)}),
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True}),
    ],
)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_every_kind_of_file_is_read_as_torchvision_reads_it(
    mode: str, kind: str, options: dict[str, Any]
) -> None:
    """Grey, palette, CMYK, alpha, transparency: the picture is what `Image.open(…).convert("RGB")` gives."""
    raw = file(noise(mode, 31, 17), kind, **options)
    assert np.array_equal(decoded(raw), as_torchvision_loads(raw))


def test_a_palette_is_looked_up() -> None:
    """With transparency or without, a pixel is its palette's colour."""
    picture = noise("P", 31, 17)
    colours = np.array(picture.getpalette(), dtype=np.uint8).reshape(256, 3)
    assert np.array_equal(decoded(file(picture, "PNG", transparency=7)), colours[np.asarray(picture)])


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_dropped_and_not_blended(kind: str) -> None:
    """What is behind transparent pixels is the model's to see, as it was in training."""
    picture = noise("RGBA", 31, 17)
    raw = file(picture, kind, lossless=True, exact=True)
    assert np.array_equal(decoded(raw), np.asarray(picture)[:, :, :3])


def test_16_bit_grey_keeps_its_upper_8_bits() -> None:
    """Pillow's own conversion would make everything above 255 white."""
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    found = decoded(file(Image.fromarray(values), "PNG"))
    assert np.array_equal(found, np.stack([values >> 8] * 3, axis=-1))


def test_of_32_bit_grey_what_16_bits_hold_is_kept() -> None:
    """Older Pillows give a 16-bit PNG as mode I."""
    values = np.array([[0, 255, 256, 65_535]], dtype=np.int32)
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 1, 255]


# The EXIF standard's eight orientations: how the stored rows and columns are to be shown.
SHOWN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_a_rotated_photograph_is_turned_upright(kind: str, orientation: int) -> None:
    """Phones store what the sensor saw and say in EXIF how to hold it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = file(noise("RGB", 31, 17), kind, exif=exif)
    assert np.array_equal(decoded(raw), SHOWN[orientation](as_torchvision_loads(raw)))


TIFF = b"Exif\0\0MM\0*\0\0\0\x08"


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0not TIFF at all",
        TIFF,
        TIFF + b"\xff\xff",
        TIFF + b"\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0",
        TIFF + b"\0\x01\x01\x12\0\x03\xff\xff\xff\xff\xff\xff\xff\xff",
        TIFF + b"\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0",
    ],
    ids=[
        "empty",
        "text",
        "cut",
        "entries missing",
        "orientation is text",
        "beyond the end",
        "no such way up",
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_is_no_reason_to_refuse(kind: str, exif: bytes) -> None:
    """The picture is sound: it is taken as it is stored."""
    raw = file(noise("RGB", 31, 17), kind, exif=exif)
    assert np.array_equal(decoded(raw), as_torchvision_loads(raw))


def test_a_damaged_tag_beside_it_does_not_lose_the_orientation() -> None:
    """A camera's odd entry elsewhere in the EXIF does not leave the picture lying on its side."""
    turned, odd = b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0", b"\x12\x34\0\x02\0\0\0\x01\0\0\0\0"
    raw = file(noise("RGB", 31, 17), "JPEG", exif=TIFF + b"\0\x02" + turned + odd + bytes(4))
    assert np.array_equal(decoded(raw), SHOWN[6](as_torchvision_loads(raw)))


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    """One picture for one answer."""
    first, second = noise("RGB", 31, 17, seed=1), noise("RGB", 31, 17, seed=2)
    raw = file(first, kind, save_all=True, append_images=[second], lossless=True)
    with Image.open(io.BytesIO(raw)) as image:
        assert image.n_frames == 2
    assert np.array_equal(decoded(raw), np.asarray(first))


def test_a_phones_jpeg_with_a_second_picture_inside_is_a_jpeg() -> None:
    """Pillow names it MPO; it is what many phones send."""
    raw = file(noise("RGB", 31, 17), "MPO", save_all=True, append_images=[noise("RGB", 8, 8)])
    assert np.array_equal(decoded(raw), as_torchvision_loads(raw))


# -- pictures that are refused ------------------------------------------------------------------


def refusal(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as refused:
        call()
    return refused.value


@pytest.mark.parametrize(
    "raw",
    [b"", b"a cat", b"\x89PNG\r\n\x1a\n", file(noise("P", 8, 8), "GIF"), file(noise("RGB", 8, 8), "TIFF")],
    ids=["empty", "text", "magic alone", "GIF", "TIFF"],
)
def test_what_is_no_jpeg_png_or_webp_is_refused(raw: bytes) -> None:
    """The reason says what would be taken, and how this began."""
    refused = refusal(lambda: decode_image(raw, LIMITS))
    assert refused.status == 400
    assert "not a JPEG, PNG or WebP" in refused.reason
    assert raw[:8].hex(" ") in refused.reason


@FORMATS
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_picture_is_refused(raw: bytes, part: float) -> None:
    """An upload that broke off is not answered as if it were grey below."""
    assert refusal(lambda: decode_image(raw[: int(len(raw) * part)], LIMITS)).status == 400


@FORMATS
def test_a_picture_may_have_as_many_pixels_as_the_limit_and_not_one_more(raw: bytes) -> None:
    """413 with both numbers."""
    assert decode_image(raw, Limits(max_pixels=200)).size == (20, 10)
    refused = refusal(lambda: decode_image(raw, Limits(max_pixels=199)))
    assert refused.status == 413
    assert "20 × 10" in refused.reason
    assert "199" in refused.reason


@pytest.mark.parametrize("side", [8_000, 20_000], ids=["above our limit", "above Pillow's"])
def test_a_png_bomb_is_refused_by_its_header_alone(side: int) -> None:
    """A few kilobytes, 64 or 400 million pixels: with none of them in the file the answer is the same."""
    bomb = png(side, side, (b"IDAT", zlib.compress(bytes((side // 8 + 1) * side))))
    assert len(bomb) < 100_000
    refused = refusal(lambda: decode_image(bomb, LIMITS))
    assert refused.status == 413
    never_unpacked = refusal(lambda: decode_image(png(side, side), LIMITS))
    assert (never_unpacked.status, never_unpacked.reason) == (413, refused.reason)


def test_the_small_brother_of_the_bomb_is_a_good_picture() -> None:
    """What the bomb is refused for is its size and nothing else."""
    small = png(80, 80, (b"IDAT", zlib.compress(bytes(11 * 80))))
    assert not decoded(small).any()


# -- requests -----------------------------------------------------------------------------------


def b64(raw: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(raw).decode()}


B64 = base64.b64encode(JPEG).decode()
URL_SAFE = base64.urlsafe_b64encode(JPEG).decode()
# Bytes that are written with both digits that differ in URLs.
assert "+" in B64
assert "/" in B64


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(JPEG).decode(),
        base64.encodebytes(JPEG).decode().replace("\n", "\r\n    "),
        f"\n {B64}\n",
        URL_SAFE,
        B64.rstrip("="),
        URL_SAFE.rstrip("=") + "\n",
        f"data:image/jpeg;base64,{B64}",
        f"DATA:image/jpeg;charset=utf-8;BASE64,{B64}",
        f"data:;base64,{B64.replace('+', '%2B').replace('=', '%3D')}",
    ],
    ids=["lines", "indented", "around", "URL-safe", "no padding", "both", "URL", "URL 2", "escaped"],
)  # fmt: skip
def test_every_way_to_write_base64_is_read(text: str) -> None:
    """As Python, JavaScript, openssl and mail write it; under a key, alone, and as the whole body."""
    bodies: list[Any] = [{"data": {"b64": text}}, {"b64": text}, {"data": text}, text, text.encode()]
    bodies += [json.dumps(text).encode(), json.dumps({"data": text})]  # the latter was JSON within JSON
    for body in bodies:
        assert instances({"body": body}, LIMITS) == ([JPEG], False)
    assert instances({"body": {"instances": [text, {"b64": text}]}}, LIMITS) == ([JPEG, JPEG], True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    "content", [{"data": {"b64": B64}}, {"instances": [{"b64": B64}]}, B64], ids=["data", "instances", "text"]
)
def test_json_is_read_in_any_encoding_of_unicode(encoding: str, content: Any) -> None:
    """With a byte order mark and without; TorchServe leaves what it could not parse as bytes."""
    raw = json.dumps(content).encode(encoding)
    expected = ([JPEG], isinstance(content, dict) and "instances" in content)
    assert instances({"body": bytearray(raw)}, LIMITS) == expected
    assert instances({"data": raw}, LIMITS) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"data": B64}, JPEG),
        ({"data": {"b64": B64}}, JPEG),
        ({"image_bytes": {"b64": B64}, "key": "7"}, JPEG),
        ({"image": B64, "parameters": {}}, JPEG),
        ({"b64": B64, "data": "ignored"}, JPEG),
        (B64, JPEG),
    ],
    ids=["KServe", "data b64", "TensorFlow Serving", "image", "b64 first", "text"],
)  # fmt: skip
def test_what_other_servers_take_is_taken(row: Any, expected: bytes) -> None:
    """The forms of KServe, Vertex AI, TensorFlow Serving and the stock handlers, where they are clear."""
    assert instances({"body": {"instances": [row]}}, LIMITS) == ([expected], True)
    assert instances({"body": row}, LIMITS) == ([expected], False)


@pytest.mark.parametrize(
    "request_",
    [
        {"body": {"x" * 2_300_000: 1}},
        {"x" * 2_300_000: b"1"},
        {"body": {f"key {i}": 1 for i in range(300_000)}},
        {f"key {i}": b"1" for i in range(300_000)},
        {"body": {"instances": {"x" * 2_300_000: 1}}},
        {"body": "x" * 2_300_000},
        {"body": b"{" + b"x" * 2_300_000},
        {"body": b'{"a": ' + b"1" * 2_300_000 + b"}"},
        {"body": {"data": "!" * 2_300_000}},
        {"body": {"data": {"b64": "é" * 2_300_000}}},
    ],
    ids=range(10),
)  # fmt: skip
def test_a_refusal_does_not_repeat_the_request(request_: dict[str, Any]) -> None:
    """A reason of megabytes would end the worker, and every request of its batch."""
    assert len(refusal(lambda: instances(request_, LIMITS)).reason) < 500


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"body": JPEG}, ([JPEG], False)),
        ({"body": bytearray(JPEG)}, ([JPEG], False)),
        ({"data": bytearray(JPEG)}, ([JPEG], False)),
        ({"data": JPEG, "body": PNG}, ([JPEG], False)),
        ({"data": JPEG, "comment": bytearray(b"a cat")}, ([JPEG], False)),
        ({"body": {"data": b64(JPEG)}}, ([JPEG], False)),
        ({"body": {"instances": [b64(JPEG)]}}, ([JPEG], True)),
        ({"body": {"instances": [b64(JPEG), b64(PNG)]}}, ([JPEG, PNG], True)),
        ({"data": {"instances": [b64(PNG)]}}, ([PNG], True)),
        ({"body": bytearray(json.dumps({"data": b64(JPEG)}).encode())}, ([JPEG], False)),
        ({"body": b" \n" + json.dumps({"instances": [b64(JPEG)]}).encode()}, ([JPEG], True)),
    ],
    ids=[
        "raw bytes",
        "raw bytearray",
        "multipart",
        "multipart data before body",
        "multipart with more fields",
        "JSON data",
        "JSON one instance",
        "JSON two instances",
        "multipart JSON",
        "JSON data without content type",
        "JSON instances without content type",
    ],
)
def test_every_form_of_request_gives_its_pictures(
    request_: dict[str, Any], expected: tuple[list[bytes], bool]
) -> None:
    """As curl -T, curl -F and JSON clients send them, in the order of the instances."""
    assert instances(request_, LIMITS) == expected


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({}, "an empty request"),
        ({"body": None}, "found null"),
        ({"picture": JPEG}, "['picture']"),
        ({"body": ""}, "found text"),
        ({"body": "a cat"}, "found text"),
        ({"body": b""}, "the body is empty"),
        ({"data": bytearray()}, "the body is empty"),
        ({"body": b"{not JSON"}, "neither a picture nor JSON"),
        ({"body": b'{"a": "\xff"}'}, "neither a picture nor JSON"),
        ({"body": b'{"a":' * 100_000}, "neither a picture nor JSON"),
        ({"body": {}}, "neither `data` nor `instances`"),
        ({"body": {"picture": b64(JPEG)}}, "['picture']"),
        ({"body": [b64(JPEG)]}, "found a list"),
        ({"body": 7}, "found a int"),
        ({"body": {"instances": []}}, "at least one item"),
        ({"body": {"instances": b64(JPEG)}}, "must be a list"),
        ({"body": {"instances": [b64(JPEG), "text"]}}, "instances[1]: expected"),
        ({"body": {"instances": [b64(JPEG), {"b64": 7}]}}, "instances[1]: expected"),
        ({"body": {"instances": [b64(JPEG), {"b64": "not base64!"}]}}, "instances[1]: not base64"),
        ({"body": {"instances": [{"b64": "ÄÖÜ="}]}}, "instances[0]: not base64"),
        ({"body": {"instances": [{"b64": "eA=="}, {"b64": "e A=="}]}}, "instances[1]: not base64"),
        (
            {"body": {"instances": [{"b64": "data:image/png,eA=="}]}},
            "must begin with data:TYPE;base64,",
        ),
        ({"body": {"instances": [{"data": "a cat"}]}}, "instances[0].data: expected"),
        ({"body": {"instances": [{"data": ["b64"]}]}}, "instances[0].data: expected"),
        ({"body": {"instances": [{"data": B64, "image": B64}]}}, "which of them is the picture?"),
        ({"body": {"instances": [[1, 2], [3, 4]]}}, "instances[0]: expected"),
        ({"body": B64[:-4] + "!"}, "found text"),
        ({"body": '"a cat"'}, "found text"),
        ({"body": b'["' + B64.encode() + b'"]'}, "found a list"),
        ({"body": b"[not JSON"}, "neither a picture nor JSON"),
        ({"body": "\ufeff{"}, "neither a picture nor JSON"),
        ({"body": {"instances": [{"b64": ""}]}}, "instances[0]: empty"),
        ({"body": {"data": "text"}}, "data: expected"),
        ({"body": {"data": {"b64": "abcde"}}}, "data: not base64"),
    ],
)
def test_a_request_without_pictures_is_refused_with_what_was_found(
    request_: dict[str, Any], reason: str
) -> None:
    """400, and the reason is about this request."""
    refused = refusal(lambda: instances(request_, LIMITS))
    assert refused.status == 400
    assert reason in refused.reason


@pytest.mark.parametrize(
    "wrap",
    [
        lambda raw: {"body": raw},
        lambda raw: {"data": bytearray(raw)},
        lambda raw: {"body": {"data": b64(raw)}},
        lambda raw: {"body": {"instances": [b64(b"x"), b64(raw)]}},
        lambda raw: {"body": json.dumps({"data": b64(raw)}).encode()},
    ],
    ids=["raw", "multipart", "JSON data", "JSON instances", "JSON without content type"],
)
def test_a_file_may_have_as_many_bytes_as_the_limit_and_not_one_more(
    wrap: Callable[[bytes], dict[str, Any]],
) -> None:
    """413 with both numbers, whatever it came in."""
    assert instances(wrap(bytes(1_000)), SMALL)[0][-1] == bytes(1_000)
    refused = refusal(lambda: instances(wrap(bytes(1_001)), SMALL))
    assert refused.status == 413
    assert "1,001 bytes, at most 1,000" in refused.reason


def test_a_request_may_have_as_many_instances_as_the_limit_and_not_one_more() -> None:
    """413, before any of them is decoded."""
    assert len(instances({"body": {"instances": [b64(b"x")] * 3}}, SMALL)[0]) == 3
    refused = refusal(lambda: instances({"body": {"instances": [{"b64": "not base64!"}] * 4}}, SMALL))
    assert refused.status == 413
    assert "4 instances in one request, at most 3" in refused.reason


# -- whatever comes in --------------------------------------------------------------------------

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["data", "instances", "b64"]) | st.text(max_size=5), inner, max_size=4
        ),
    ),
    max_leaves=12,
)
almost_json = st.one_of(
    json_values.map(lambda value: json.dumps(value).encode()), st.binary(max_size=50).map(b"{".__add__)
)
requests = st.dictionaries(
    st.sampled_from(["data", "body"]) | st.text(max_size=5),
    st.one_of(st.binary(), st.binary().map(bytearray), almost_json, json_values),
    max_size=3,
)
SOUND = [
    JPEG,
    PNG,
    WEBP,
    file(noise("P", 9, 9), "PNG", transparency=bytes(range(256))),
    file(noise("CMYK", 9, 9), "JPEG"),
    file(noise("RGBA", 9, 9), "WEBP", save_all=True, append_images=[noise("RGBA", 9, 9, seed=1)]),
]


@st.composite
def damaged_pictures(draw: st.DrawFn) -> bytes:
    """A sound picture with some bytes overwritten, and perhaps its end cut off."""
    raw = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 4))):
        raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
    return bytes(raw[: draw(st.one_of(st.just(len(raw)), st.integers(0, len(raw))))])


@settings(max_examples=400)
@given(requests)
def test_any_request_is_read_or_refused(request_: dict[str, Any]) -> None:
    """No request makes `instances` raise anything else; what it gives is within the limits."""
    with contextlib.suppress(Refused):
        raws, listed = instances(request_, SMALL)
        assert 1 <= len(raws) <= (SMALL.max_instances if listed else 1)
        assert all(isinstance(raw, bytes) and 0 < len(raw) <= SMALL.max_bytes for raw in raws)


@settings(max_examples=800)
@given(st.one_of(st.binary(), damaged_pictures()))
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    """No file makes `decode_image` raise anything else; what it gives is RGB and within the limits."""
    with contextlib.suppress(Refused):
        image = decode_image(raw, SMALL)
        assert image.mode == "RGB"
        assert image.width * image.height <= SMALL.max_pixels


def test_this_pillow_can_read_what_we_promise() -> None:
    """A Pillow built without a codec would refuse every such picture with a misleading reason."""
    assert all(features.check(codec) for codec in ("jpg", "zlib", "webp"))
