"""A model of two numbers, and data on which it is right, or is not any more."""

from __future__ import annotations

import random
from pathlib import Path

CODE = """\
import torch


def net(pretrained=True):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        if pretrained:
            with torch.enable_grad():
                train(module)
    return module.eval()


def train(module):
    rows = torch.randn(400, 2)
    wanted = (rows.sum(1) > 0).long()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(rows), wanted).backward()
        optimizer.step()
"""


def write_sums(folder: Path) -> Path:
    """A model folder: whether the sum of two numbers is high, which is above 0."""
    folder.mkdir(parents=True)
    (folder / "load.py").write_text(CODE)
    (folder / "model.yaml").write_text(
        "name: sums\nversion: '1.0'\nhandler: tabular\nsource: load:net\n"
        "params: {columns: [a, b], labels: [low, high]}\nreference: train.csv\ngolden: golden\n"
    )
    write_rows(folder / "train.csv", 300, seed=1)
    write_rows(folder / "test.csv", 200, seed=2)
    (folder / "golden").mkdir()
    (folder / "golden" / "one.json").write_text('{"a": 1.0, "b": 1.0}')
    return folder


def write_rows(path: Path, count: int, *, seed: int, middle: float = 0.0, labels: str = "right") -> Path:
    """Rows around a middle of `a`; a sum above it is high. `labels`: right, swapped, random, or none."""
    generator = random.Random(seed)
    lines = ["a,b" if labels == "none" else "a,b,label"]
    for _ in range(count):
        a, b = generator.gauss(middle, 1), generator.gauss(0, 1)
        is_high = {"swapped": a + b <= middle, "random": generator.random() < 0.5}.get(labels, a + b > middle)
        lines.append(f"{a},{b}" + ("" if labels == "none" else f",{'high' if is_high else 'low'}"))
    path.write_text("\n".join(lines) + "\n")
    return path
