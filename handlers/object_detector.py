"""Detect objects: a picture in; the label, the score and the box of each visible object out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .base import Array, BatchHandler, Decoded, Inputs, Outputs, Request
from .boxes import Form, kept, to_corners
from .images.fit import Fit, Placed
from .images.limits import Limits
from .images.normalize import Channels, Normalize
from .images.pictures import open_pictures
from .images.requests import instances
from .images.transform import HeightWidth, Interpolation
from .labels import read_labels
from .params import File, Positive, Share
from .worker.answers import not_finite

_OURS = ("coco", "coco91")


@dataclass(frozen=True)
class Params:
    """How a picture becomes a tensor, what the model's outputs are, and which boxes an answer lists."""

    size: HeightWidth | Positive
    """Resize to [height, width]; or one number that limits the longer side: each picture then keeps its own
    shape, and pictures of one shape share a batch."""
    keep_ratio: bool = False
    """With [height, width]: centre the picture on grey, as YOLO does, instead of stretching it."""
    interpolation: Interpolation = "bilinear"
    """How resizing interpolates."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """The model's order of red, green and blue."""
    mean: Channels = (0.0, 0.0, 0.0)
    """Mean of each channel, red, green, blue, on the scale 0 to 1; the default leaves pixels at 0 to 1."""
    std: Channels = (1.0, 1.0, 1.0)
    """Standard deviation of each channel, on the scale 0 to 1."""
    outputs: tuple[Literal["boxes", "scores", "labels", "joined", "other"], ...] = ()
    """The model's outputs in its order, unless they have these names. boxes: (n, boxes, 4). scores: (n,
    boxes, classes), or (n, boxes) with labels. labels: (n, boxes), integers. joined: (n, 4 + classes, boxes),
    as YOLOv8 gives it. other: ignored."""
    box_form: Form = "xyxy"
    """What a box's four numbers are: two corners, a corner and sides, or the centre and sides."""
    box_unit: Literal["pixels", "share"] = "pixels"
    """Pixels of the model's input, or shares of its width and height."""
    labels: Literal["coco", "coco91"] | File | None = None
    """`coco` (80 names), `coco91` (torchvision's numbering, 0 is the background), or a file beside
    model.yaml: .txt with one label per line, or .json with a list, {"0": "cat", …} or {"cat": 0, …}."""
    only: tuple[str, ...] = ()
    """The labels that an answer lists; all if empty."""
    threshold: Share = 0.5
    """The least score that an answer lists."""
    overlap: Share = 0.5
    """Non-maximum suppression: of two boxes of one class with a larger intersection over union, the one with
    the lower score is dropped. 1 keeps all, for models that have done it already."""
    across_classes: bool = False
    """Whether boxes of different classes suppress each other too."""
    candidates: Positive = 1000
    """How many boxes non-maximum suppression considers, those with the highest scores."""
    max_boxes: Positive = 100
    """The most boxes in an answer."""
    limits: Limits = Limits()
    """The limits of one request."""

    def __post_init__(self) -> None:
        Normalize(self.mean, self.std).require_sound()
        if self.keep_ratio and isinstance(self.size, int):
            raise ValueError("keep_ratio: leave it out: with one number as `size` the ratio is always kept")
        known = {name for name in self.outputs if name != "other"}
        complete = [{"boxes", "scores"}, {"boxes", "scores", "labels"}, {"joined"}]
        twice = len(known) < sum(name != "other" for name in self.outputs)
        if self.outputs and (twice or known not in complete):
            raise ValueError("outputs: name `boxes` and `scores` once, and maybe `labels`; or only `joined`")
        if self.only and self.labels is None:
            raise ValueError("only: write `labels`, too: without them no class has a name")


