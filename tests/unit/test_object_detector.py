"""Boxes of any detector's form come back in the caller's pixels, thresholded and without duplicates."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import batched_nms, box_convert, box_iou

from handlers.base import Inputs, Outputs
from handlers.boxes import kept, overlaps, to_corners
from handlers.images.fit import Fit
from handlers.labels import read_labels
from handlers.object_detector import Handler, Params
from handlers.runtimes import TorchModel
from tests.asking import NOWHERE, Answer, ask, opened
from tests.pictures import array, encoded, listed, picture
from torchmar.compare import Comparator

PARAMS = {"size": [100, 100]}
ABC = ["a", "b", "c"]


def model(boxes: Any, scores: Any, **more: Any) -> Callable[[Inputs], Outputs]:
    """Gives the same for each picture."""

    def call(inputs: Inputs) -> Outputs:
        found: dict[str, np.ndarray] = {
            "boxes": array(*boxes).reshape(-1, 4),
            "scores": array(*scores),
            **more,
        }
        return {name: np.stack([one] * len(inputs["pixels"])) for name, one in found.items()}

    return call


def ready(found: Any, files: Path = NOWHERE, **params: Any) -> Handler:
    handler: Handler = opened(Handler, {**PARAMS, **params}, files, found)
    handler.warm_up()
    return handler


def only(answers: list[Answer]) -> list[dict[str, Any]]:
    [one] = answers
    assert one.status == 200, one.body
    content: list[dict[str, Any]] = one.content
    return content


ONE = model([[10, 20, 30, 40]], [[0.1, 0.9, 0.2]])


# -- the answer ---------------------------------------------------------------------------------


def test_a_box_is_told_in_the_callers_pixels() -> None:
    """The model saw 100 × 100, the caller sent 200 × 50."""
    [row] = only(ask(ready(ONE), picture(200, 50)))
    assert row == {"label": "1", "index": 1, "score": pytest.approx(0.9), "box": [20, 10, 60, 20]}


def test_a_box_refers_to_the_picture_as_it_is_seen() -> None:
    """A camera held upright writes a lying picture and says in EXIF how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (200, 50)).save(buffer, "JPEG", exif=exif)
    [row] = only(ask(ready(ONE), buffer.getvalue()))
    assert row["box"] == [5, 40, 15, 80]


def test_a_box_is_cut_off_at_the_pictures_edges() -> None:
    """Models give boxes that reach beyond."""
    [row] = only(ask(ready(model([[-10, -20, 300, 50]], [[0.9]])), picture(100, 100)))
    assert row["box"] == [0, 0, 100, 50]


def test_with_its_ratio_kept_a_picture_lies_in_the_middle_of_grey() -> None:
    """200 × 100 in 100 × 100: 50 rows of picture, 25 of grey above and below."""
    seen: list[np.ndarray] = []

    one = model([[10, 25, 90, 75]], [[0.9]])

    def call(inputs: Inputs) -> Outputs:
        seen.append(inputs["pixels"])
        return one(inputs)

    [row] = only(ask(ready(call, keep_ratio=True), picture(200, 100, (255, 0, 0))))
    assert row["box"] == [20, 0, 180, 100]
    column = seen[-1][0, :, 50]
    assert (column[:25] == 114).all()
    assert (column[25:75] == (255, 0, 0)).all()
    assert (column[75:] == 114).all()


@pytest.mark.parametrize(
    ("form", "box"),
    [("xyxy", [10, 20, 30, 60]), ("xywh", [10, 20, 20, 40]), ("cxcywh", [20, 40, 20, 40])],
)
@pytest.mark.parametrize("unit", ["pixels", "share"])
def test_every_form_of_a_box_is_understood(form: str, box: list[float], unit: str) -> None:
    """Corners, a corner and sides, a centre and sides; in pixels, or as shares of a 200 × 100 input."""
    if unit == "share":
        box = [box[0] / 200, box[1] / 100, box[2] / 200, box[3] / 100]
    handler = ready(model([box], [[0.9]]), size=[100, 200], box_form=form, box_unit=unit)
    [row] = only(ask(handler, picture(200, 100)))
    assert row["box"] == pytest.approx([10, 20, 30, 60], abs=0.01)


