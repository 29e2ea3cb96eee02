"""Say which ways of compressing a model are tried, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from ...spec import Compress, ModelSpec

Quantize = Literal["int8", "dynamic", "weights", "fp16"]
Calibration = Literal["minmax", "entropy", "percentile"]

_SHARES = (0.5, 0.25, 0.75)  # of the multiply-adds to prune
NONE = "none"
"""The name of the model as it is."""


@dataclass(frozen=True)
class Point:
    """One way of compressing. `mixed` leaves layers in float until `accept` holds; otherwise none is."""

    quantize: Quantize | None = None
    calibration: Calibration | None = None
    bits: Literal[8, 4] | None = None
    prune: float | None = None
    mixed: bool = False

    @property
    def name(self) -> str:
        """Return its name, as `prune50-int8`."""
        bits = str(self.bits) if self.quantize == "weights" else ""
        calibration = None if self.calibration == "minmax" else self.calibration
        words = (
            None if self.prune is None else f"prune{100 * self.prune:g}",
            None if self.quantize is None else f"{self.quantize}{bits}",
            calibration,
            "mixed" if self.mixed else None,
        )
        return "-".join(filter(None, words)) or NONE

    def compress(self, given: Compress) -> Compress:
        """Return model.yaml's section for it, with the data of the `given` one."""
        is_pruned = self.prune is not None
        return Compress(
            data=given.data,
            quantize=self.quantize,
            calibration=self.calibration,
            calibration_share=given.calibration_share,  # all are measured on the same examples
            bits=self.bits,
            prune=self.prune,
            train=given.train if is_pruned else None,
            epochs=given.epochs if is_pruned else None,
            augment=given.augment if is_pruned else None,
        )


def points_of(spec: ModelSpec) -> list[Point]:
    """Return the ways that suit a model which has `compress`: the quick ones first, and nothing twice.

    Pruning needs a `source` with one part, and labelled data to `train` on.
    """
    given = spec.compress
    assert given is not None
    can_prune = given.train is not None and len(spec.sources) == 1
    found = [*_quantised(), *(_pruned(given.prune) if can_prune else ())]
    return list(dict.fromkeys(found))


def mixed(point: Point) -> Point:
    """Return the same way with layers in float."""
    return replace(point, mixed=True)


def _quantised() -> Iterator[Point]:
    yield Point("int8", "minmax")
    yield Point("dynamic")
    yield Point("weights", bits=8)
    yield Point("weights", bits=4)
    yield Point("int8", "entropy")
    yield Point("int8", "percentile")
    yield Point("fp16")


def _pruned(given: float | None) -> Iterator[Point]:
    for share in (*([] if given is None else [given]), *_SHARES):
        yield Point(prune=share)
        yield Point("int8", "minmax", prune=share)


def point_of(values: dict[str, Any]) -> Point:
    """Return the point with these attributes."""
    return Point(**values)
