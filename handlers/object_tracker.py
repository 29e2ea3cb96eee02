"""Track objects: frames of a video in, one by one; the objects in each, with a lasting id, out."""

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
    """The params of object_detector, and how boxes of successive frames belong together."""

    keep_threshold: Share = 0.2
    """The least score of a box that continues a track; one that begins a track needs `threshold`."""
    track_overlap: Share = 0.3
    """The least intersection over union of a box with its track's expected box."""
    max_unseen: Annotated[int, AtLeast(0)] = 15
    """How many frames a track survives without a box."""
    max_sequences: Positive = 64
    """How many sequences one worker follows at the same time."""
    max_idle_seconds: Positive = 60
    """After this time without a frame, a sequence is forgotten."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_threshold > self.threshold:
            raise ValueError("keep_threshold: write a number that is not above `threshold`")


@dataclass(frozen=True)
class _Frame:
    """A frame's place in its sequence: a named one, or the request itself with its own `tracker`."""

    placed: Placed | None
    tracker: Tracker
    name: str = ""
    first: bool = True
    last: bool = True


class Handler(object_detector.Handler):
    """Answers `[{"id", "label", "index", "score", "box": [x1, y1, x2, y2]}, …]`, the highest score first.

    Requests with the same header `ts_request_sequence_id` are frames of one sequence, in order of arrival.
    Without that header, a request with several pictures is a sequence of its own.
    """

    params: Params

    @classmethod
    def params_type(cls) -> type[Any]:
        """Return this module's dataclass, not the detector's."""
        return Params

    def setup(self) -> None:
        """Read the labels; start without sequences."""
        super().setup()
        self._sequences = Sequences(self._tracker, self.params.max_sequences, self.params.max_idle_seconds)

    def _tracker(self) -> Tracker:
        params = self.params
        return Tracker(params.track_overlap, params.threshold, params.max_unseen)

    @property
    def least_score(self) -> float:
        """Return the lower threshold, because weaker boxes may continue tracks."""
        return self.params.keep_threshold

    def decode(self, request: Request) -> Decoded:
        """Decode a frame, or several in their order."""
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
        """Return the objects in a frame, each with its track's number. Raises Refused."""
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
        """Compare like the detector, and require that ids correspond."""
        return {**super().compare(), "kind": "tracks"}

    def about(self) -> dict[str, Any]:
        """Return the detector's facts, and how many sequences are followed."""
        params = self.params
        limits = {"max_sequences": params.max_sequences, "max_idle_seconds": params.max_idle_seconds}
        about = super().about()
        return {**about, "limits": {**about["limits"], **limits}, "sequences": len(self._sequences)}


def _says_yes(header: str | None) -> bool:
    return (header or "").strip().lower() == "true"
