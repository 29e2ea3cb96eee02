"""Draws boxes, masks and labels of an answer on the picture that was sent."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import TorchmarError

if TYPE_CHECKING:
    from PIL.Image import Image

# Okabe and Ito's colours without black: easy to tell apart, and visible on most pictures.
_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0))
_SCORES = ("score", "probability")
_PNG = b"\x89PNG\r\n\x1a\n"
_VEIL = 140  # of 255: how much of a mask hides the picture
_MOST_LABELS, _MOST_PIXELS = 3, 200_000_000
_FORMS = "rows with `box`: [x1, y1, x2, y2], a mask (PNG, or {size, counts}), or rows with `label`"


class NotDrawn(TorchmarError):
    """Says why an answer cannot be drawn on a picture."""


def require_pillow(option: str) -> None:
    """Raise NotDrawn if Pillow is missing, before anything is sent."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise NotDrawn(f"pip install Pillow: {option} needs it, and it is not installed") from None


def draw(answer: Any, sent: Sequence[Path], target: Path) -> None:
    """Draw the answer on the picture among the files that were `sent`, and write it to `target`.

    The answer is parsed JSON or bytes. The suffix of `target` sets the format. Raises NotDrawn, and then
    writes nothing.
    """
    picture = _picture(sent)
    if not _draw_on(picture, answer):
        raise NotDrawn(f"--draw {target}: nothing in the answer can be drawn; expected {_FORMS}")
    try:
        picture.save(target)
    except (OSError, ValueError) as error:
        raise NotDrawn(f"--draw {target}: cannot be written: {error}; name a .png or .jpg") from None


def _picture(files: Sequence[Path]) -> Image:
    """Return the first file that is a picture, turned upright as handlers that read Exif do."""
    from PIL import Image, ImageOps

    why = "no file was sent"
    for file in files:
        try:
            with Image.open(file) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            why = f"Pillow cannot read {file}"
    raise NotDrawn(f"--draw needs a picture among the files that are sent: {why}")


def _draw_on(picture: Image, content: Any) -> bool:
    """Draw an answer, and return whether it had something to draw."""
    if isinstance(content, bytes):
        return content.startswith(_PNG) and _draw_classes(picture, content)
    rows = _rows(content)
    boxes = [row for row in rows if _is_box(row.get("box"))]
    drawn = False
    for number, mask in _masks(content, rows):
        _veil(picture, mask, number)
        drawn = True
    for number, row in enumerate(boxes):
        _draw_box(picture, row, number)
    if boxes or drawn:
        return True
    if isinstance(content, Mapping) and isinstance(content.get("b64"), str):
        return _draw_classes(picture, _decoded(content["b64"]))
    texts = [text for row in rows if (text := _caption(row))]
    if texts:
        _write(picture, (4, 4), "\n".join(texts[:_MOST_LABELS]), (0, 0, 0))
    return bool(texts)


def _rows(content: Any) -> list[Mapping[str, Any]]:
    """Return an answer's objects: those of a list, a single one, or those of a list within."""
    while isinstance(content, list | Mapping) and len(content) == 1:
        [inner] = content.values() if isinstance(content, Mapping) else content
        if not isinstance(inner, list):
            break
        content = inner
    rows = [content] if isinstance(content, Mapping) else content
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _caption(row: Mapping[str, Any]) -> str:
    """Return a caption such as `cat 0.87`; '' for a row without a label."""
    label = row.get("label")
    if not isinstance(label, str | int):
        return ""
    scores = [row[key] for key in _SCORES if isinstance(row.get(key), float)]
    return " ".join([str(label)[:60], *(f"{score:.2f}" for score in scores[:1])])


# -- boxes --------------------------------------------------------------------------------------


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(_is_place(one) for one in box)


def _is_place(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _draw_box(picture: Image, row: Mapping[str, Any], number: int) -> None:
    from PIL import ImageDraw

    x1, y1, x2, y2 = row["box"]
    left, right, top, bottom = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    colour = _COLOURS[number % len(_COLOURS)]
    width = max(2, min(picture.size) // 200)
    ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=colour, width=width)
    if text := _caption(row):
        _write(picture, (max(0, left), max(0, top)), text, colour)


def _write(picture: Image, at: tuple[float, float], text: str, behind: tuple[int, int, int]) -> None:
    """Write text on a patch of a colour, in white or black, whichever is easier to read."""
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(max(11, min(picture.size) // 32))
    draw = ImageDraw.Draw(picture)
    draw.rectangle(draw.multiline_textbbox(at, text, font=font), fill=behind)
    draw.multiline_text(at, text, font=font, fill="black" if sum(behind) > 300 else "white")


# -- masks --------------------------------------------------------------------------------------


def _masks(content: Any, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Image]]:
    """Yield run-length encoded masks with their numbers: of the answer, of its keys, or of its rows.

    If each class has a mask, the first is the background, as 0 is in a PNG, and is left out.
    """
    if _is_runs(content):
        yield 0, _mask_of(content)
    elif isinstance(content, Mapping) and content and all(map(_is_runs, content.values())):
        named = list(enumerate(content.values()))
        for number, runs in named[1:] if len(named) > 1 else named:
            yield number, _mask_of(runs)
    else:
        for number, row in enumerate(rows):
            found: Any = row if _is_runs(row) else row.get("mask")
            if _is_runs(found):
                yield number, _mask_of(found)


def _is_runs(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("size"), list) and "counts" in value


def _mask_of(runs: Mapping[str, Any]) -> Image:
    """Return the mask of COCO's counts: 0 and 1 in turn, column by column. Raises NotDrawn for others."""
    from PIL import Image

    size, counts = runs["size"], runs["counts"]
    whole = [*size, *counts] if isinstance(counts, list) else [None]
    is_right = len(size) == 2 and all(isinstance(one, int) and one >= 0 for one in whole)
    if not is_right or sum(counts) != size[0] * size[1] or not 0 < sum(counts) <= _MOST_PIXELS:
        raise NotDrawn("a mask of the answer cannot be drawn: expected size [height, width] and its counts")
    height, width = size
    columns = b"".join(bytes([255 * (turn % 2)]) * count for turn, count in enumerate(counts))
    return Image.frombytes("L", (height, width), columns).transpose(Image.Transpose.TRANSPOSE)


def _draw_classes(picture: Image, png: bytes) -> bool:
    """Draw a PNG of classes, or of grey, on the picture; 0 is no class."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as image:
            classes = image.copy() if image.mode in {"P", "L", "1"} else image.convert("L")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    is_indexed = classes.mode == "P"
    numbers = Image.frombytes("L", classes.size, classes.tobytes()) if is_indexed else classes.convert("L")
    for number, count in enumerate(numbers.histogram()):
        if number and count:
            _veil(picture, numbers.point([255 * (value == number) for value in range(256)]), number - 1)
    return True


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _veil(picture: Image, mask: Image, number: int) -> None:
    """Colour the picture under a mask, and keep it visible."""
    from PIL import Image

    fitted = mask.resize(picture.size, Image.Resampling.NEAREST)
    veil = fitted.point([_VEIL * (value > 0) for value in range(256)])
    picture.paste(_COLOURS[number % len(_COLOURS)], mask=veil)