def test_what_is_below_the_threshold_is_not_told() -> None:
    """The highest score comes first; a box counts for each class that reaches it."""
    found = model([[0, 0, 9, 9], [50, 50, 90, 90]], [[0.55, 0.2, 0.1], [0.3, 0.95, 0.5]])
    rows = only(ask(ready(found), picture(100, 100)))
    assert [(row["index"], round(row["score"], 2)) for row in rows] == [(1, 0.95), (0, 0.55), (2, 0.5)]
    assert only(ask(ready(found, threshold=0.96), picture(9, 9))) == []


def test_of_boxes_that_overlap_the_highest_score_is_told() -> None:
    """Within a class, or across classes where params say so; 1 keeps all."""
    found = model([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10]], [[0.9, 0], [0.8, 0], [0, 0.7]])
    kinds = {
        "default": ready(found),
        "across": ready(found, across_classes=True),
        "all": ready(found, overlap=1.0),
    }
    told = {
        name: [round(row["score"], 1) for row in only(ask(one, picture(9, 9)))] for name, one in kinds.items()
    }
    assert told == {"default": [0.9, 0.7], "across": [0.9], "all": [0.9, 0.8, 0.7]}


def test_an_answer_is_bounded() -> None:
    """Boxes told, and boxes looked at before."""
    boxes, scores = [[i, 0, i + 1, 1] for i in range(50)], [[0.5 + i / 100] for i in range(50)]
    assert len(only(ask(ready(model(boxes, scores), max_boxes=7), picture(9, 9)))) == 7
    assert len(only(ask(ready(model(boxes, scores), candidates=3), picture(9, 9)))) == 3


def test_labels_and_the_ones_that_are_wanted(tmp_path: Path) -> None:
    """By a file; `only` leaves the others out."""
    (tmp_path / "abc.txt").write_text("\n".join(ABC))
    found = model([[0, 0, 9, 9], [50, 50, 90, 90]], [[0.6, 0, 0], [0, 0.9, 0]])
    rows = only(ask(ready(found, tmp_path, labels="abc.txt"), picture(9, 9)))
    assert [row["label"] for row in rows] == ["b", "a"]
    rows = only(ask(ready(found, tmp_path, labels="abc.txt", only=["a"]), picture(9, 9)))
    assert [row["label"] for row in rows] == ["a"]
    with pytest.raises(ValueError, match="only: 'd' is none of the labels"):
        ready(found, tmp_path, labels="abc.txt", only=["d"])


def test_lists_of_labels_travel_with_the_handlers() -> None:
    """COCO's 80 classes, and the 91 numbers that torchvision's detectors have."""
    coco, coco91 = (read_labels(name, Path()) for name in ("coco", "coco91"))
    assert (len(coco), coco[0], coco[27], coco[79]) == (80, "person", "tie", "toothbrush")
    assert (len(coco91), coco91[1], coco91[90]) == (91, "person", "toothbrush")
    assert set(coco) < set(coco91)


def test_nothing_seen_is_an_empty_list() -> None:
    """Also where the model gives no box at all."""
    none = {
        "boxes": np.zeros((1, 0, 4)),
        "scores": np.zeros((1, 0)),
        "labels": np.zeros((1, 0), dtype=np.int64),
    }
    assert only(ask(ready(lambda _: none), picture(9, 9))) == []


# -- a batch ------------------------------------------------------------------------------------


