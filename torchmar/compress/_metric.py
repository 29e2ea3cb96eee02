"""Compute the task's metric of the uncompressed and the compressed model, where the data have labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..compare import Comparator
from ..errors import DatasetError, ExportError
from ..measure.price import COMPRESSED, FLOAT, Mean, MetricPrice
from ..metrics import Evidence, Score, evidence, kind_of, paired, score

_SEED = 0  # of the draws of intervals: the same inputs give the same archive


class Judge:
    """Judges the answers of models to labelled examples, beside those of the uncompressed one.

    `before` are the uncompressed model's answers. `why_not` says why there is no metric; '' if there is one.
    """

    def __init__(self, labels: Sequence[Any], before: Sequence[Any], comparator: Comparator) -> None:
        self._labels, self._comparator = labels, comparator
        self.why_not = "" if labels else "`compress.data` has no labels"
        if not labels:
            return
        try:
            self._kind = kind_of(comparator, before[0])
            if self._kind.name == "same":
                self.why_not = "an answer of this form has no other metric than the agreement"
                return
            self._before = self._evidence(before)
            self._score = self._scored(self._before)
        except DatasetError as error:
            self.why_not = str(error)
            return
        if not math.isfinite(self._score.value):
            self.why_not = f"{self._score.name} is not defined for these labels"

    def of(self, now: Sequence[Any]) -> MetricPrice | None:
        """Return the metric of both models, and how they differ; None where there is none.

        `now` are the compressed model's answers. Raises ExportError if a library is missing.
        """
        if self.why_not:
            return None
        try:
            found = self._evidence(now)
        except DatasetError as error:
            self.why_not = str(error)
            return None
        apart, after = paired(self._before, found, seed=_SEED), self._scored(found)
        # A bootstrap of the difference is signed by what is better; the drop is how much is lost.
        return MetricPrice(
            name=apart.metric,
            higher=after.higher,
            examples=len(self._labels),
            values={FLOAT: _mean(self._score), COMPRESSED: _mean(after)},
            drop=Mean.within(-apart.by, -apart.high, -apart.low),
            p=Mean.within(apart.p, apart.p, apart.p).value,
        )

    def _evidence(self, answers: Sequence[Any]) -> Evidence:
        try:
            return evidence(self._kind, answers, self._labels, self._comparator)
        except ModuleNotFoundError as error:
            raise _missing(error) from None

    def _scored(self, found: Evidence) -> Score:
        try:
            return score(found.primary, range(len(found.each)), resamples=found.resamples, seed=_SEED)
        except ModuleNotFoundError as error:
            raise _missing(error) from None


def _mean(found: Score) -> Mean:
    return Mean.within(found.value, found.low, found.high)


def _missing(error: ModuleNotFoundError) -> ExportError:
    what = f"the metric of labelled `compress.data` needs {error.name}"
    return ExportError(f"pip install 'torchmar[evaluate]': {what}")
