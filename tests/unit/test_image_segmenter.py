"""Masks of the caller's picture: as a PNG, as runs, as shares; and when two of them say the same."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from handlers.base import Inputs, Outputs
from handlers.image_segmenter import Handler, Params
from handlers.labels import read_labels
from handlers.masks import png_of, runs_of
from tests.asking import NOWHERE, Answer, ask, opened
from tests.pictures import encoded, listed, picture
from torchmar.answers import parsed
from torchmar.compare import Comparator
from torchmar.masks import mask_iou, read_indexes

SIZE = 20


def by_brightness(classes: int) -> Any:
    """The brighter a pixel, the higher its class; one output is the brightness."""

    def call(inputs: Inputs) -> Outputs:
        bright = inputs["pixels"].astype(np.float32).mean(axis=3) / 255
        if classes == 1:
            return {"out": bright[:, None]}
        levels = np.linspace(0, 1, classes, dtype=np.float32)[None, :, None, None]
        return {"out": -abs(bright[:, None] - levels), "aux": bright[:, None]}

    return call


def ready(classes: int, files: Path = NOWHERE, **params: Any) -> Handler:
    if classes == 1:
        params = {"scores": "probabilities", **params}
    handler: Handler = opened(Handler, {"size": [SIZE, SIZE], **params}, files, by_brightness(classes))
    handler.warm_up()
    return handler


def half(width: int, height: int, level: int = 255) -> bytes:
    """Black on the left, bright on the right."""
    image = Image.new("RGB", (width, height))
    image.paste((level,) * 3, (width // 2, 0, width, height))
    return encoded(image)


def only(answers: list[Answer]) -> Answer:
    [one] = answers
    assert one.status == 200, one.body
    return one


def pixels_of(answer: Answer) -> np.ndarray:
    assert answer.kind == "image/png"
    assert isinstance(answer.body, bytes)
    return np.asarray(Image.open(io.BytesIO(answer.body)))


# -- the answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_png_holds_the_class_of_each_pixel_of_the_callers_picture(classes: int) -> None:
    """The model saw 20 × 20, the caller sent 80 × 40."""
    mask = pixels_of(only(ask(ready(classes), half(80, 40))))
    assert mask.shape == (40, 80)
    assert (mask[:, :38] == 0).all()
    assert (mask[:, 42:] == max(1, classes - 1)).all()


def test_runs_are_those_of_coco() -> None:
    """Column by column; of one output the second class, else each class by its label."""
    assert only(ask(ready(1, answer="rle"), half(20, 10))).content == {"size": [10, 20], "counts": [100, 100]}
    assert only(ask(ready(3, answer="rle"), half(20, 10, 127))).content == {
        "0": {"size": [10, 20], "counts": [0, 100, 100]},
        "1": {"size": [10, 20], "counts": [100, 100]},
        "2": {"size": [10, 20], "counts": [200]},
    }


def test_shares_name_every_class(tmp_path: Path) -> None:
    """Also one that no pixel has: answers always have the same keys."""
    (tmp_path / "labels.txt").write_text("sky\nroad\ncar\n")
    handler = ready(3, tmp_path, answer="shares", labels="labels.txt")
    assert only(ask(handler, half(20, 10))).content == {"sky": 0.5, "road": 0.0, "car": 0.5}


def test_with_one_output_the_threshold_decides() -> None:
    """A logit goes through a sigmoid first: 0.2 is 0.55, and what exp cannot hold is 1."""
    assert only(ask(ready(1, answer="shares", threshold=0.6), picture(9, 9, (150,) * 3))).content["1"] == 0
    assert only(ask(ready(1, answer="shares", threshold=0.5), picture(9, 9, (150,) * 3))).content["1"] == 1

    def logits(inputs: Inputs) -> Outputs:
        return {
            "out": (inputs["pixels"][..., :1].astype(np.float32).transpose(0, 3, 1, 2) - 100) * 1000 + 0.2
        }

    handler = opened(Handler, {"size": [9, 9], "scores": "sigmoid", "answer": "shares"}, NOWHERE, logits)
    answers = ask(handler, *(picture(9, 9, (level,) * 3) for level in (0, 100, 255)))
    assert [answer.content["1"] for answer in answers] == [0, 1, 1]


def test_in_a_list_a_png_is_base64() -> None:
    """JSON holds no bytes; what it says is the same."""
    alone = only(ask(ready(1), half(20, 10)))
    many = only(ask(ready(1), listed(half(20, 10), picture(5, 5)))).content["predictions"]
    assert base64.b64decode(many[0]["b64"]) == alone.body
    assert len(many) == 2


def test_a_bad_picture_fails_alone() -> None:
    """As does one for which the model gives no number, and one that is too large."""

    def call(inputs: Inputs) -> Outputs:
        bright = by_brightness(1)(inputs)["out"]
        return {"out": np.where(bright == 1, np.nan, bright)}

    params = {"size": [SIZE, SIZE], "scores": "probabilities", "limits": {"max_pixels": 100}}
    answers = ask(
        opened(Handler, params, NOWHERE, call), picture(9, 9), b"", picture(9, 9, (255,) * 3), picture(11, 10)
    )
    assert [one.status for one in answers] == [200, 400, 500, 413]
    assert "the body is empty" in answers[1].reason
    assert "NaN or infinity" in answers[2].reason
    assert "at most 100 are allowed" in answers[3].reason


# -- what models give ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "fill", "params", "told"),
    [
        ((1, 1, 4, 4), 0.5, {}, "write `scores: sigmoid`.*or `scores: probabilities`"),
        ((1, 1, 4, 4), 7.0, {"scores": "probabilities"}, "write `scores: sigmoid`"),
        ((1, 1, 4, 4), 0.5, {"scores": "sigmoid"}, "write `scores: probabilities`"),
        ((1, 257, 2, 2), 0.5, {}, "at most 256 classes, the module has 257"),
        ((1, 4, 4), 0.5, {}, r"shape \(n, classes, height, width\), found float64 \(1, 4, 4\)"),
        ((1, 3, 2, 2), np.nan, {}, "gives NaN or infinity"),
        ((1, 3, 2, 2), 0.5, {"labels": "voc"}, "3 classes, `labels: voc` names 21"),
        ((1, 1, 2, 2), 0.5, {"scores": "probabilities", "labels": "voc"}, "one output, which is two classes"),
    ],
)
def test_a_model_that_is_not_what_params_say_is_not_built(
    shape: tuple[int, ...], fill: float, params: dict[str, Any], told: str
) -> None:
    """examine() is asked with what the module gave, which ends in a sigmoid here."""
    handler = Handler()
    handler.open(Params(size=(4, 4), **params), Path("/nowhere"), {})
    with pytest.raises(ValueError, match=told):
        handler.examine({"scores": np.full(shape, fill)}, squashed=True)


def test_a_sound_model_is_built() -> None:
    """Several classes with any numbers; one output with a probability."""
    handler = Handler()
    handler.open(Params(size=(4, 4), labels="voc"), Path("/nowhere"), {})
    assert handler.examine({"scores": np.full((1, 21, 4, 4), -3.5)}, squashed=False) == ()


def test_labels_of_another_model_are_found_before_the_first_request(tmp_path: Path) -> None:
    """Their number, and one that two classes have, whose masks would be one."""
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"the module has 3 classes, `labels: two\.txt` names 2"):
        ready(3, tmp_path, labels="two.txt")
    with pytest.raises(ValueError, match="several classes have the same: a"):
        ready(3, tmp_path, labels="twice.txt")
    assert len(read_labels("voc", Path())) == 21


def test_of_torchvisions_outputs_the_main_one_is_kept() -> None:
    """Beside `out` some have `aux`; two that nobody can tell apart are an error."""
    handler = Handler()
    handler.params = Params(size=(4, 4))
    one, other = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    assert handler.graph_suffix({"out": other, "aux": one}, 1)["scores"] is other
    assert handler.graph_suffix(one, 1)["scores"] is one
    with pytest.raises(ValueError, match="its scores alone, or as `out`"):
        handler.graph_suffix((one, other), 1)


# -- masks --------------------------------------------------------------------------------------

masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3))
)


@given(masks)
def test_what_is_written_as_png_is_read_back(mask: np.ndarray) -> None:
    """By Pillow, and by the comparator, which has neither Pillow nor numpy."""
    png = png_of(mask)
    assert (np.asarray(Image.open(io.BytesIO(png))) == mask).all()
    assert read_indexes(png) == ((mask.shape[1], mask.shape[0]), mask.tobytes())


@given(masks)
def test_runs_are_the_mask(mask: np.ndarray) -> None:
    """Decoded as COCO describes it."""
    runs = runs_of(mask == 1)
    flat = np.repeat(np.arange(len(runs["counts"])) % 2, runs["counts"])
    assert (flat.reshape(runs["size"], order="F") == (mask == 1)).all()


@given(masks, st.data())
def test_both_forms_of_a_mask_are_compared_alike(mask: np.ndarray, data: Any) -> None:
    """The oracle is numpy: each class's intersection over union."""
    other = data.draw(arrays(np.uint8, mask.shape, elements=st.integers(0, 3)))
    least = data.draw(st.sampled_from([0.3, 0.5, 0.9]))
    found = []
    for index in range(4):
        one, two = mask == index, other == index
        union = (one | two).sum()
        found.append(union == 0 or (one & two).sum() >= least * union)
        if union:
            iou = (one & two).sum() / union
            assert mask_iou(runs_of(one)["counts"], runs_of(two)["counts"]) == pytest.approx(iou)
    comparator = Comparator.of({"kind": "mask", "min_iou": least})
    runs = [{str(index): runs_of(each == index) for index in range(4)} for each in (mask, other)]
    pngs = [png_of(each) for each in (mask, other)]
    in_lists = [{"predictions": [{"b64": base64.b64encode(png).decode()}]} for png in pngs]
    assert [comparator.same(*pair) for pair in (runs, pngs, in_lists)] == [all(found)] * 3