class Handler(BatchHandler[Params]):
    """Answers `[{"label", "index", "score", "box": [x1, y1, x2, y2]}, …]`, the highest score first.

    Boxes are in pixels of the caller's picture, upright. The model takes float32 (n, 3, height, width), and
    gives boxes and scores under these names, in the order of `outputs`, or as torchvision's detectors do.
    """

    def setup(self) -> None:
        """Read the labels."""
        params = self.params
        self._fit = Fit(params.size, params.keep_ratio, params.interpolation)
        self._labels = read_labels(params.labels, self.files) if params.labels else None
        unknown = sorted(set(params.only) - set(self._labels or ()))
        if unknown:
            raise ValueError(f"only: {unknown[0]!r} is none of the labels in `labels: {params.labels}`")

    @property
    def dynamic(self) -> Mapping[str, Mapping[int, str]]:  # type: ignore[override]
        """Return height and width as dynamic axes, if each picture keeps its own shape."""
        return {"pixels": {1: "height", 2: "width"}} if isinstance(self.params.size, int) else {}

    @property
    def least_score(self) -> float:
        """Return the score below which boxes are ignored."""
        return self.params.threshold

    def example(self) -> Inputs:
        """Return a black picture."""
        size = self.params.size
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixels": np.zeros((height, width, 3), dtype=np.uint8)}

    def decode(self, request: Request) -> Decoded:
        """Decode one or several pictures, each to uint8 of shape (height, width, 3)."""
        limits = self.params.limits
        raws, listed = instances(request, limits)
        pictures = open_pictures(raws, limits, self._fit.resized_size, listed=listed)
        fitted = [self._fit(picture) for picture in pictures]
        return Decoded([{"pixels": pixels} for pixels, _ in fitted], [placed for _, placed in fitted], listed)

    def prepare(self, batch: Inputs) -> Inputs:
        """Do the same as `graph_prefix`, by numpy."""
        pixels = Normalize(self.params.mean, self.params.std).of_arrays(batch["pixels"])
        return {"input": pixels[:, ::-1] if self.params.channels == "bgr" else pixels}

    def graph_prefix(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return float32 (n, 3, height, width), normalised, with the model's order of channels."""
        pixels = Normalize(self.params.mean, self.params.std).of_tensors(batch["pixels"])
        return {"input": pixels.flip(1) if self.params.channels == "bgr" else pixels}

    def graph_suffix(self, output: Any, count: int) -> Any:
        """Return boxes, scores and perhaps labels by name; joins torchvision's list into arrays."""
        from .runtimes import named_tensors

        if isinstance(output, tuple) and len(output) == 2 and _are_rows(output[1]):
            output = output[1]  # torchvision's detectors give (losses, detections) in TorchScript
        if _are_rows(output):
            return _padded(output)
        return self._named(named_tensors(output))

    def infer(self, batch: Inputs) -> Outputs:
        """Return boxes (n, boxes, 4), scores, perhaps labels, and the size that boxes refer to."""
        found = self._named(self.model(batch))
        _require_shapes(found)
        count, height, width = batch["pixels"].shape[:3]
        return {**found, "shape": np.tile(np.array([height, width], dtype=np.int64), (count, 1))}

    def _named(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Return the relevant outputs by name, numpy's arrays or torch's tensors. Raises ValueError."""
        names = self.params.outputs
        if not {"boxes", "scores"} <= set(found):
            if len(names) != len(found):
                shapes = ", ".join(f"{name} {tuple(array.shape)}" for name, array in found.items())
                raise ValueError(
                    "name what the model gives, in its order, under `params` in model.yaml, as "
                    f"`outputs: [boxes, scores]`, or let the module give a dict: found {shapes}"
                )
            found = dict(zip(names, found.values(), strict=True))
        if "joined" in found:
            rows = found["joined"].swapaxes(1, 2)
            found = {"boxes": rows[..., :4], "scores": rows[..., 4:]}
        return {name: found[name] for name in ("boxes", "scores", "labels") if name in found}

    def examine(self, outputs: Outputs, *, squashed: bool) -> Sequence[str]:
        """Check shapes, the range of scores and the number of labels against `params`."""
        found = self._named(outputs)
        _require_shapes(found)
        scores = found["scores"]
        if not (np.isfinite(scores).all() and np.isfinite(found["boxes"]).all()):
            raise ValueError("check the weights, and `mean` and `std`: the module gives NaN or infinity")
        if scores.size and (scores.min() < -0.01 or scores.max() > 1.01):
            raise ValueError(
                "let the module end its scores in a sigmoid or a softmax: they lie from "
                f"{scores.min():.4g} to {scores.max():.4g}, and a threshold needs 0 to 1"
            )
        self._require_labels(found)
        return ()

    def _require_labels(self, found: Mapping[str, Array]) -> None:
        if self._labels is None:
            return
        named = f"`labels: {self.params.labels}` names {len(self._labels)}"
        if "labels" not in found and found["scores"].shape[2] != len(self._labels):
            raise ValueError(f"labels: the module has {found['scores'].shape[2]} classes, {named}")
        last = int(found["labels"].max(initial=0)) if "labels" in found else 0
        if last >= len(self._labels):
            remedy = "write `labels: coco91`"
            if self.params.labels != "coco":
                remedy = "name them all, from class 0 on, which for torchvision's detectors is the background"
            raise ValueError(f"labels: {remedy}: the module gives class {last}, {named}")

    def encode(self, output: Outputs, about: Any) -> list[dict[str, Any]]:
        """Return the objects in a picture. Raises Refused if the model gives NaN or infinity."""
        height, width = (int(side) for side in output["shape"])
        placed: Placed = about or Placed(width, height)  # a random instance has no caller's picture
        boxes, scores, classes = self._candidates(output)
        apart = np.zeros_like(classes) if self.params.across_classes else classes
        best = kept(boxes, scores, apart, self.params.overlap, self.params.max_boxes)
        return [
            {
                "label": self._label(int(classes[one])),
                "index": int(classes[one]),
                "score": float(scores[one]),
                "box": [round(float(edge), 2) for edge in box],
            }
            for one, box in zip(best, placed.boxes_in_picture(boxes[best]), strict=True)
        ]

    def _candidates(self, output: Outputs) -> tuple[Array, Array, Array]:
        """Return corners in the model's input, scores and classes above the threshold, best first."""
        boxes, scores = output["boxes"], output["scores"].astype(np.float64)
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise not_finite("picture")
        if scores.ndim == 2:
            rows, classes = np.nonzero((scores >= self.least_score) & self._wanted(scores.shape[1]))
            scores = scores[rows, classes]
        else:
            classes = output["labels"].astype(np.int64)
            wanted = self._wanted(int(classes.max(initial=0)) + 1)
            rows = np.nonzero((scores >= self.least_score) & (classes >= 0) & wanted[classes])[0]
            scores, classes = scores[rows], classes[rows]
        best = np.argsort(-scores, kind="stable")[: self.params.candidates]
        corners = to_corners(boxes[rows[best]], self.params.box_form)
        if self.params.box_unit == "share":
            height, width = output["shape"]
            corners *= np.array([width, height, width, height], dtype=np.float64)
        return corners, scores[best], classes[best]

    def _wanted(self, classes: int) -> Array:
        """Return which classes an answer lists, by their index."""
        wanted = [not self.params.only or self._label(index) in self.params.only for index in range(classes)]
        return np.array(wanted, dtype=bool)

    def _label(self, index: int) -> str:
        return self._labels[index] if self._labels and index < len(self._labels) else str(index)

    def compare(self) -> Mapping[str, Any]:
        """Compare by pairs of boxes with equal labels; a box near the threshold may lack a partner."""
        least = min(1.0, self.params.threshold + 0.05)
        return {"kind": "boxes", "min_iou": 0.8, "score": 0.1, "min_score": least}

    def about(self) -> dict[str, Any]:
        """Return what callers may send, and what the answer contains."""
        params = self.params
        return {
            **params.limits.about(),
            "labels": list(params.only) or self._labels,
            "threshold": params.threshold,
            "max_boxes": params.max_boxes,
        }


def _require_shapes(found: Mapping[str, Array]) -> None:
    """Raise ValueError unless the outputs are boxes with their scores."""
    boxes, scores, labels = (found.get(name) for name in ("boxes", "scores", "labels"))
    assert boxes is not None
    assert scores is not None
    fits = boxes.ndim == 3 and boxes.shape[2] == 4 and scores.shape[:2] == boxes.shape[:2]
    if labels is None:
        fits = fits and scores.ndim == 3
    else:
        fits = fits and scores.ndim == 2 and labels.shape == scores.shape and labels.dtype.kind in "iu"
    if not fits:
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in found.items())
        raise ValueError(
            f"expected boxes (n, boxes, 4), and scores (n, boxes, classes) or else scores and integer labels "
            f"(n, boxes); found {shapes}: see `outputs` in docs/tasks/object_detector.md"
        )


def _are_rows(output: Any) -> bool:
    """Return whether it is the output of torchvision's detectors: a dict with boxes for each picture."""
    return isinstance(output, list) and all(isinstance(one, Mapping) and "boxes" in one for one in output)


def _padded(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one tensor for all pictures; pads missing boxes with score 0 and label -1."""
    from torch.nn.utils.rnn import pad_sequence

    fill = {"boxes": 0, "scores": 0, "labels": -1}
    return {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=value)
        for name, value in fill.items()
    }
