"""Hold what was measured of one way of compressing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...mar import Accepted
from ...measure.price import COMPRESSED, FLOAT, shortfalls
from .. import Compressed
from ._choose import Figures
from ._points import NONE, Point, point_of


@dataclass(frozen=True)
class Trial:
    """A point with its price and speed as JSON has them, or the `problem` that it had.

    `latency` is by model, batch size and percentile, in ms; the uncompressed model was measured in turn with
    this one. `peak_rss_mb` is by model. `refused` says that the problem is `accept`, which takes it no way.
    """

    point: Point
    price: Mapping[str, Any] | None = None
    latency: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None
    peak_rss_mb: Mapping[str, float | None] | None = None
    problem: str = ""
    refused: bool = False

    @classmethod
    def of(cls, point: Point, found: Compressed) -> Trial:
        """Return what was measured."""
        speed = asdict(found.speed)
        return cls(point, asdict(found.price), speed["latency"], speed["peak_rss_mb"])

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Trial:
        """Return a trial of a results file."""
        return cls(**{**found, "point": point_of(found["point"])})

    @property
    def name(self) -> str:
        """Return the point's name."""
        return self.point.name

    def wrong(self, accepts: Accepted) -> Mapping[str, str]:
        """Return in what it is not accepted, by key of `accept`."""
        return {} if self.price is None else shortfalls(self.price, accepts)

    def time(self, batch: str) -> float:
        """Return its p50 as a share of the uncompressed model's, for a batch of this size."""
        assert self.latency is not None
        before, now = (self.latency[model][batch]["p50_ms"] for model in (FLOAT, COMPRESSED))
        return now / before

    def error(self) -> float:
        """Return the cost; the share of other answers where outputs cannot be compared."""
        assert self.price is not None
        cost = self.price["cost"]
        return float(1 - self.price["agreement"] if cost is None else cost["value"])

    def figures(self, batch: str, accepts: Accepted) -> Figures:
        """Return what a choice is made by."""
        assert self.price is not None
        size = self.price["bytes"][COMPRESSED]
        return Figures(self.name, size, self.time(batch), self.error(), not self.wrong(accepts))


def uncompressed(trials: Sequence[Trial]) -> Figures | None:
    """Return the figures of the model as it is; None if nothing was measured."""
    measured = [trial for trial in trials if trial.price is not None]
    if not measured:
        return None
    assert measured[0].price is not None
    return Figures(NONE, measured[0].price["bytes"][FLOAT], 1.0, 0.0)
