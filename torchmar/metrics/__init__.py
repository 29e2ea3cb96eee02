"""Compute the metrics of answers to labelled requests, their intervals, and whether two models differ.

    kind = kind_of(comparator, answers[0])
    found = evidence(kind, answers, labels, comparator)
    score(found.primary, range(len(answers)), resamples=found.resamples, seed=0)

`evaluate` reports them of an archive, and `compress` of a model before and after it. The libraries that
compute them are in the extra `evaluate`; importing this package needs none of them.
"""

from ..kinds import KINDS, Kind, kind_of
from ._classes import Classes
from ._evidence import Evidence, Metric
from ._kinds import evidence
from ._paired import Paired, paired
from ._significance import CONFIDENCE, Score, p_of_worse, score

__all__ = [
    "CONFIDENCE",
    "KINDS",
    "Classes",
    "Evidence",
    "Kind",
    "Metric",
    "Paired",
    "Score",
    "evidence",
    "kind_of",
    "p_of_worse",
    "paired",
    "score",
]
