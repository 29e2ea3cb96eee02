"""`torchmar predict`: what is sent, how answers are shown and kept, and what is drawn of them."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from torchmar.cli import app
from torchmar.cli._servers import ServerOptions
from torchmar.client import Prediction
from torchmar.client._form import form_of
from torchmar.client._inference import _body_of
from torchmar.errors import ClientError
from torchmar.golden import GoldenRequest


class Server:
    """One that answers so, and keeps what it was asked."""

    def __init__(self, content: bytes, content_type: str = "") -> None:
        self.content, self.content_type = content, content_type
        self.asked: list[dict[str, Any]] = []

    @property
    def inference(self) -> Server:
        return self

    def predict(self, _: str, **arguments: Any) -> Prediction:
        self.asked.append(arguments)
        return Prediction(200, self.content, self.content_type, "", 0.01)


class Asked:
    """`torchmar predict m …` in a folder with x.txt and a grey picture of 60 by 40."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.server = Server(b"{}")
        monkeypatch.chdir(folder)
        (folder / "x.txt").write_text("x")
        Image.new("RGB", (60, 40), (100, 100, 100)).save(folder / "picture.png")

        @contextmanager
        def connect(_: Any) -> Iterator[Server]:
            yield self.server

        monkeypatch.setattr(ServerOptions, "connect", connect)

    def run(self, content: Any, *arguments: str) -> Result:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.server = Server(body, "image/png" if body.startswith(b"\x89PNG") else "")
        return CliRunner().invoke(app, ["predict", "m", *arguments])

    def says(self, content: Any, *arguments: str) -> str:
        done = self.run(content, *arguments)
        assert done.exception is None, done.exception
        return done.stdout

    def error(self, content: Any, *arguments: str) -> str:
        done = self.run(content, *arguments)
        assert done.exception is not None
        return done.stderr.removeprefix("error: ") or str(done.exception)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    return Asked(monkeypatch, tmp_path)


# -- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (
            [{"label": "tie", "score": 0.8734561, "box": [1, 2.5, 30, 41]}, {"label": "a b", "score": 1.0}],
            ["label score box", "tie 0.873456 1, 2.5, 30, 41", "a b 1"],
        ),
        (
            [{"item": 7, "title": None}, {"item": 12345678, "new": True}],
            ["item title new", "7 null", "12345678 true"],
        ),
        ({"text": "Hello.", "seconds": 1234567.25}, ["text Hello.", "seconds 1234567.25"]),
        ([0.5, 1, -2], ["at +0 +1 +2", "0 0.5 1 -2"]),
        (list(range(10)), ["at +0 +1 +2 +3 +4 +5 +6 +7", "0 0 1 2 3 4 5 6 7", "8 8 9"]),
    ],
)
def test_tables(asked: Asked, content: Any, lines: list[str]) -> None:
    """Rows whatever their keys, one flat object, numbers."""
    said = [" ".join(line.split()) for line in asked.says(content, "x.txt").splitlines()[1:]]
    assert [line for line in said if line] == lines


def test_an_object_has_no_line_of_column_names(asked: Asked) -> None:
    """They would be empty."""
    assert "" not in asked.says({"text": "Hello.", "ended": True}, "x.txt").splitlines()


def test_text_is_text(asked: Asked) -> None:
    """As it is, without what would drive the terminal."""
    assert asked.says("caf\u00e9 [b]\nand\x1b[2J".encode(), "x.txt").splitlines()[1:] == [
        "caf\u00e9 [b]",
        "and\ufffd[2J",
    ]


# -- bytes --------------------------------------------------------------------------------------


