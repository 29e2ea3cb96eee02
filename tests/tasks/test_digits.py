"""Digits of scikit-learn, told by a small CNN that is trained where the archive is built: int8, and drift."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.conftest import MakeOnce
from tests.needs import needs
from torchmar.archive import build
from torchmar.dataset import Example, read_dataset
from torchmar.drift import Ask, Figures, Reference, answering, drifts, reference_of
from torchmar.mar import Archive, verify
from torchmar.spec import load_model

from .folders import MODELS, loading

pytestmark = [pytest.mark.tasks, needs("sklearn", "scikit-learn")]


@pytest.fixture(scope="module")
def folder(make_once: MakeOnce) -> Path:
    """The model's folder with its pictures, and a store with the archive in int8."""

    def fill(made: Path) -> None:
        shutil.copytree(MODELS / "digits", made, dirs_exist_ok=True)
        build(load_model(made / "int8.yaml"), made / "store", seconds=0.05)

    return make_once("digits-int8", fill)


@pytest.fixture(scope="module")
def int8(folder: Path) -> Archive:
    return verify(folder / "store" / "digits-1.1.mar")


def test_most_digits_that_were_not_learnt_are_told_right() -> None:
    """Every fifth is left out of the training."""
    assert loading("digits").evaluate()["accuracy"] > 0.97


def test_int8_is_a_third_as_large_and_answers_alike(int8: Archive) -> None:
    """By pictures that it has not been calibrated on; its labels are those of the folders."""
    price = int8.price
    assert price is not None
    assert price["bytes"]["compressed"] < price["bytes"]["float"] / 3
    assert (price["agreement"] > 0.99, price["golden_differing"], price["layers_in_float"]) == (True, [], [])
    costs = price["cost_by_labels"]
    assert costs["compressed"]["value"] == pytest.approx(costs["float"]["value"], abs=0.01)


# -- drift from what the archive was trained with -----------------------------------------------


@pytest.fixture(scope="module")
def reference(int8: Archive) -> Reference:
    found = reference_of(int8)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def held_out(folder: Path) -> list[Example]:
    """The pictures that the network was not trained with."""
    return read_dataset(folder / "data" / "test")


@pytest.fixture(scope="module")
def ask(int8: Archive) -> Iterator[Ask]:
    with answering(int8.path, int8.comparator) as found:
        yield found


def together(parts: Sequence[Figures]) -> Figures:
    found = Figures(count=sum(one.count for one in parts))
    for kind in ("numbers", "classes", "vectors"):
        for one in parts:
            for name, values in getattr(one, kind).items():
                getattr(found, kind).setdefault(name, []).extend(values)
    return found


def test_what_the_reference_is_of(reference: Reference) -> None:
    assert (reference.answered, reference.refused) == (1437, 0)
    assert {"pixels mean", "confidence", "class", "vector probabilities"} <= {*reference.figures}


def test_no_alarm_in_twenty_draws_of_unchanged_pictures(
    reference: Reference, held_out: list[Example], ask: Ask
) -> None:
    """Few requests and many, none of which the network was trained with."""
    each = [ask([example]) for example in held_out]
    for seed in range(20):
        drawn = random.Random(seed).sample(each, (20, 50, 100, 180)[seed % 4])
        assert [one for one in drifts(reference, together(drawn)) if one.verdict != "same"] == [], seed


Way = Callable[[Image.Image], Image.Image]


def by_pixel(change: Callable[[np.ndarray], np.ndarray]) -> Way:
    def changed(picture: Image.Image) -> Image.Image:
        found = change(np.asarray(picture, dtype=np.float64))
        return Image.fromarray(found.clip(0, 255).round().astype(np.uint8))

    return changed


def noisy(pixels: np.ndarray) -> np.ndarray:
    return pixels + np.random.default_rng(int(pixels.sum())).normal(0, 32, pixels.shape)


WAYS: dict[str, Way] = {
    "inverted": by_pixel(lambda pixels: 255 - pixels),
    "rotated": lambda picture: picture.rotate(25),
    "rotated the other way": lambda picture: picture.rotate(-25),
    "noisy": by_pixel(noisy),
    "darkened": by_pixel(lambda pixels: 0.8 * pixels),
    "a thicker pen": lambda picture: Image.blend(picture, picture.filter(ImageFilter.MaxFilter(3)), 0.5),
    "a thinner pen": lambda picture: Image.blend(picture, picture.filter(ImageFilter.MinFilter(3)), 0.5),
}


@pytest.mark.parametrize("way", WAYS)
def test_other_pictures_are_noticed(
    reference: Reference, held_out: list[Example], ask: Ask, way: str
) -> None:
    """In a hundred of them, and not by the size of their files alone."""
    found = ask([png(example, WAYS[way]) for example in random.Random(0).sample(held_out, 100)])
    drifted = {one.figure for one in drifts(reference, found) if one.verdict == "drifted"}
    assert drifted - {"bytes of the request"}


def png(example: Example, way: Way) -> Example:
    sink = io.BytesIO()
    way(Image.open(io.BytesIO(example.read()))).save(sink, "PNG")
    return Example(example.name, sink.getvalue())
