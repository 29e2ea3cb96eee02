"""Case 05: outputs that are no logits of several classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchmar.errors import ExportError
from torchmar.export import Weights, build_artifacts
from torchmar.spec import load_model

from .models import answers, model_folder

CODE = """
import torch
def build(pretrained=True):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, {outputs}), {last})
"""


def test_one_output_tells_two_classes_apart(binary: Path) -> None:
    """Each picture has a probability of its own, and the other label the rest of 1."""
    rows = [{row["label"]: row["probability"] for row in answer} for answer in answers(binary, 4)]
    assert all(row.keys() == {"dunkel", "fähre"} for row in rows)
    assert all(sum(row.values()) == pytest.approx(1) for row in rows)
    assert len({round(row["fähre"], 4) for row in rows}) == 4
    assert all(0 < row["fähre"] < 1 for row in rows)


@pytest.mark.parametrize(
    ("outputs", "last", "remedy"),
    [
        (1, "torch.nn.Identity()", "write `scores: sigmoid`"),
        (1, "torch.nn.Sigmoid()", "write `scores: probabilities`"),
        (3, "torch.nn.Softmax(1)", "write `scores: probabilities`"),
        (3, "torch.nn.Sigmoid()", "write `scores: probabilities`"),
    ],
)
def test_what_would_be_wrong_for_every_picture_is_refused(
    tmp_path: Path, outputs: int, last: str, remedy: str
) -> None:
    """With the way out first, before anything is exported."""
    model = model_folder(tmp_path / "model", CODE.format(outputs=outputs, last=last))
    said: list[str] = []
    with pytest.raises(ExportError, match=f"^small: {remedy}".replace("{", r"\{")) as caught:
        build_artifacts(load_model(model), Weights("random"), tmp_path, said.append)
    assert len(str(caught.value).splitlines()) == 1
    assert said == ["importing torch", "loading the module", "asking the module"]
