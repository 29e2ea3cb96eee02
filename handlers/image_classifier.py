"""Classify images: a picture in, the top-k labels with their probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from .base import Array, BatchHandler, Decoded, Inputs, Outputs, Request
from .classes import SAME_CLASS, one_hot, ranked, require_labels
from .images.limits import Limits
from .images.normalize import Channels, Normalize
from .images.pictures import open_pictures
from .images.requests import instances
from .images.transform import HeightWidth, ImageTransform, Interpolation
from .labels import duplicates, read_labels
from .params import File, Positive
from .scores import only_scores, only_tensor, require_scores, rows_of_scores, to_probabilities


@dataclass(frozen=True)
class Params:
    """How a picture becomes a tensor (Resize, CenterCrop, ToTensor, Normalize), and what the answer holds."""

    size: Positive | HeightWidth
    """Resize to [height, width]; or one number for the shorter side, which requires `crop`."""
    mean: Channels
    """Mean of each channel, red, green, blue, on the scale 0 to 1."""
    std: Channels
    """Standard deviation of each channel, on the scale 0 to 1."""
    crop: HeightWidth | None = None
    """Crop the centre to [height, width] after resizing."""
    interpolation: Interpolation = "bilinear"
    """How Resize interpolates."""
    resize_in: Literal["worker", "graph"] = "worker"
    """Where Resize and CenterCrop are computed. worker: by Pillow, as torchvision does. graph: in the model,
    with other rounding than Pillow's; only pictures of one size then share a batch."""
    labels: Literal["imagenet1k"] | File | None = None
    """`imagenet1k`, or a file beside model.yaml: .txt with one label per line, or .json with a list, {"0":
    "cat", …} or {"cat": 0, …}."""
    topk: Positive = 5
    """How many classes an answer lists, the likeliest first."""
    scores: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the module's outputs are. logits: their softmax gives the probabilities. probabilities: they stay
    unchanged. sigmoid: logits of independent classes. A single output belongs to the second of two classes,
    so `labels` needs two."""
    limits: Limits = Limits()
    """The limits of one request."""

    def __post_init__(self) -> None:
        self.transform.require_one_shape()
        Normalize(self.mean, self.std).require_sound()

    @property
    def transform(self) -> ImageTransform:
        """Return Resize and CenterCrop."""
        return ImageTransform(self.size, self.crop, self.interpolation)


class Handler(BatchHandler[Params]):
    """Answers `[{"label", "index", "probability"}, …]`, the likeliest first.

    The model takes pixels, uint8 of shape (n, height, width, 3), resized or as they are decoded, and gives
    scores of shape (n, classes); the param `scores` says what they are: see scores.py.
    """

    def setup(self) -> None:
        """Read the labels."""
        params = self.params
        self._labels = read_labels(params.labels, self.files) if params.labels else None
        self._classes: int | None = None

    @property
    def dynamic(self) -> Mapping[str, Mapping[int, str]]:  # type: ignore[override]
        """Return the axes of pictures that the graph is to resize."""
        return {"pixels": {1: "height", 2: "width"}} if self._in_graph else {}

    @property
    def _in_graph(self) -> bool:
        return self.params.resize_in == "graph"

    def example(self) -> Inputs:
        """Return a black picture."""
        return {"pixels": np.zeros((*self.params.transform.output_size, 3), dtype=np.uint8)}

    def seeded(self, generator: np.random.Generator) -> Inputs:
        """Return a picture at random; of one of two sizes, if the graph is to resize it."""
        if not self._in_graph:
            return super().seeded(generator)
        height, width = self.params.transform.output_size
        shape = (2 * height + 1, 2 * width) if generator.integers(2) else (height // 2 + 2, width + 1)
        return {"pixels": generator.integers(0, 256, (*shape, 3), dtype=np.uint8)}

    def decode(self, request: Request) -> Decoded:
        """Decode one or several pictures, each to uint8 of shape (height, width, 3)."""
        limits, transform = self.params.limits, self.params.transform
        raws, listed = instances(request, limits)
        pictures = open_pictures(raws, limits, transform.resized_size, listed=listed)
        as_array = np.asarray if self._in_graph else transform
        return Decoded([{"pixels": as_array(picture)} for picture in pictures], listed=listed)

    def prepare(self, batch: Inputs) -> Inputs:
        """Apply ToTensor and Normalize, for a graph that takes float32 of shape (n, 3, height, width).

        Such a graph does not resize.
        """
        pixels = batch["pixels"]
        if self._in_graph:
            pixels = np.stack([self.params.transform(Image.fromarray(one)) for one in pixels])
        return {"input": Normalize(self.params.mean, self.params.std).of_arrays(pixels)}

    def graph_prefix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Apply ToTensor and Normalize with torchvision's operations in its order, for identical results."""
        pixels = batch["pixels"]
        if self._in_graph:
            pixels = self.params.transform.of_tensors(pixels)
        return {"input": Normalize(self.params.mean, self.params.std).of_tensors(pixels)}

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return the scores alone, float32 (n, classes)."""
        return {"scores": rows_of_scores(only_tensor(output), count)}

    def infer(self, batch: Inputs) -> Outputs:
        """Return probabilities for pixels, float64 (n, classes)."""
        return {"probabilities": self._probabilities(only_scores(self.model(batch), len(batch["pixels"])))}

    def warm_up(self) -> None:
        """Infer the example, and check the result against `scores`."""
        found = self._scores_of(self.collate([self.example()]))
        self._classes = self._probabilities(found).shape[1]
        require_scores(self.params.scores, found, lambda: self._scores_of(self._noise()))

    def _scores_of(self, batch: Inputs) -> Array:
        return only_scores(self.model(batch), len(batch["pixels"]))

    def _noise(self) -> Inputs:
        """Return four dissimilar pictures, the same each time."""
        shape = self.example()["pixels"].shape
        noise = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
        return {"pixels": noise // np.array([1, 2, 4, 8], dtype=np.uint8)[:, None, None, None]}

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check the scores against `scores` and `labels`.

        Notes labels that several classes share, and what it means that the graph resizes.
        """
        [scores] = outputs.values()
        if not np.isfinite(scores).all():
            found = sorted({str(value) for value in scores[~np.isfinite(scores)].ravel()[:100]})
            bad = int((~np.isfinite(scores).all(axis=-1)).sum())
            raise ValueError(
                f"check the weights, and `mean` and `std`: for {bad} of {len(scores)} pictures the "
                f"module gives {', '.join(found)}"
            )
        require_scores(self.params.scores, scores, lambda: scores, squashed=squashed)
        require_labels(self._labels, scores.shape[1], self.params.labels)
        twice = duplicates(self._labels or []) if self.params.labels != "imagenet1k" else []
        listed = ", ".join(twice[:5]) + (f" and {len(twice) - 5} more" if len(twice) > 5 else "")
        notes = [f"labels: several classes have the same: {listed}"] if twice else []
        return [*notes, self._unlike_pillow()] if self._in_graph else notes

    def _unlike_pillow(self) -> str:
        """Note how far probabilities are from those of pictures that Pillow has resized, for four."""
        transform, worst = self.params.transform, 0.0
        height, width = transform.output_size
        for colours in np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), dtype=np.uint8):
            size = 2 * width + 1, 2 * height + 1
            picture = Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)
            by_graph, by_pillow = (
                self._probabilities(self._scores_of({"pixels": np.asarray(one)[None]}))
                for one in (picture, transform.resize(picture))
            )
            worst = max(worst, float(np.abs(by_graph - by_pillow).max()))
        what = f"on four seeded pictures probabilities differ by up to {worst:.2g} from those"
        return f"resize_in: graph: {what} where Pillow resizes, as torchvision does"

    def _probabilities(self, scores: Array) -> Array:
        probabilities = to_probabilities(scores, self.params.scores)
        if self._labels is not None and probabilities.shape[1] != len(self._labels):
            raise ValueError(
                f"the model has {probabilities.shape[1]} classes, its labels are {len(self._labels)}"
            )
        return probabilities

    def encode(self, output: Outputs, about: Any) -> list[dict[str, Any]]:
        """Return the k likeliest classes; ties keep their index order. Raises Refused for NaN or infinity."""
        return ranked(output["probabilities"], self._labels, self.params.topk, "picture")

    def target(self, label: Any, output: Outputs) -> Outputs:
        """Return 1 for the label's class and 0 for the others: (classes,)."""
        return {"probabilities": one_hot(label, self._labels, len(output["probabilities"]))}

    def compare(self) -> Mapping[str, Any]:
        """Compare by the likeliest class and its label."""
        return SAME_CLASS

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and what the answer contains."""
        return {**self.params.limits.about(), "classes": self._classes, "topk": self.params.topk}
