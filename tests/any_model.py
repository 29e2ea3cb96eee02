"""Model folders of a few lines, among them one of a task that torchmar knows nothing of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PARCELS_MODULE = """\
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table = torch.nn.Embedding(10, 4, padding_idx=0)

    def forward(self, ids, weight):
        vectors = self.table(ids)
        known = (ids > 0).sum(1, keepdim=True)
        return {
            "total": vectors.sum((1, 2)) * weight,
            "longest": ids.max(1).values,
            "mean": vectors.sum(1) / known,
        }


def build():
    return Net()
"""
"""Two inputs, of int64 [instances, words] and float32 [instances]; three outputs, one of int64."""

PARCELS_HANDLER = """\
from dataclasses import dataclass

import numpy as np
from handlers.base import BatchHandler, Decoded, Refused
from handlers.params import File, Positive
from handlers.requests import content_of, rows_of

FORMS = 'send {"parcels": ["a", "b"], "weight": 0.5}'


@dataclass(frozen=True)
class Params:
    vocabulary: File
    most: Positive = 16


class Parcels(BatchHandler[Params]):
    output_names = ("total", "longest", "mean")
    dynamic = {"ids": {1: "words"}}

    def setup(self):
        words = (self.files / self.params.vocabulary).read_text().split()
        self.ids = {word: number for number, word in enumerate(words, 1)}

    def example(self):
        return {"ids": np.array([1, 2, 3], dtype=np.int64), "weight": np.float32(0.5)}

    def decode(self, request):
        rows, listed = rows_of(content_of(request, "parcels", FORMS), self.params.most)
        try:
            instances = [
                {
                    "ids": np.array([self.ids[word] for word in row["parcels"]], dtype=np.int64),
                    "weight": np.float32(row["weight"]),
                }
                for row in rows
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(f"{error!r}; {FORMS}") from None
        return Decoded(instances, about=[len(one["ids"]) for one in instances], listed=listed)

    def collate(self, instances):
        ids = np.zeros((len(instances), max(len(one["ids"]) for one in instances)), dtype=np.int64)
        for row, one in zip(ids, instances, strict=True):
            row[: len(one["ids"])] = one["ids"]
        return {"ids": ids, "weight": np.stack([one["weight"] for one in instances])}

    def encode(self, output, about):
        return {
            "parcels": about,
            "total": float(output["total"]),
            "longest": int(output["longest"]),
            "mean": output["mean"].tolist(),
        }
"""

PARCELS_GOLDEN = {
    "one.json": {"parcels": ["a", "c"], "weight": 2},
    "two.json": {"instances": [{"parcels": ["a"], "weight": 2}, {"parcels": ["b", "b", "a"], "weight": 1}]},
}


def write_model(
    folder: Path, contents: Mapping[str, str], golden: Mapping[str, Any] | None = None, **spec: Any
) -> Path:
    """A model's folder: files by their path, golden requests that are texts or JSON, and its model.yaml."""
    golden = golden or {}
    texts = {
        f"golden/{name}": body if isinstance(body, str) else json.dumps(body) for name, body in golden.items()
    }
    content = {"version": "1.0", **({"golden": "golden"} if golden else {}), **spec}
    texts["model.yaml"] = yaml.safe_dump(content, sort_keys=False)
    for name, text in {**contents, **texts}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_parcels(folder: Path, **spec: Any) -> Path:
    """The model folder of the task above; without `source` nothing of its module."""
    files = {"mine.py": PARCELS_HANDLER, "vocabulary.txt": "a b c d"}
    if "source" in spec:
        files["load.py"] = PARCELS_MODULE
    found = {"name": "parcels", "handler": "mine.py", "params": {"vocabulary": "vocabulary.txt"}, **spec}
    return write_model(folder, files, PARCELS_GOLDEN, **found)


PLAIN = """\
def handle(data, context):
    if data is None:
        return None
    texts = [row["body"] if isinstance(row["body"], str) else bytes(row["body"]).decode() for row in data]
    return [f"hello {text}" for text in texts]
"""
