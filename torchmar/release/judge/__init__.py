"""Pass, fail or inconclusive: what the samples of two versions say. Nothing here measures or acts."""

from ._answers import judge_agreement, judge_errors, judge_expected
from ._compare import compare, told, told_json
from ._figures import FLOOR_SECONDS, MIN_SAMPLES, TAIL_SAMPLES, judge_first_part, judge_latency, judge_rate
from ._judge import judge
from ._statistics import nearest_rank
from ._values import Finding, Judgement, Outcome, Sample

__all__ = [
    "FLOOR_SECONDS",
    "MIN_SAMPLES",
    "TAIL_SAMPLES",
    "Finding",
    "Judgement",
    "Outcome",
    "Sample",
    "compare",
    "judge",
    "judge_agreement",
    "judge_errors",
    "judge_expected",
    "judge_first_part",
    "judge_latency",
    "judge_rate",
    "nearest_rank",
    "told",
    "told_json",
]