def test_a_bad_picture_fails_alone() -> None:
    """The others get what they get alone, each in its own pixels."""
    good, bad, other, many = ask(
        ready(ONE),
        picture(100, 100),
        b"no picture",
        picture(200, 200),
        listed(picture(100, 100), picture(50, 50)),
    )
    assert [one.status for one in (good, bad, other, many)] == [200, 400, 200, 200]
    assert "not a JPEG, PNG or WebP picture" in bad.reason
    assert good.content[0]["box"] == [10, 20, 30, 40]
    assert other.content[0]["box"] == [20, 40, 60, 80]
    assert [rows[0]["box"] for rows in many.content["predictions"]] == [[10, 20, 30, 40], [5, 10, 15, 20]]


def test_a_picture_for_which_the_model_gives_no_number_fails_alone() -> None:
    """With 500: the caller can do nothing about it."""

    def call(inputs: Inputs) -> Outputs:
        boxes = np.tile(array([10, 20, 30, 40]), (len(inputs["pixels"]), 1, 1))
        boxes[inputs["pixels"].max(axis=(1, 2, 3)) > 0] = np.nan
        return {"boxes": boxes, "scores": np.full((*boxes.shape[:2], 1), 0.9)}

    good, bad = ask(ready(call), picture(9, 9), picture(9, 9, (255, 255, 255)))
    assert (good.status, bad.status) == (200, 500)
    assert "NaN or infinity" in bad.reason


@pytest.mark.parametrize(
    ("limits", "body", "told"),
    [
        ({"max_pixels": 99}, picture(10, 10), "at most 99 are allowed"),
        ({"max_bytes": 100}, picture(200, 200), "at most 100 are allowed"),
        ({"max_instances": 1}, listed(picture(9, 9), picture(9, 9)), "at most 1 are allowed"),
        ({"max_total_pixels": 15_000}, listed(picture(9, 9), picture(9, 9)), "at most 15,000 are allowed"),
    ],
    ids=["pixels", "bytes", "instances", "pixels of all"],
)
def test_what_a_request_may_cost_is_limited(limits: Mapping[str, int], body: Any, told: str) -> None:
    """With 413, and the limit; others are answered. Pictures are enlarged to 10,000 pixels."""
    refused, answered = ask(ready(ONE, limits={**limits}), body, picture(2, 2))
    assert (refused.status, answered.status) == (413, 200)
    assert told in refused.reason


def test_a_sliver_keeps_a_pixel() -> None:
    """One number as size keeps each picture's shape; the longer side is bounded, nothing becomes empty."""
    shapes: list[tuple[int, ...]] = []

    def call(inputs: Inputs) -> Outputs:
        shapes.append(inputs["pixels"].shape)
        return ONE(inputs)

    handler = ready(call, size=100)
    for width, height in ((10_000, 1), (1, 10_000), (300, 150), (40, 30)):
        assert ask(handler, picture(width, height))[0].status == 200
    assert shapes[1:] == [(1, 1, 100, 3), (1, 100, 1, 3), (1, 50, 100, 3), (1, 30, 40, 3)]


# -- what models give ---------------------------------------------------------------------------


def test_outputs_of_a_file_are_named_by_params() -> None:
    """In the model's order; one that is not needed is passed over."""
    boxes, scores = array([[10, 20, 30, 40]]), array([[0.9]])  # a batch of one
    found = {"dets": scores, "x": np.zeros(1), "y": boxes}
    handler = ready(lambda _: found, outputs=["scores", "other", "boxes"])
    assert only(ask(handler, picture(100, 100)))[0]["box"] == [10, 20, 30, 40]
    with pytest.raises(ValueError, match=r"outputs: \[boxes, scores\].*found dets \(1, 1, 1\), x \(1,\)"):
        ready(lambda _: found)


