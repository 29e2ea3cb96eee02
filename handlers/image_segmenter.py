"""Segment images: a picture in, the class of each of its pixels out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from .base import Array, BatchHandler, Content, Decoded, Inputs, Outputs, Request
from .images.limits import Limits
from .images.normalize import Channels, Normalize
from .images.pictures import open_pictures
from .images.requests import instances
from .images.transform import HeightWidth, ImageTransform, Interpolation
from .labels import duplicates, read_labels
from .masks import counts_of, png_of, resized, runs_of
from .params import File, Share
from .worker.answers import not_finite

_MOST_CLASSES = 256  # an index is one byte


@dataclass(frozen=True)
class Params:
    """How a picture becomes a tensor, what the model's outputs are, and the mask's form."""

    size: HeightWidth
    """Resize to [height, width]."""
    mean: Channels = (0.0, 0.0, 0.0)
    """Mean of each channel, red, green, blue, on the scale 0 to 1; the default leaves pixels at 0 to 1."""
    std: Channels = (1.0, 1.0, 1.0)
    """Standard deviation of each channel, on the scale 0 to 1."""
    interpolation: Interpolation = "bilinear"
    """How resizing interpolates."""
    scores: Literal["logits", "probabilities", "sigmoid"] = "logits"
    """What the module's outputs are. With several classes, each pixel gets the class with the highest score.
    A single output is the probability of the second of two classes, or with sigmoid its logit."""
    threshold: Share = 0.5
    """With a single output: the least probability for a pixel of the second class."""
    labels: Literal["voc"] | File | None = None
    """`voc` (the 21 of PASCAL VOC, 0 is the background), or a file beside model.yaml: .txt with one label per
    line, or .json with a list, {"0": "cat", …} or {"cat": 0, …}. A single output belongs to the second of two
    classes, so it needs two labels."""
    answer: Literal["png", "rle", "shares"] = "png"
    """png: a picture whose pixels are class indexes. rle: COCO's run lengths, of the second of two classes,
    or else of each class. shares: each class's share of the picture."""
    limits: Limits = Limits()
    """The limits of one request."""

    def __post_init__(self) -> None:
        Normalize(self.mean, self.std).require_sound()


@dataclass(frozen=True)
class _About:
    width: int
    height: int
    listed: bool = False


