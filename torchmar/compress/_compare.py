"""Compare a compressed model with the uncompressed one: outputs, answers, labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..compare import Comparator
from ..errors import ExportError
from ..export import Apart, Example, Recorded, answers_again, outputs_and_answer
from ..spec import ModelSource, in_file
from ._data import Labelled


@dataclass
class Compared:
    """What comparing two models on the same examples has found.

    `distances` are those of each instance's outputs from the uncompressed model's; `to_labels` those of
    both models' outputs from the labels', uncompressed first. `labels` are those of the examples that have
    one, and `answers` both models' answers to them, uncompressed first. `same` is how many of `examples` were
    answered alike. `golden` holds the compressed model's answers to golden requests, `differing` those
    unlike the module's.
    """

    examples: int = 0
    same: int = 0
    distances: list[float] = field(default_factory=list)
    is_measurable: bool = True
    to_labels: list[tuple[float, float]] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    answers: list[tuple[Any, Any]] = field(default_factory=list)
    golden: dict[str, Any] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)
    errors: list[Apart] = field(default_factory=list)

    @property
    def worst(self) -> Apart:
        """Return the largest difference of a model's outputs, with the mean of all."""
        mean = sum(each.mean for each in self.errors) / max(1, len(self.errors))
        most = max(self.errors, default=Apart())
        return Apart(most.error, most.where, mean)


class Comparison:
    """Compares models with an uncompressed one, on the same examples each time.

    `reference` is the handler with the uncompressed model. `golden` are golden requests with the module's
    answers.
    """

    def __init__(
        self,
        source: ModelSource,
        reference: Any,
        comparator: Comparator,
        price: Sequence[Labelled],
        golden: Sequence[tuple[Example, Any]],
        folder: Path,
    ) -> None:
        self._source, self._reference, self._comparator = source, reference, comparator
        self._price, self._golden, self._folder = price, golden, folder

    def of(self, handler: Any) -> Compared:
        """Compare the model behind a handler. Raises ExportError, ParityError, and what the handler
        raises.
        """
        found = Compared()
        for one in self._price:
            mine, theirs = self._both(handler, one.example, found)
            found.examples += 1
            found.same += self._comparator.same(mine[1], theirs[1])
            self._measure(found, one.label, mine[0], theirs[0])
            if one.label is not None:
                found.labels.append(one.label)
                found.answers.append((mine[1], theirs[1]))
        for example, expected in self._golden:
            _, (_, answer) = self._both(handler, example, found)
            name = str(example.name)
            found.golden[name] = answer
            if not self._comparator.same(expected, answer):
                found.differing.append(name)
        return found

    def _both(self, handler: Any, example: Example, found: Compared) -> tuple[Any, Any]:
        """Return both models' outputs and answer, the uncompressed one's first, and note their errors."""
        with recording(self._reference) as recorded:
            mine = outputs_and_answer(self._reference, example)
        theirs = outputs_and_answer(handler, example)
        for part, each in recorded.items():
            if each.calls:
                found.errors.append(answers_again(self._source, handler, each.calls, part, self._folder))
        return mine, theirs

    def _measure(self, found: Compared, label: Any, mine: Sequence[Any], theirs: Sequence[Any]) -> None:
        apart = [distance(one, other) for one, other in zip(mine, theirs, strict=True)]
        known = [each for each in apart if each is not None]
        found.distances += known
        found.is_measurable &= bool(apart) and len(known) == len(apart)
        if label is None or len(mine) != 1:
            return
        try:
            right = self._reference.target(label, mine[0])
        except ValueError as error:
            raise ExportError(in_file(self._source, "compress.data", str(error))) from None
        both = (None, None) if right is None else (distance(right, mine[0]), distance(right, theirs[0]))
        if both[0] is not None and both[1] is not None:
            found.to_labels.append((both[0], both[1]))


@contextmanager
def recording(handler: Any) -> Iterator[dict[str, Recorded]]:
    """Record the calls of a handler's models during the block, by part."""
    models = handler.models
    handler.models = {part: Recorded(part, model) for part, model in models.items()}
    try:
        yield handler.models
    finally:
        handler.models = models


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """Return the sum of absolute differences over all outputs; None if they are not of one form."""
    import numpy as np

    total = 0.0
    if one.keys() != other.keys():
        return None
    for name, array in one.items():
        mine, theirs = np.asarray(array), np.asarray(other[name])
        if mine.shape != theirs.shape or mine.dtype.kind not in "fiub" or theirs.dtype.kind not in "fiub":
            return None
        wanted, found = mine.astype(np.float64), theirs.astype(np.float64)
        same = (wanted == found) | (np.isnan(wanted) & np.isnan(found))  # infinities would give nan
        with np.errstate(invalid="ignore"):
            total += float(np.where(same, 0.0, np.abs(wanted - found)).sum())
    return total
