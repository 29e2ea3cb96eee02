"""Image classification: a picture in, the top-k labels with their probabilities out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from .base import Array, BatchHandler, Decoded, Refused
from .inputs import ImageTransform, Limits, instances
from .pictures import open_pictures
from .runtimes import open_runtime
from .scores import require_scores, to_probabilities


class ImageClassifier(BatchHandler):
    """Answers `[{"label", "index", "probability"}, …]`, the likeliest first.

    The artifact takes pixels, uint8 of shape (n, height, width, 3), and gives scores of shape (n, classes);
    `scores` in the config says what they are: see scores.py.
    """

    def setup(self, config: Mapping[str, Any], model_dir: Path, gpu_id: int | None) -> None:
        """Open the runtime, the labels and the transform that the archive carries."""
        self._transform = ImageTransform.from_config(config["image"])
        self._limits = Limits(**config.get("limits", {}))
        self._topk = int(config["topk"])
        self._scores = str(config.get("scores", "logits"))
        self._labels = _read_labels(model_dir / config["labels"]) if config.get("labels") else None
        self._runtime = open_runtime(config, model_dir, gpu_id)

    def example(self) -> Array:
        """A black picture."""
        return np.zeros((1, *self._transform.output_size, 3), dtype=np.uint8)

    def warm_up(self) -> None:
        """Infer the example, and hold what comes out against `scores`."""
        found = self._runtime(self.example())
        self._classes = self._probabilities(found).shape[1]
        require_scores(self._scores, found, lambda: self._runtime(self._noise()))

    def _noise(self) -> Array:
        """Four pictures that have little in common, the same each time."""
        noise = np.random.default_rng(0).integers(0, 256, (4, *self.example().shape[1:]), dtype=np.uint8)
        brightness = np.array([1, 2, 4, 8], dtype=np.uint8)[:, None, None, None]
        return noise // brightness

    def about(self) -> dict[str, Any]:
        """What may be sent, and what the answer is made of."""
        return {
            "accepts": ["image/jpeg", "image/png", "image/webp"],
            "limits": {
                "max_bytes": self._limits.max_bytes,
                "max_pixels": self._limits.max_pixels,
                "max_total_pixels": self._limits.total_pixels,
                "max_instances": self._limits.max_instances,
            },
            "classes": self._classes,
            "topk": self._topk,
        }

    def decode(self, request: Mapping[str, Any]) -> Decoded:
        """uint8 of shape (instances, height, width, 3)."""
        raws, listed = instances(request, self._limits)
        pictures = open_pictures(raws, self._limits, self._transform.resized_size, listed=listed)
        return Decoded(np.stack([self._transform(picture) for picture in pictures]), listed=listed)

    def infer(self, batch: Array) -> Array:
        """Pixels, uint8 (n, height, width, 3) → probabilities, float64 (n, classes)."""
        return self._probabilities(self._runtime(batch))

    def _probabilities(self, scores: Array) -> Array:
        probabilities = to_probabilities(scores, self._scores)
        if self._labels is not None and probabilities.shape[1] != len(self._labels):
            raise ValueError(
                f"the model has {probabilities.shape[1]} classes, its labels are {len(self._labels)}"
            )
        return probabilities

    def encode(self, output: Array) -> list[dict[str, Any]]:
        """The k likeliest, ties in the order of their index. Raises Refused where they are no numbers."""
        if not np.isfinite(output).all():
            raise Refused(
                "the output could not be encoded: for this picture the model gives NaN or infinity",
                HTTPStatus.INTERNAL_SERVER_ERROR,
            )
        best = np.argsort(-output, kind="stable")[: self._topk]
        return [
            {
                "label": self._labels[index] if self._labels is not None else str(index),
                "index": int(index),
                "probability": float(output[index]),
            }
            for index in best
        ]


def _read_labels(file: Path) -> list[str]:
    labels = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{file.name}: expected a list with the label of each class")
    return labels