class Handler(BatchHandler[Params]):
    """Answers with a mask of the caller's picture, upright: a PNG, or JSON.

    The model takes float32 (n, 3, height, width). It gives scores of shape (n, classes, height, width), as
    its only output or, as torchvision's models do, as the output `out`.
    """

    def setup(self) -> None:
        """Read the labels."""
        self._transform = ImageTransform(self.params.size, None, self.params.interpolation)
        self._labels = read_labels(self.params.labels, self.files) if self.params.labels else None

    def example(self) -> Inputs:
        """Return a black picture."""
        return {"pixels": np.zeros((*self.params.size, 3), dtype=np.uint8)}

    def decode(self, request: Request) -> Decoded:
        """Decode one or several pictures, each to uint8 of shape (height, width, 3)."""
        limits = self.params.limits
        raws, listed = instances(request, limits)
        found, about = [], []
        for picture in open_pictures(raws, limits, self._transform.resized_size, listed=listed):
            found.append({"pixels": self._transform(picture)})
            about.append(_About(picture.width, picture.height, listed))
        return Decoded(found, about, listed)

    def prepare(self, batch: Inputs) -> Inputs:
        """Apply ToTensor and Normalize by numpy."""
        return {"input": Normalize(self.params.mean, self.params.std).of_arrays(batch["pixels"])}

    def graph_prefix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Apply ToTensor and Normalize."""
        return {"input": Normalize(self.params.mean, self.params.std).of_tensors(batch["pixels"])}

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return the scores alone; torchvision's models also give an auxiliary head's."""
        from .runtimes import named_tensors

        return {"scores": _only(named_tensors(output))}

    def infer(self, batch: Inputs) -> Outputs:
        """Return scores for pixels, float32 (n, classes, height, width)."""
        scores = _only(self.model(batch))
        _require_shape(scores, len(batch["pixels"]))
        return {"scores": scores.astype(np.float32, copy=False)}

    def warm_up(self) -> None:
        """Infer the example, and check the number of classes against the labels."""
        self._require_labels(self.infer(self.collate([self.example()]))["scores"].shape[1])

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check the shape, the numbers and the number of classes against `params`."""
        scores = _only(outputs)
        _require_shape(scores, len(scores))
        if not np.isfinite(scores).all():
            raise ValueError("check the weights, and `mean` and `std`: the module gives NaN or infinity")
        classes, kind = scores.shape[1], self.params.scores
        if classes > _MOST_CLASSES:
            raise ValueError(f"a mask holds at most {_MOST_CLASSES} classes, the module has {classes}")
        within = bool(scores.min() >= -0.01 and scores.max() <= 1.01)
        if classes == 1 and kind == "logits":
            raise ValueError(
                "write `scores: sigmoid` under `params` in model.yaml if the module's one output is a logit, "
                "or `scores: probabilities` if it is a probability"
            )
        if classes == 1 and kind == "probabilities" and not within:
            raise ValueError(
                "write `scores: sigmoid` under `params` in model.yaml: outputs lie from "
                f"{scores.min():.4g} to {scores.max():.4g}, and probabilities from 0 to 1"
            )
        if classes == 1 and kind == "sigmoid" and within and squashed:
            raise ValueError(
                "write `scores: probabilities` under `params` in model.yaml: the module ends in a sigmoid, "
                "which would be taken once more"
            )
        self._require_labels(classes)
        return ()

    def _require_labels(self, outputs: int) -> None:
        self._classes = 2 if outputs == 1 else outputs
        if self._labels is None:
            return
        if len(self._labels) != self._classes:
            given = "one output, which is two classes" if outputs == 1 else f"{outputs} classes"
            raise ValueError(
                f"labels: the module has {given}, `labels: {self.params.labels}` names {len(self._labels)}"
            )
        twice = duplicates(self._labels)
        if twice:
            raise ValueError(f"labels: several classes have the same: {twice[0]}")

    def encode(self, output: Outputs, about: Any) -> Any:
        """Return the mask in the form of `answer`. Raises Refused if the model gives NaN or infinity."""
        scores = output["scores"]
        if not np.isfinite(scores).all():
            raise not_finite("picture")
        height, width = scores.shape[1:]
        asked: _About = about or _About(width, height)  # a random instance has no caller's picture
        classes = self._classes_of(scores, asked)
        number = max(2, len(scores))
        if self.params.answer == "png":
            png = png_of(classes)
            # JSON carries a picture as base64.
            return {"b64": base64.b64encode(png).decode()} if asked.listed else Content(png, "image/png")
        counts = counts_of(classes, number)
        if self.params.answer == "shares":
            shares = (counts / classes.size).tolist()
            return {self._label(index): share for index, share in enumerate(shares)}
        if len(scores) == 1:
            return runs_of(classes == 1)
        return {self._label(index): _runs(classes, index, int(counts[index])) for index in range(number)}

    def _classes_of(self, scores: Array, about: _About) -> Any:
        """Return the class of each pixel of the caller's picture: uint8 (height, width)."""
        size = about.width, about.height
        if len(scores) > 1:
            best = scores.argmax(axis=0).astype(np.uint8)
            return resized(best, *size, Image.Resampling.NEAREST)
        [probability] = scores
        if self.params.scores == "sigmoid":
            probability = (1 + np.tanh(probability / 2)) / 2  # the sigmoid, without overflow
        smooth = resized(probability.astype(np.float32), *size, Image.Resampling.BILINEAR)
        return (smooth >= self.params.threshold).astype(np.uint8)

    def _label(self, index: int) -> str:
        return self._labels[index] if self._labels else str(index)

    def compare(self) -> Mapping[str, Any]:
        """Compare masks by overlap, except of small classes; compare shares within a hundredth."""
        if self.params.answer == "shares":
            return {"kind": "close", "tolerance": 0.01}
        return {"kind": "mask", "min_iou": 0.95, "min_share": 0.01}

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and what the answer contains."""
        return {
            **self.params.limits.about(),
            "labels": self._labels,
            "answer": self.params.answer,
        }


def _only(found: Mapping[str, Any]) -> Any:
    """Return the only output, or the one named `out` or `scores`. Raises ValueError."""
    named = [name for name in found if name.rpartition(".")[2] in {"out", "scores", "logits"}] or list(found)
    if len(named) == 1:
        return found[named[0]]
    shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in found.items())
    raise ValueError(f"let the module give its scores alone, or as `out`: found {shapes}")


def _require_shape(scores: Array, count: int) -> None:
    if scores.ndim != 4 or len(scores) != count or scores.dtype.kind != "f":
        raise ValueError(
            f"expected scores with a fraction of shape (n, classes, height, width), found {scores.dtype} "
            f"{scores.shape}"
        )


def _runs(classes: Array, index: int, count: int) -> dict[str, Any]:
    """Return one class's run lengths; cheap for a class without pixels."""
    if not count:
        return {"size": list(classes.shape), "counts": [classes.size]}
    return runs_of(classes == index)
