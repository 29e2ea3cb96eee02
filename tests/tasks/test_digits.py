"""Digits of scikit-learn, told by a small CNN that is trained where the archive is built; also in int8."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from torchmar.archive import build
from torchmar.spec import load_model

from .folders import MODELS, loading

pytest.importorskip("sklearn")
pytestmark = pytest.mark.tasks


def test_most_digits_that_were_not_learnt_are_told_right() -> None:
    """Every fifth is left out of the training."""
    assert loading("digits").evaluate()["accuracy"] > 0.97


def test_int8_is_a_third_as_large_and_answers_alike(tmp_path: Path) -> None:
    """By pictures that it has not been calibrated on; its labels are those of the folders."""
    folder = shutil.copytree(MODELS / "digits", tmp_path / "digits")
    price = build(load_model(folder / "int8.yaml"), tmp_path / "store", seconds=0.05).archive.price
    assert price is not None
    assert price["bytes"]["compressed"] < price["bytes"]["float"] / 3
    assert (price["agreement"] > 0.99, price["golden_differing"], price["layers_in_float"]) == (True, [], [])
    costs = price["cost_by_labels"]
    assert costs["compressed"]["value"] == pytest.approx(costs["float"]["value"], abs=0.01)
