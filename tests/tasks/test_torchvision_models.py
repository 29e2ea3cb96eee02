"""torchvision's detectors and segmenters, as they are, without weights: what they give is what is told."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers import image_segmenter, object_detector
from tests.asking import ask
from tests.needs import needs
from tests.pictures import encoded
from tests.tasks.built import behind, golden

pytestmark = [pytest.mark.tasks, needs("torchvision")]

HOPPER = golden("nanodet", "grace_hopper.jpg")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ssdlite320_mobilenet_v3_large", {}),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", {"box_score_thresh": 0.0}),
    ],
)
def test_a_detectors_own_boxes_are_told(name: str, options: dict[str, Any]) -> None:
    """In pictures of different sizes, one batch: the same as the model gives for each of them alone."""
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None, weights_backbone=None, **options).eval()
    params = {"size": 640, "labels": "coco91", "threshold": 0.0, "overlap": 1.0, "max_boxes": 5}
    handler = behind(object_detector.Handler, module, params)
    image = Image.open(io.BytesIO(HOPPER)).convert("RGB")
    wide = image.resize((400, 300))
    answers = ask(handler, encoded(image), encoded(wide), encoded(image))
    assert [answer.status for answer in answers] == [200] * 3
    for one, answer in zip((image, wide, image), answers, strict=True):
        tensor = torch.from_numpy(np.asarray(one).copy()).permute(2, 0, 1) / 255
        with torch.inference_mode():
            [expected] = module([tensor])
        rows = answer.content
        assert len(rows) == min(5, len(expected["boxes"])) > 0
        np.testing.assert_allclose([row["score"] for row in rows], expected["scores"][: len(rows)], atol=1e-5)
        assert sorted(row["index"] for row in rows) == sorted(expected["labels"][: len(rows)].tolist())
        boxes = expected["boxes"][: len(rows)].numpy()
        for row in rows:
            assert np.abs(boxes - np.array(row["box"])).max(axis=1).min() < 0.1


def test_a_segmenters_classes_are_told() -> None:
    """Of 21 classes each pixel has the highest one; the auxiliary head is passed over."""
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    params: dict[str, Any] = {
        "size": [256, 256],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "labels": "voc",
    }
    image = Image.open(io.BytesIO(HOPPER)).convert("RGB").resize((256, 256))
    [answer] = ask(behind(image_segmenter.Handler, module, params), encoded(image))
    steps = torchvision.transforms.functional
    tensor = steps.normalize(
        torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255, params["mean"], params["std"]
    )
    with torch.inference_mode():
        expected = module.eval()(tensor[None])["out"][0].argmax(0).numpy()
    assert isinstance(answer.body, bytes)
    mask = np.asarray(Image.open(io.BytesIO(answer.body)))
    assert (mask == expected).mean() > 0.999
    [shares] = ask(behind(image_segmenter.Handler, module, {**params, "answer": "shares"}), encoded(image))
    assert next(iter(shares.content)) == "background"
    assert sum(shares.content.values()) == pytest.approx(1)
