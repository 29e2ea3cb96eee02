"""Read the examples that `compress.data` of model.yaml names, through the handler's own decode."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .. import dataset
from ..errors import ExportError
from ..export import Example
from ..golden import passed_on
from ..handler_code import handlers
from ..spec import ModelSource, in_file

SHARE = 0.2
"""The default of `calibration_share`."""
_FEWEST = 8  # examples on either side; with fewer of them all serve both
_MOST_CALIBRATED, _MOST = 256, 2000


@dataclass(frozen=True)
class Labelled:
    """An example, and its label if it has one."""

    example: Example
    label: Any = None


@dataclass(frozen=True)
class Data:
    """The examples by their use. `apart` says that none is used for both; `sha256` is that of all data."""

    calibration: Sequence[Labelled]
    price: Sequence[Labelled]
    apart: bool
    sha256: str


def read_data(source: ModelSource, handler: Any, *, set_aside: bool = False) -> Data:
    """Return at most 256 examples to calibrate with, and 2,000 others, drawn the same each time.

    `handler` is ready to decode. `set_aside` keeps those apart that `int8` would calibrate with, whatever
    `quantize` says. Raises DatasetError, and ExportError for a request that it refuses.
    """
    compress = source.spec.compress
    assert compress is not None
    found = dataset.read_dataset(source.directory / compress.data)
    first, rest = drawn(len(found), share_of(compress, always=set_aside))
    kept: dict[int, Labelled] = {}
    for index in sorted({*first, *rest}):
        kept[index] = Labelled(_decoded(source, handler, found[index]), found[index].label)
    return Data(
        calibration=[kept[index] for index in first],
        price=[kept[index] for index in rest],
        apart=not {*first} & {*rest},
        sha256=dataset.digest(found),
    )


def share_of(compress: Any, *, always: bool = False) -> float:
    """Return the share of the data to calibrate with; 0 unless ranges are taken from data, or `always`."""
    if compress.quantize != "int8" and not always:
        return 0.0
    return SHARE if compress.calibration_share is None else float(compress.calibration_share)


def drawn(count: int, share: float) -> tuple[list[int], list[int]]:
    """Return which of `count` examples are calibrated with, and on which the cost is measured, in order.

    No example is in both, unless there are too few for that. The draw depends on nothing else.
    """
    order = list(range(count))
    random.Random(0).shuffle(order)  # noqa: S311 (no secret)
    if share == 0:
        return [], sorted(order[:_MOST])
    first = min(_MOST_CALIBRATED, max(_FEWEST, round(share * count)))
    if count - first < _FEWEST:
        return sorted(order[:_MOST_CALIBRATED]), sorted(order[:_MOST])
    return sorted(order[:first]), sorted(order[first : first + _MOST])


def _decoded(source: ModelSource, handler: Any, one: dataset.Example) -> Example:
    base = handlers("base")
    try:
        content = passed_on(one.read(), one.content_type)
        return Example(one.name, handler.decode(base.Request(content, {})))
    except base.Refused as error:
        remedy = f"remove {one.name}, or put it right"
        raise ExportError(in_file(source, "compress.data", str(error.reason), remedy)) from None
