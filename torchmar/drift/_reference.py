"""Summarise the figures of a reference: what a later comparison needs, and no request."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..compare import Comparator
from ..dataset import digest, read_dataset, sample
from ..errors import DatasetError
from ._figures import Figures, answering
from .divergences import MOST_VECTORS, counts_of, edges_of, quantiles_of

FORM = 1
"""The form of MAR-INF/reference.json; raised whenever an older torchmar would misread it."""

OTHERS = "(others)"
"""Stands for the classes beyond the most frequent ones."""
_MOST_CLASSES = 1000
MOST_ASKED = 2000
"""Requests that a reference is made of."""


@dataclass(frozen=True)
class Numbers:
    """How a number is spread: deciles as the inner `edges` of bins, the `counts` in these, and a sample.

    A value belongs to the bin that begins with its edge, so there is one count more than edges. `sample` has
    at most 500 of the values in ascending order.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    sample: tuple[float, ...]


@dataclass(frozen=True)
class Reference:
    """What requests of a reference, and the answers to them, were like.

    `answered` requests have figures, `refused` have none. `data_sha256` is that of all data, '' if unknown.
    `classes` are counts by class. `vectors` has at most 200 of each kind, of at most 64 numbers.
    """

    answered: int
    refused: int
    data_sha256: str
    numbers: Mapping[str, Numbers]
    classes: Mapping[str, Mapping[str, int]]
    vectors: Mapping[str, Sequence[tuple[float, ...]]]

    @classmethod
    def of(cls, figures: Figures, data_sha256: str = "") -> Reference:
        """Return the summary of figures; the same each time."""
        return cls(
            figures.count,
            figures.refused,
            data_sha256,
            {name: _numbers(values) for name, values in figures.numbers.items()},
            {name: _counted(values) for name, values in figures.classes.items()},
            {name: _drawn(values) for name, values in figures.vectors.items()},
        )

    @property
    def figures(self) -> list[str]:
        """Return the names of all figures."""
        return [*self.numbers, *self.classes, *self.vectors]

    def as_json(self) -> dict[str, Any]:
        """Return the content of MAR-INF/reference.json."""
        return {"form": FORM, **asdict(self)}

    def as_bytes(self) -> bytes:
        """Return MAR-INF/reference.json."""
        return (json.dumps(self.as_json(), sort_keys=True, ensure_ascii=False) + "\n").encode()


def recorded(folder: Path, comparator: Comparator, data: Path) -> tuple[Reference, str]:
    """Let an unpacked archive answer at most 2,000 requests of a data set, drawn the same each time.

    Returns the reference, and a sentence on refused requests, '' without any. Raises DatasetError where none
    is answered, WorkerLoadError.
    """
    examples = read_dataset(data)
    with answering(folder, comparator) as ask:
        found = ask(sample(examples, MOST_ASKED, 0))
    if not found.count:
        remedy = "name requests that the model answers as `reference`"
        raise DatasetError(f"{data}: {remedy}: it answers none of them, the first one as {found.refusal}")
    note = ""
    if found.refused:
        asked = found.count + found.refused
        note = f"{found.refused} of {asked} requests of the reference are refused, as {found.refusal}"
    return Reference.of(found, digest(examples)), note


def _numbers(values: Sequence[float]) -> Numbers:
    edges = edges_of(values)
    return Numbers(tuple(edges), tuple(counts_of(values, edges)), tuple(quantiles_of(values)))


def _counted(values: Sequence[str]) -> dict[str, int]:
    counts = Counter(values)
    kept = sorted(counts, key=lambda label: (-counts[label], label))[:_MOST_CLASSES]
    rest = len(values) - sum(counts[label] for label in kept)
    return {label: counts[label] for label in kept} | ({OTHERS: rest} if rest else {})


def _drawn(vectors: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    if len(vectors) <= MOST_VECTORS:
        return list(vectors)
    drawn = random.Random(0).sample(range(len(vectors)), MOST_VECTORS)  # noqa: S311 (no secret)
    return [vectors[number] for number in sorted(drawn)]
