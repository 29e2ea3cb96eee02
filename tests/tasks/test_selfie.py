"""Selfie segmentation with the weights of its npm package: an astronaut's silhouette."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.asking import ask
from tests.pictures import encoded
from tests.tasks.built import golden, module_behind_handler
from torchmar.answers import parsed
from torchmar.compare import Comparator

pytestmark = [pytest.mark.tasks, pytest.mark.network]

ASTRONAUT = golden("selfie", "astronaut.jpg")


@pytest.fixture(scope="module")
def segmenter() -> Any:
    return module_behind_handler("selfie")


def mask_of(answer: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(answer.body)))


def test_the_astronaut_is_told_from_the_background(segmenter: Any) -> None:
    """Her face and chest are of the person; the flag's corner and the shuttle are not."""
    mask = mask_of(ask(segmenter, ASTRONAUT)[0])
    assert mask.shape == (512, 512)
    for x, y in ((225, 120), (225, 350), (400, 430)):
        assert mask[y, x] == 1, (x, y)
    for x, y in ((20, 20), (60, 150), (420, 200), (480, 60)):
        assert mask[y, x] == 0, (x, y)
    assert 0.5 < mask.mean() < 0.6


def test_the_mask_turns_with_the_picture(segmenter: Any) -> None:
    """Mirrored and in another size: nearly the mirrored mask."""
    image = Image.open(io.BytesIO(ASTRONAUT)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((640, 480))
    plain, mirrored = (mask_of(answer) for answer in ask(segmenter, ASTRONAUT, encoded(image)))
    expected = np.asarray(Image.fromarray(plain[:, ::-1]).resize((640, 480), Image.Resampling.NEAREST))
    assert mirrored.shape == (480, 640)
    both, either = ((expected & mirrored) == 1).sum(), ((expected | mirrored) == 1).sum()
    assert both / either > 0.95


@pytest.mark.parametrize("answer", ["png", "rle", "shares"])
def test_a_right_and_a_wrong_answer(answer: str) -> None:
    """The same picture in worse quality is answered the same; without its upper half it is another."""
    handler = module_behind_handler("selfie", answer=answer)
    image = Image.open(io.BytesIO(ASTRONAUT))
    worse = io.BytesIO()
    image.save(worse, "JPEG", quality=60)
    image.paste((0, 0, 0), (0, 0, 512, 256))
    right, same, wrong = (
        parsed(one.body.encode() if isinstance(one.body, str) else one.body)
        for one in ask(handler, ASTRONAUT, worse.getvalue(), encoded(image))
    )
    comparator = Comparator.of(handler.compare())
    assert comparator.same(right, same)
    assert not comparator.same(right, wrong)