def test_boxes_and_scores_in_one_output() -> None:
    """(n, 4 + classes, boxes): centres in pixels, then a score for each class."""
    rows = np.array([[[20, 50], [30, 50], [20, 8], [20, 8], [0.1, 0.0], [0.9, 0.2]]], dtype=np.float32)
    handler = ready(lambda _: {"output0": rows}, outputs=["joined"], box_form="cxcywh")
    [row] = only(ask(handler, picture(100, 100)))
    assert (row["index"], row["box"]) == (1, [10, 20, 30, 40])


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"outputs": ["boxes"]}, "outputs: name `boxes` and `scores` once"),
        ({"outputs": ["boxes", "scores", "boxes"]}, "outputs: name `boxes` and `scores` once"),
        ({"outputs": ["joined", "scores"]}, "outputs: name `boxes` and `scores` once"),
        ({"keep_ratio": True, "size": 100}, "keep_ratio: leave it out"),
        ({"only": ["person"]}, "only: write `labels`"),
        ({"std": [0.0, 1.0, 1.0]}, "std: found"),
    ],
)
def test_params_that_contradict_each_other(params: dict[str, Any], told: str) -> None:
    """Each is told with what to write."""
    with pytest.raises(ValueError, match=told):
        ready(ONE, **params)


def test_other_outputs_are_found_before_the_first_request() -> None:
    """The warm-up tells what was expected and what is there."""
    with pytest.raises(ValueError, match=r"expected boxes \(n, boxes, 4\).*found boxes float32 \(1, 1, 5\)"):
        ready(lambda _: {"boxes": np.zeros((1, 1, 5), np.float32), "scores": np.zeros((1, 1, 2))})
    with pytest.raises(ValueError, match="integer labels"):
        ready(model([[0, 0, 1, 1]], [0.5], labels=array(0.5)))


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ([[0.1, 0.2]], "the module has 2 classes, `labels: coco` names 80"),
        ([[-3.0] * 80], "end its scores in a sigmoid or a softmax"),
        ([[np.nan] * 80], "gives NaN or infinity"),
    ],
)
def test_a_model_that_is_not_what_params_say_is_not_built(scores: Any, told: str) -> None:
    """examine() is asked with what the module gave."""
    handler = ready(ONE, labels="coco")
    outputs = model([[0, 0, 1, 1]], scores)({"pixels": np.zeros((1, 1, 1, 3))})
    with pytest.raises(ValueError, match=told):
        handler.examine(outputs, squashed=False)
    by_label = model([[0, 0, 1, 1]], [0.5], labels=np.array([90]))({"pixels": np.zeros((1, 1, 1, 3))})
    with pytest.raises(ValueError, match="write `labels: coco91`: the module gives class 90"):
        handler.examine(by_label, squashed=False)
    sound = model([[0, 0, 1, 1]], [[0.5] * 80])({"pixels": np.zeros((1, 1, 1, 3))})
    assert handler.examine(sound, squashed=False) == ()


class Detections(torch.nn.Module):
    """As torchvision's detectors: a dict for each picture, with as many boxes as it has bright rows."""

    def forward(self, images: list[torch.Tensor], _: Any = None) -> list[dict[str, torch.Tensor]]:
        found = []
        for image in images:
            count = int((image.amax(dim=(0, 2)) > 0.5).sum())
            box = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
            found.append(
                {
                    "boxes": box.repeat(count, 1),
                    "labels": torch.ones(count, dtype=torch.int64),
                    "scores": torch.linspace(0.9, 0.8, count),
                }
            )
        return found


def test_what_torchvision_lists_for_each_picture_becomes_one_batch() -> None:
    """One picture has three boxes, another none: each gets its own."""
    handler = Handler()
    handler.params = Params(size=10, overlap=1.0, threshold=0.0)
    runtime = TorchModel(Detections(), handler, 1, None)
    handler.open(handler.params, NOWHERE, {"model": runtime})
    handler.warm_up()
    image = Image.new("RGB", (10, 10))
    image.paste((255, 255, 255), (0, 0, 10, 3))
    three, none = ask(handler, encoded(image), picture(10, 10))
    assert [row["index"] for row in three.content] == [1, 1, 1]
    assert three.content[0]["box"] == [1, 2, 3, 4]
    assert none.content == []


