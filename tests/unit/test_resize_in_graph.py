"""Pictures are resized in the exported graph: of any size, close to what Pillow makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers.image_classifier import Handler, Params
from handlers.images.transform import ImageTransform
from tests.conftest import TINY
from torchmar.archive import Built, build
from torchmar.spec import load_model
from torchmar.worker import Worker

from .test_image_classifier import CORRUPT, PICTURES, ask, probabilities, ranking

HALF = (0.5, 0.5, 0.5)
SIZES = ((301, 200), (97, 333), (20, 31))


def pictures() -> list[Any]:
    """Soft ones, of sizes above and below those that they are resized to."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (len(SIZES), 12, 12, 3), dtype=np.uint8)
    return [
        Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)
        for one, size in zip(colours, SIZES, strict=True)
    ]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize(("size", "crop"), [((33, 40), None), (48, (31, 32)), ((40, 45), (33, 34))])
def test_torch_resizes_as_pillow_does(size: Any, crop: Any, interpolation: Any) -> None:
    """Within a level of 255: the crop lies where torchvision has it, too, with an odd margin on each axis.

    `nearest` takes another neighbour where two are equally near.
    """
    transform = ImageTransform(size, crop, interpolation)
    for picture in pictures():
        expected = transform(picture).astype(float)
        found = transform.of_tensors(torch.from_numpy(np.array(picture)[None]))[0].numpy()
        assert found.shape == expected.shape
        apart = np.abs(found - expected)
        if interpolation == "nearest":
            assert (apart > 0).mean() < 0.1
        else:
            assert (apart.mean() < 0.4, apart.max() < 1.5) == (True, True), apart.max()


@pytest.fixture(scope="module")
def in_graph(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The tiny model, whose ONNX resizes by the shorter side, and crops."""
    spec = load_model(TINY).spec
    params = {**spec.params, "size": 36, "crop": [32, 32], "resize_in": "graph"}
    source = load_model(TINY, {"version": "3.0", "runtime": "onnx", "params": params})
    return build(source, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def in_worker(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The same, resized by Pillow."""
    params = {**load_model(TINY).spec.params, "size": 36, "crop": [32, 32]}
    source = load_model(TINY, {"version": "3.1", "runtime": "onnx", "params": params})
    return build(source, tmp_path_factory.mktemp("store"))


def test_pictures_of_any_size_are_answered(
    in_graph: Built, in_worker: Built, model_worker: Callable[..., Worker]
) -> None:
    """In one batch as alone, a corrupt one for itself, and as where Pillow resizes them."""
    worker, by_pillow = (model_worker(each.archive.path) for each in (in_graph, in_worker))
    *together, corrupt = ask(worker, *PICTURES, CORRUPT)
    assert corrupt.status == 400
    for raw, response in zip(PICTURES, together, strict=True):
        [alone], [expected] = ask(worker, raw), ask(by_pillow, raw)
        assert ranking(response) == ranking(alone) == ranking(expected)
        assert probabilities(response) == pytest.approx(probabilities(alone), abs=1e-5)
        assert probabilities(response) == pytest.approx(probabilities(expected), abs=0.01)


def test_the_build_says_what_it_costs(in_graph: Built, in_worker: Built) -> None:
    [note] = [one for one in in_graph.notes if one.startswith("resize_in: graph: ")]
    assert re.search(r"probabilities differ by up to \d[.\d]*e-0\d from those where Pillow resizes", note)
    assert not any("resize_in" in one for one in in_worker.notes)
    parity = in_graph.archive.parity
    assert parity is not None
    assert parity["agreement"] == 1


def test_a_graph_of_somebody_else_gets_pictures_of_its_size() -> None:
    """It does not resize, so Pillow does."""
    handler = Handler()
    handler.params = Params((33, 40), HALF, HALF, resize_in="graph")
    [picture, *_] = pictures()
    expected = handler.params.transform(picture)[None]
    found = handler.prepare({"pixels": np.asarray(picture)[None]})["input"]
    assert np.array_equal(found, ((expected.transpose(0, 3, 1, 2) / np.float32(255)) - 0.5) / 0.5)
