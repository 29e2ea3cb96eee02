"""Pruning removes channels for good, trains what is left, and the archive says what that costs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.any_model import write_model
from tests.compressed import LENIENT
from tests.needs import needs
from torchmar import finetune
from torchmar.archive import build
from torchmar.cli._price import price_lines
from torchmar.compress import _prune
from torchmar.errors import ExportError, ParityError, SpecError
from torchmar.spec import load_model

pytestmark = needs("torch_pruning", "torch-pruning")

NET = """\
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.third = (
            torch.nn.Linear(2, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 2)
        )

    def forward(self, features):
        return self.third(torch.relu(self.second(torch.relu(self.first(features)))))

def build(pretrained=True):
    net = Net()
    generator = torch.Generator().manual_seed(2)
    points = torch.randn(256, 2, generator=generator)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(points), (points.sum(1) > 0).long()).backward()
        optimizer.step()
    return net.eval()

def shake(batch):
    return {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in batch.items()}
"""


def rows(count: int, seed: int) -> str:
    """Points, labelled by whether their sum is above 0."""
    generator = random.Random(seed)
    found = []
    for _ in range(count):
        a, b = (round(generator.gauss(0, 1), 3) for _ in range(2))
        found.append({"a": a, "b": b, "label": "high" if a + b > 0 else "low"})
    return "\n".join(map(json.dumps, found))


def folder(path: Path, **compress: Any) -> Path:
    files = {"load.py": NET, "train.jsonl": rows(120, 0), "data.jsonl": rows(60, 1)}
    said = {
        "name": "points",
        "handler": "tabular",
        "source": "load:build",
        "params": {"columns": ["a", "b"], "labels": ["low", "high"]},
        "compress": {"data": "data.jsonl", "prune": 0.5, "train": "train.jsonl", "epochs": 2, **compress},
        "accept": LENIENT,
    }
    return write_model(path, files, {"a.json": {"a": 1.0, "b": 0.5}}, **said)


def price_of(model: Path, store: Path) -> Any:
    return build(load_model(model), store, seconds=0.01).archive.price


def test_half_of_the_multiply_adds_are_gone(tmp_path: Path) -> None:
    """As are many of the bytes; the answers are kept, the words say it, and it is the same each time."""
    model = folder(tmp_path / "points")
    one, other = (build(load_model(model), tmp_path / name, seconds=0.01) for name in ("one", "other"))
    assert one.archive.sha256 == other.archive.sha256
    price = one.archive.price
    assert price is not None
    before, after = price["multiply_adds"]
    assert 0.35 * before < after <= 0.5 * before
    assert price["parameters"][1] < 0.6 * price["parameters"][0]
    assert price["bytes"]["compressed"] < 0.8 * price["bytes"]["float"]
    assert price["agreement"] >= 0.95
    assert price["quantize"] is None
    assert f"{1 - after / before:.0%} of the multiply-adds pruned: " in price_lines(price)[0]


def test_pruned_and_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is trained on is augmented."""
    asked = []

    def training_data(*arguments: Any) -> Any:
        asked.append(arguments[-1]({"features": torch.zeros(100, 2)})["features"].std().item())
        return finetune.training_data(*arguments)

    monkeypatch.setattr(_prune, "training_data", training_data)
    model = folder(tmp_path / "points", quantize="int8", augment="load:shake")
    price = price_of(model, tmp_path / "store")
    assert asked == [pytest.approx(0.1, rel=0.2)]
    assert price["multiply_adds"][1] <= 0.5 * price["multiply_adds"][0]
    assert (price["quantize"], price["layers"]) == ("int8", 3)
    assert price["agreement"] >= 0.9


def test_more_than_can_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in two removals of a few channels each."""
    monkeypatch.setattr(_prune, "_SMALL", 2)
    monkeypatch.setattr(_prune, "_LARGEST", 0.1)
    with pytest.raises(ExportError, match=r"write `prune: 0\.\d+`: no more than that share can be removed"):
        price_of(folder(tmp_path / "points"), tmp_path / "store")


def test_what_costs_too_much_is_refused(tmp_path: Path) -> None:
    """With the limits that would take it."""
    model = folder(tmp_path / "points", prune=0.94, epochs=1)
    file = model / "model.yaml"
    content = yaml.safe_load(file.read_text())
    content["accept"] = {"agreement": 0.0, "max_abs_error": 0.01}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(
        ParityError, match=r"accept: write `accept: \{max_abs_error: .*pruning does not hold it"
    ):
        price_of(model, tmp_path / "store")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": None}, r"compress\.prune: pruning needs training"),
        ({"prune": None}, r"compress\.train: nothing is pruned"),
        (
            {"prune": None, "train": None, "epochs": None},
            r"compress: nothing is done.*write `quantize`, or `prune`",
        ),
        ({"train": "nowhere"}, r"compress\.train: no folder or table 'nowhere' beside model\.yaml"),
        ({"prune": 1.0}, r"compress\.prune"),
        ({"augment": "flip,rotat=15"}, r"compress\.augment: did you mean rotate\?"),
        ({"augment": "other:shake"}, r"compress\.augment: no file other\.py beside model\.yaml"),
    ],
)
def test_mistakes(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    model = folder(tmp_path / "points")
    file = model / "model.yaml"
    content = yaml.safe_load(file.read_text())
    content["compress"] = {k: v for k, v in {**content["compress"], **changed}.items() if v is not None}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(SpecError, match=message):
        load_model(model)