def test_pixels_are_prepared_alike_by_numpy_and_torch() -> None:
    """For a file from elsewhere, and for what is exported; blue first where params say so."""
    handler = ready(ONE, channels="bgr", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    by_numpy = handler.prepare({"pixels": pixels})["input"]
    by_torch = handler.graph_prefix({"pixels": torch.from_numpy(pixels)})["input"].numpy()
    assert by_numpy.shape == (2, 3, 5, 4)
    np.testing.assert_allclose(by_numpy, by_torch, atol=1e-6)
    np.testing.assert_allclose(by_numpy[:, 0], (pixels[..., 2] / 255 - 0.3) / 0.6, atol=1e-5)


# -- boxes --------------------------------------------------------------------------------------

corners = st.lists(st.integers(0, 20), min_size=4, max_size=4).map(
    lambda c: [min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]) + 1, max(c[1], c[3]) + 1]
)
some_boxes = st.lists(st.tuples(corners, st.integers(0, 2)), min_size=1, max_size=12)


@given(some_boxes, st.sampled_from([0.0, 0.3, 0.5, 0.9]), st.randoms(use_true_random=False))
def test_suppression_is_torchvisions(rows: Any, most: float, random: Any) -> None:
    """The oracle is batched_nms; scores differ, so that the order is one."""
    boxes, classes = np.array([row[0] for row in rows], dtype=np.float64), np.array([row[1] for row in rows])
    scores = np.array(random.sample(range(100), len(rows))) / 100
    expected = batched_nms(*map(torch.from_numpy, (boxes, scores, classes)), most)
    assert kept(boxes, scores, classes, most, 99).tolist() == expected.tolist()
    assert kept(boxes, scores, classes, most, 2).tolist() == expected.tolist()[:2]
    np.testing.assert_allclose(
        overlaps(boxes, boxes), box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    )


@given(corners, st.sampled_from(["xywh", "cxcywh"]))
def test_forms_of_boxes_are_torchvisions(box: list[int], form: Any) -> None:
    """The oracle is box_convert."""
    there = box_convert(torch.tensor([box], dtype=torch.float64), "xyxy", form).numpy()
    assert to_corners(there, form).tolist() == [box]


@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from([Fit((40, 60)), Fit((40, 60), True), Fit(50)])
)
def test_the_whole_picture_comes_back_as_itself(width: int, height: int, fit: Fit) -> None:
    """Where it lies in the model's input, as a box, is all of it in the caller's pixels."""
    pixels, placed = fit(Image.new("RGB", (width, height), (255, 255, 255)))
    white = np.argwhere((pixels == 255).all(axis=2))
    (top, left), (bottom, right) = white.min(axis=0), white.max(axis=0) + 1
    back = placed.boxes_in_picture(np.array([[left, top, right, bottom]], dtype=np.float64))
    np.testing.assert_allclose(back, [[0, 0, width, height]], atol=1e-9)


# -- how answers are compared -------------------------------------------------------------------


def test_equal_labels_with_other_boxes_are_another_answer() -> None:
    """A box that moved, one that is missing, another label; rounding and a weak box make no difference."""
    comparator = Comparator.of(ready(ONE).compare())
    row = {"label": "tie", "index": 27, "score": 0.8, "box": [10, 10, 50, 50]}
    weak = {"label": "cat", "index": 15, "score": 0.52, "box": [60, 60, 90, 90]}
    assert comparator.same([row, weak], [{**row, "score": 0.78, "box": [10, 11, 50, 50]}])
    assert not comparator.same([row], [{**row, "box": [40, 10, 80, 50]}])
    assert not comparator.same([row], [])
    assert not comparator.same([row], [{**row, "label": "person"}])


def test_it_tells_what_may_be_sent() -> None:
    """To whoever asks for the description."""
    told = ready(ONE, labels="coco", only=["cat", "dog"]).about()
    assert told["labels"] == ["cat", "dog"]
    assert told["limits"]["max_instances"] == 16
