"""Tracking: frames of a video in, one by one; what a detector sees in each, with an id that lasts, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any

import numpy as np

from . import object_detector
from .base import Decoded, Outputs, Refused, Request
from .images.fit import Placed
from .params import AtLeast, Positive, Share
from .tracks import Sequences, TooMany, Tracker

_LONGEST_ID = 200
_ID, _START, _END = (f"ts_request_sequence_{word}" for word in ("id", "start", "end"))


@dataclass(frozen=True)
class Params(object_detector.Params):
    """Those of object_detector, and how boxes of successive frames come together."""

    keep_threshold: Share = 0.2
    """The least score of a box that continues a track; one that begins a track needs `threshold`."""
    track_overlap: Share = 0.3
    """The least intersection over union of a box with where its track is expected."""
    max_unseen: Annotated[int, AtLeast(0)] = 15
    """Frames without a box after which a track has ended."""
    max_sequences: Positive = 64
    """Sequences that one worker follows at the same time."""
    max_idle_seconds: Positive = 60
    """A sequence without a frame for so long is forgotten."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_threshold > self.threshold:
            raise ValueError("keep_threshold: write a number that is not above `threshold`")


@dataclass(frozen=True)
class _Frame:
    """A frame's place in its sequence, which has a name, or else is the request itself with its `tracker`."""

    placed: Placed | None
    tracker: Tracker
    name: str = ""
    first: bool = True
    last: bool = True


class Handler(object_detector.Handler):
    """Answers `[{"id", "label", "index", "score", "box": [x1, y1, x2, y2]}, …]`, the highest score first.

    Requests with one header `ts_request_sequence_id` are frames of one sequence, in the order in which they
    come. Without that header a request with several pictures is a sequence of its own.
    """

    params: Params

    @classmethod
    def params_type(cls) -> type[Any]:
        """The dataclass here, not the detector's."""
        return Params

    def setup(self) -> None:
        """Read the labels; no sequence is known yet."""
        super().setup()
        self._sequences = Sequences(self._tracker, self.params.max_sequences, self.params.max_idle_seconds)

    def _tracker(self) -> Tracker:
        params = self.params
        return Tracker(params.track_overlap, params.threshold, params.max_unseen)

    @property
    def least_score(self) -> float:
        """Boxes below `threshold` continue tracks."""
        return self.params.keep_threshold

    def decode(self, request: Request) -> Decoded:
        """A frame, or several in their order."""
        name = request.headers.get(_ID, "").strip()
        if len(name) > _LONGEST_ID:
            raise Refused(f"{_ID}: {len(name)} characters, at most {_LONGEST_ID} are allowed")
        decoded = super().decode(request)
        if not name and not decoded.listed:
            raise Refused(
                f"no sequence: send the header {_ID} with each frame, the same for all of a video, "
                'or all frames in one request, {"instances": [{"b64": "…"}, …]}'
            )
        own, ends = self._tracker(), len(decoded.about) - 1
        first, last = (not name or _says_yes(request.headers.get(header)) for header in (_START, _END))
        frames = [
            _Frame(placed, own, name, first and index == 0, last and index == ends)
            for index, placed in enumerate(decoded.about)
        ]
        return replace(decoded, about=frames)

    def encode(self, output: Outputs, about: Any) -> list[dict[str, Any]]:
        """What is seen in a frame, each with the number of its track. Raises Refused."""
        frame: _Frame = about or _Frame(None, self._tracker())
        rows = super().encode(output, frame.placed)
        tracker = self._follow(frame) if frame.name else frame.tracker
        if frame.first:
            tracker.restart()
        numbers = tracker.update(
            np.array([row["box"] for row in rows], dtype=np.float64).reshape(-1, 4),
            np.array([row["score"] for row in rows], dtype=np.float64),
            np.array([row["index"] for row in rows], dtype=np.int64),
        )
        if frame.last:
            self._sequences.end(frame.name)
        return [
            {"id": number, **row} for number, row in zip(numbers, rows, strict=True) if number is not None
        ]

    def _follow(self, frame: _Frame) -> Tracker:
        try:
            return self._sequences.of(frame.name)
        except TooMany:
            raise Refused(
                f"{self.params.max_sequences} sequences are followed already, which is the most; send "
                f"{_END}: true with the last frame of one, or wait {self.params.max_idle_seconds} seconds",
                HTTPStatus.TOO_MANY_REQUESTS,
            ) from None

    def compare(self) -> Mapping[str, Any]:
        """As the detector's boxes, and ids stay with what they were given to."""
        return {**super().compare(), "kind": "tracks"}

    def about(self) -> dict[str, Any]:
        """As the detector tells it, and how many sequences are followed."""
        params = self.params
        limits = {"max_sequences": params.max_sequences, "max_idle_seconds": params.max_idle_seconds}
        told = super().about()
        return {**told, "limits": {**told["limits"], **limits}, "sequences": len(self._sequences)}


def _says_yes(header: str | None) -> bool:
    return (header or "").strip().lower() == "true"
