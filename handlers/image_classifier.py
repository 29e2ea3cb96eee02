"""Image classification: a picture in, the top-k labels with their probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array, BatchHandler, Decoded
from .inputs import ImageTransform, Limits, decode_image, instances
from .runtimes import open_runtime
from .scores import to_probabilities


class ImageClassifier(BatchHandler):
    """Answers `[{"label", "index", "probability"}, …]`, the likeliest first.

    The artifact takes pixels, uint8 of shape (n, height, width, 3), and gives scores of shape
    (n, outputs); `scores` in the config says what they are: see scores.py.
    """

    def setup(self, config: Mapping[str, Any], model_dir: Path, gpu_id: int | None) -> None:
        """Open the runtime, the labels and the transform that the archive carries."""
        self._transform = ImageTransform.from_config(config["image"])
        self._limits = Limits(**config.get("limits", {}))
        self._topk = int(config["topk"])
        self._scores = str(config.get("scores", "logits"))
        self._labels: list[str] | None = None
        if config.get("labels"):
            self._labels = json.loads((model_dir / config["labels"]).read_text(encoding="utf-8"))
        self._runtime = open_runtime(config, model_dir, gpu_id)

    def example(self) -> Array:
        """A black picture."""
        return np.zeros((1, *self._transform.output_size, 3), dtype=np.uint8)

    def decode(self, request: Mapping[str, Any]) -> Decoded:
        """uint8 of shape (instances, height, width, 3)."""
        raws, listed = instances(request, self._limits)
        return Decoded(
            np.stack([self._transform(decode_image(raw, self._limits)) for raw in raws]), listed=listed
        )

    def infer(self, batch: Array) -> Array:
        """Pixels, uint8 (n, height, width, 3) → probabilities, float64 (n, classes)."""
        probabilities = to_probabilities(self._runtime(batch), self._scores)
        classes = probabilities.shape[-1]
        if self._labels is not None and classes != len(self._labels):
            raise ValueError(f"the model has {classes} classes, its labels are {len(self._labels)}")
        return probabilities

    def encode(self, output: Array) -> list[dict[str, Any]]:
        """The k likeliest, ties in the order of their index."""
        best = np.argsort(-output, kind="stable")[: self._topk]
        return [
            {
                "label": self._labels[index] if self._labels is not None else str(index),
                "index": int(index),
                "probability": float(output[index]),
            }
            for index in best
        ]
