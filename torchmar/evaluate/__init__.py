"""Evaluate an archive on labelled data: metrics with intervals, where it is worst, and against another one.

    examples = read_dataset(Path("data/test"))
    result = evaluate(mar.verify("digits-2.0.mar"), examples, against=mar.verify("digits-1.0.mar"))

What is measured depends on what the archive answers, which its comparator says: classes, numbers, texts,
boxes, masks or a ranking. The libraries that compute the metrics are in the extra `evaluate`.
"""

from ..metrics import KINDS, Score
from ._ask import Answer, from_server, from_worker
from ._evaluate import Comparison, Evaluation, Slice, compared, judged
from ._page import (
    bounds,
    comparison_lead,
    score_rows,
    sentence,
    slice_rows,
    unknown_labels,
    write_page,
)
from ._run import evaluate

__all__ = [
    "KINDS",
    "Answer",
    "Comparison",
    "Evaluation",
    "Score",
    "Slice",
    "bounds",
    "compared",
    "comparison_lead",
    "evaluate",
    "from_server",
    "from_worker",
    "judged",
    "score_rows",
    "sentence",
    "slice_rows",
    "unknown_labels",
    "write_page",
]
