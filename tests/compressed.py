"""A tiny classifier of pictures with data to compress it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.any_model import write_model

CNN = """\
import torch

def build(pretrained=True):
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3),
    )
"""
LABELS = ("cat", "dog", "emu")
LENIENT = {"agreement": 0.0, "max_abs_error": 0.9}
_PICTURES = {"size": [12, 12], "mean": [0.5] * 3, "std": [0.5] * 3, "labels": "labels.txt", "topk": 1}


def write_cnn(folder: Path, count: int = 30, code: str = CNN, golden: int = 1, **spec: Any) -> Path:
    """Its folder, with noise as its data, a third under each label, and as golden requests."""
    generator = np.random.default_rng(0)
    for number in range(count):
        _draw(generator, folder / "data" / LABELS[number % 3] / f"{number}.png")
    for number in range(golden):
        _draw(generator, folder / "golden" / f"{number}.png")
    files = {"load.py": code, "labels.txt": "\n".join(LABELS)}
    said = {"name": "cnn", "handler": "image_classifier", "source": "load:build", "params": _PICTURES}
    compress = {"compress": {"quantize": "int8", "data": "data"}, "accept": LENIENT}
    write_model(folder, files, **{**said, **compress, **spec})
    with (folder / "model.yaml").open("a") as file:
        file.write("golden: golden\n")
    return folder


def _draw(generator: np.random.Generator, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