@pytest.mark.parametrize("answer", ["png", "rle", "shares"])
def test_a_mask_that_moved_is_another_answer(answer: str) -> None:
    """As each form is answered; a border that wavers, and a speck, make no difference."""
    handler = ready(1, answer=answer)
    comparator = Comparator.of(handler.compare())

    def told(edge: int, speck: int = 0) -> Any:
        image = Image.new("RGB", (1000, 100))
        image.paste((255,) * 3, (edge, 0, 1000, 100))
        image.paste((255,) * 3, (0, 0, speck, speck))
        return parsed(_bytes(only(ask(handler, encoded(image)))))

    assert comparator.same(told(500), told(500, speck=5))
    assert not comparator.same(told(500), told(700))
    assert not comparator.same(told(500), told(1000))


def test_a_class_with_little_of_the_picture_is_not_looked_at() -> None:
    """Unless nothing is said of `min_share`."""
    one, other = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    other[:5, :5] = 2
    lenient, strict = (Comparator.of({"kind": "mask", **more}) for more in ({"min_share": 0.01}, {}))
    assert lenient.same(png_of(one), png_of(other))
    assert not strict.same(png_of(one), png_of(other))


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        encoded(Image.new("RGB", (4, 4))),
        png_of(np.zeros((4, 5), np.uint8)),
        [],
        None,
    ],
    ids=["nothing", "its beginning", "of colours", "of another size", "a list", "null"],
)
def test_what_is_no_mask_is_another_answer(other: Any) -> None:
    """Never an error."""
    assert not Comparator.of({"kind": "mask"}).same(png_of(np.zeros((4, 4), np.uint8)), other)


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """With ValueError and no other error, also behind a PNG's beginning."""
    for png in (raw, png_of(np.zeros((3, 3), np.uint8))[:33] + raw):
        try:
            read_indexes(png)
        except ValueError:
            continue


def _bytes(answer: Answer) -> bytes:
    return answer.body.encode() if isinstance(answer.body, str) else answer.body
