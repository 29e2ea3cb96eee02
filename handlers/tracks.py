"""Join boxes of successive frames into tracks, by their overlap."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .boxes import overlaps

Array = NDArray[Any]
S = TypeVar("S")

_NEW_SHARE = 0.5  # the weight of the last frame in a motion's mean over frames


@dataclass
class Track:
    """One followed object: its last seen box, and its motion per frame.

    `unseen` counts the frames since then.
    """

    number: int
    box: Array
    group: int
    motion: Array = field(default_factory=lambda: np.zeros(2))
    unseen: int = 0

    @property
    def expected(self) -> Array:
        """Return its box in this frame if it has moved on as before."""
        found: Array = self.box + np.tile(self.motion, 2) * self.unseen
        return found

    def seen(self, box: Array) -> None:
        """Update the track with its box in this frame."""
        moved = (_centre(box) - _centre(self.box)) / self.unseen
        self.motion = _NEW_SHARE * moved + (1 - _NEW_SHARE) * self.motion
        self.box, self.unseen = box, 0


class Tracker:
    """Follows objects through the frames of one sequence.

    A box continues a track of its group if it overlaps the expected box by at least `least_overlap`; pairs
    with more overlap come first. Boxes with a score of at least `begin` choose first, and begin new tracks if
    they continue none. The others only continue the remaining tracks, as in ByteTrack (arXiv:2110.06864). A
    track ends after `most_unseen` unseen frames.
    """

    def __init__(self, least_overlap: float, begin: float, most_unseen: int) -> None:
        self._least_overlap, self._begin, self._most_unseen = least_overlap, begin, most_unseen
        self.restart()

    def restart(self) -> None:
        """Forget all tracks; the next one gets number 1."""
        self._tracks: list[Track] = []
        self._next = 1

    def update(self, boxes: Array, scores: Array, groups: Array) -> list[int | None]:
        """Return the number of each box's track in this frame; None for a box without a track.

        boxes: (n, 4), [x1, y1, x2, y2]. groups: (n,); a box continues no track of another group.
        """
        numbers: list[int | None] = [None] * len(boxes)
        for track in self._tracks:
            track.unseen += 1
        for index, track in self._pairs(boxes, scores, groups):
            track.seen(boxes[index])
            numbers[index] = track.number
        self._tracks = [track for track in self._tracks if track.unseen <= self._most_unseen]
        for index, box in enumerate(boxes):
            if numbers[index] is None and scores[index] >= self._begin:
                self._tracks.append(Track(self._next, box, int(groups[index])))
                numbers[index] = self._next
                self._next += 1
        return numbers

    def _pairs(self, boxes: Array, scores: Array, groups: Array) -> list[tuple[int, Track]]:
        """Return boxes with the tracks that they continue, each once; boxes that may begin one come first."""
        if not len(boxes) or not self._tracks:
            return []
        shared = overlaps(boxes, np.stack([track.expected for track in self._tracks]))
        shared[groups[:, None] != np.array([track.group for track in self._tracks])[None]] = 0
        shared[shared < self._least_overlap] = 0
        found: list[tuple[int, Track]] = []
        for round_of in (scores >= self._begin, scores < self._begin):
            left = np.where(round_of[:, None], shared, 0)
            while left.any():
                index, place = np.unravel_index(int(left.argmax()), left.shape)
                found.append((int(index), self._tracks[place]))
                left[index, :] = left[:, place] = shared[:, place] = 0
        return found


def _centre(box: Array) -> Array:
    centre: Array = (box[:2] + box[2:]) / 2
    return centre


class TooMany(Exception):
    """The most sequences are already followed."""


class Sequences(Generic[S]):
    """Keeps a state for each of at most `most` sequences, by id, until it was idle for `idle` seconds."""

    def __init__(
        self, make: Callable[[], S], most: int, idle: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self._most, self._idle, self._clock = make, most, idle, clock
        self._kept: OrderedDict[str, tuple[S, float]] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, name: str) -> S:
        """Return the state of a sequence; begins an unknown one. Raises TooMany."""
        now = self._clock()
        while self._kept and next(iter(self._kept.values()))[1] < now - self._idle:
            self._kept.popitem(last=False)
        state, _ = self._kept.pop(name, (None, 0.0))
        if state is None and len(self._kept) >= self._most:
            raise TooMany
        state = self._make() if state is None else state
        self._kept[name] = state, now
        return state

    def end(self, name: str) -> None:
        """Forget a sequence."""
        self._kept.pop(name, None)