def test_bytes_are_not_printed_but_kept(asked: Asked) -> None:
    """What they are is said; --save has them as they came; JSON has them in base64."""
    content = b"\x89PNG\r\n\x1a\n\0\xff"
    assert "10 B that are no text (image/png): --save FILE keeps them" in asked.says(content, "x.txt")
    assert "10 B that are no text (image/png): in mask.png" in asked.says(
        content, "x.txt", "--save", "mask.png"
    )
    assert (asked.folder / "mask.png").read_bytes() == content
    [told] = json.loads(asked.says(content, "x.txt", "--json"))
    assert (told["answer"], base64.b64decode(told["base64"])) == (None, content)
    asked.says({"a": 1}, "x.txt", "--save", "answer.json")
    assert (asked.folder / "answer.json").read_bytes() == b'{"a": 1}'


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["x.txt", "--save", "x.txt"], "--save x.txt: this file is sent"),
        (["x.txt", "picture.png", "--save", "y"], "--save y: holds one answer"),
        (["x.txt", "--save", "none/y"], "there is no folder none"),
        (["x.txt", "--save", "."], "it is a folder"),
        (["picture.png", "--save", "y.png", "--draw", "./y.png"], "name two files"),
        (["-F", "a=@x.txt", "--save", "x.txt"], "this file is sent"),
    ],
)
def test_nothing_is_overwritten_that_is_sent(asked: Asked, arguments: list[str], error: str) -> None:
    """A target that cannot be is told before anything is asked."""
    assert error in asked.error({}, *arguments)
    assert asked.server.asked == []
    assert (asked.folder / "x.txt").read_text() == "x"


# -- forms --------------------------------------------------------------------------------------


def test_a_form_is_one_request(asked: Asked) -> None:
    """Texts and files; a value may hold `=`."""
    asked.says({}, "-F", "a=2=3", "-F", "picture=@picture.png", "--field", "none=")
    [request] = asked.server.asked
    assert request["fields"] == {"a": "2=3", "picture": Path("picture.png"), "none": ""}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "nothing to send: give files"),
        (["x.txt", "-F", "a=1"], "send files or fields (-F), not both"),
        (["-F", "a", "-F", "=1"], "-F a: write NAME=VALUE, or NAME=@FILE\n-F =1: write"),
        (["-F", "a=1", "-F", "a=2"], "a is given twice"),
        (
            ["-F", "a=@none.jpg", "-F", "b=@."],
            "none.jpg: cannot be read: no such file\n.: cannot be read: it is",
        ),
    ],
)
def test_what_is_no_form_is_told(asked: Asked, arguments: list[str], error: str) -> None:
    """All of it at once, before anything is sent."""
    assert error in asked.error({}, *arguments)
    assert asked.server.asked == []


def test_content_types_are_those_of_the_suffix(tmp_path: Path) -> None:
    """JSON and text are told from bytes; a text is a field, and no file."""
    for name in ("a.json", "b.TXT", "c.wav"):
        (tmp_path / name).write_bytes(name.encode())
    files = form_of(
        {**{name: tmp_path / name for name in ("a.json", "b.TXT", "c.wav")}, "d": "2", "e": b"\0"}
    )["files"]
    assert files == {
        "a.json": ("file", b"a.json", "application/json"),
        "b.TXT": ("file", b"b.TXT", "text/plain"),
        "c.wav": ("file", b"c.wav", "application/octet-stream"),
        "d": (None, "2", None),
        "e": ("file", b"\0", "application/octet-stream"),
    }
    with pytest.raises(ClientError, match="none: cannot be read: No such file"):
        form_of({"a": tmp_path / "none"})
    with pytest.raises(ClientError, match="no fields"):
        form_of({})
    with pytest.raises(TypeError, match="found int"):
        form_of({"a": 2})  # type: ignore[dict-item]


def test_a_body_has_the_content_type_of_its_file(tmp_path: Path) -> None:
    """The same as golden requests, `verify --request` and `tune` have, unless another is asked for."""
    for name in ("a.json", "b.TXT", "c.wav"):
        (tmp_path / name).write_text(name)
        sent = _body_of(tmp_path / name, None, None, None)
        assert sent == {
            "data": name.encode(),
            "headers": {"Content-Type": GoldenRequest(name, b"").content_type},
        }
    assert _body_of(tmp_path / "a.json", None, "text/csv", None)["headers"] == {"Content-Type": "text/csv"}
    assert _body_of(b"a", None, None, None) == {"data": b"a", "headers": {}}


def test_a_text_is_sent_as_text() -> None:
    """As form fields are: a file is a Path."""
    assert _body_of("é", None, None, None) == {
        "data": "é".encode(),
        "headers": {"Content-Type": "text/plain"},
    }


# -- drawing ------------------------------------------------------------------------------------


def drawn(asked: Asked, content: Any, *arguments: str) -> Image.Image:
    asked.says(content, *(arguments or ("picture.png",)), "--draw", "out.png")
    return Image.open(asked.folder / "out.png")


GREY = (100, 100, 100)


