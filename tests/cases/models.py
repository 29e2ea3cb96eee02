"""Model folders that are written for one test, and what a worker answers of their archives."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from torchmar.worker import Request, Worker

SPEC = """\
name: small
version: "1.0"
handler: image_classifier
source: load:build
params:
  size: [8, 8]
  mean: [0.5, 0.5, 0.5]
  std: [0.5, 0.5, 0.5]
"""
CLASSIFIER = """
import torch
def build(pretrained=True):
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
"""


def model_folder(folder: Path, code: str = CLASSIFIER, more: str = "", **files: str | bytes) -> Path:
    """A folder with model.yaml, load.py and files, whose names have `__` for `/` and `_dot_` for a dot."""
    named = {name.replace("_dot_", ".").replace("__", "/"): content for name, content in files.items()}
    for name, content in {"model.yaml": SPEC + more, "load.py": code, **named}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def picture(seed: int) -> bytes:
    """A PNG of noise around a brightness of its own."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 60, (8, 8, 3)) + 60 * (seed % 4)
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


def answers(archive: Path, requests: int) -> list[list[dict[str, Any]]]:
    """What an archive's handler answers to so many pictures in one batch."""
    with Worker.load(archive, batch_size=max(1, requests)) as worker:
        responses = worker.predict([Request.body(picture(seed)) for seed in range(requests)])
    assert [response.status for response in responses] == [200] * requests
    return [response.json() for response in responses]