def test_boxes_are_drawn(asked: Asked) -> None:
    """Their edges; what is around them stays."""
    for content in (
        [{"label": "tie", "score": 0.9, "box": [10, 20, 50.5, 35]}],
        [[{"box": [50, 35, 10, 20]}]],
        {"predictions": [{"label": 3, "box": [10, 20, 50, 35]}]},
    ):
        picture = drawn(asked, content)
        assert picture.getpixel((10, 35)) == picture.getpixel((50, 34)) == (230, 159, 0)
        assert picture.getpixel((5, 5)) == picture.getpixel((55, 38)) == GREY


def test_a_box_beyond_the_picture_is_drawn(asked: Asked) -> None:
    """As far as there is a picture."""
    picture = drawn(asked, [{"label": "tie", "score": 0.9, "box": [-5, -5, 1000, 30]}])
    assert picture.size == (60, 40)
    assert picture.getpixel((30, 30)) == (230, 159, 0)


def test_run_lengths_are_drawn(asked: Asked) -> None:
    """Column by column: here the right half, wherever the mask is in the answer; the first class is none."""
    runs = {"size": [40, 60], "counts": [30 * 40, 30 * 40]}
    for content in (
        runs,
        [{"label": "x", "mask": runs}],
        {"person": runs},
        {"none": {"size": [40, 60], "counts": [0, 30 * 40, 30 * 40]}, "person": runs},
        {"size": [2, 2], "counts": [2, 2]},
    ):
        picture = drawn(asked, content)
        assert picture.getpixel((29, 20)) == GREY
        assert picture.getpixel((30, 20)) == picture.getpixel((59, 0)) != GREY


def png(mode: str, values: bytes) -> bytes:
    image = Image.frombytes(mode, (2, 1), values)
    if mode == "P":
        image.putpalette([0, 0, 0, 0, 0, 0])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("body", [png("P", b"\0\1"), png("L", b"\0\xff")])
def test_png_masks_are_drawn(asked: Asked, body: bytes) -> None:
    """Indexed or grey, as body or as base64 in JSON; 0 is no class."""
    for content in (body, {"b64": base64.b64encode(body).decode()}):
        picture = drawn(asked, content)
        assert picture.getpixel((29, 20)) == GREY
        assert picture.getpixel((30, 20)) != GREY


def test_labels_are_written(asked: Asked) -> None:
    """The first ones, at the top; of a form's fields the first picture is drawn on."""
    content = [{"label": "cat", "index": 3, "probability": 0.5}]
    picture = drawn(asked, content, "-F", "a=@x.txt", "-F", "b=@picture.png")
    assert picture.crop((0, 0, 60, 20)).getcolors() != [(1200, GREY)]
    assert picture.crop((0, 30, 60, 40)).getcolors() == [(600, GREY)]


@pytest.mark.parametrize(
    ("content", "arguments", "error"),
    [
        ([1.5], ["picture.png"], "nothing in the answer can be drawn; expected rows with `box`"),
        (b"RIFF\xff\0", ["picture.png"], "nothing in the answer can be drawn"),
        ({"b64": "no"}, ["picture.png"], "nothing in the answer can be drawn"),
        (
            {"size": [40, 60], "counts": [1, 2]},
            ["picture.png"],
            "expected size [height, width]",
        ),
        ({"size": [40, 60], "counts": "PP"}, ["picture.png"], "expected size [height, width]"),
        ([{"label": "a"}], ["x.txt"], "Pillow cannot read x.txt"),
        (
            [{"label": "a"}],
            ["-F", "a=1"],
            "--draw needs a picture among the files that are sent: no file was sent",
        ),
    ],
)
def test_what_cannot_be_drawn_is_told(asked: Asked, content: Any, arguments: list[str], error: str) -> None:
    """After the answer was shown; nothing is written."""
    done = asked.run(content, *arguments, "--draw", "out.png")
    assert error in done.stderr
    assert "(10 ms)" in done.stdout
    assert not (asked.folder / "out.png").exists()


def test_a_suffix_that_is_no_pictures_is_told(asked: Asked) -> None:
    assert "out.xyz: cannot be written: unknown file extension: .xyz; name a .png or .jpg" in asked.error(
        [{"label": "a"}], "picture.png", "--draw", "out.xyz"
    )


def test_without_pillow_it_says_what_to_install(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert asked.error([], "picture.png", "--draw", "out.png").startswith(
        "pip install Pillow: --draw needs it"
    )
    assert asked.server.asked == []
