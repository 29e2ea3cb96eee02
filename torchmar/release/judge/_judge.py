"""The gate's judgement: of answers, errors and latencies together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...answers import TOLERANCE
from ._answers import judge_agreement, judge_errors, judge_expected
from ._figures import judge_latency
from ._values import Judgement, Sample


def judge(
    default: Sequence[Sample] | None,
    candidate: Sequence[Sample],
    expected: Mapping[str, Any],
    *,
    max_slowdown: float,
    min_agreement: float,
    tolerance: float = TOLERANCE,
) -> Judgement:
    """The gate: golden requests were sent to both versions in turn, and `expected` is what must come back."""
    return Judgement(
        (
            judge_errors(default, candidate),
            judge_expected(expected, candidate, tolerance=tolerance),
            judge_agreement(default, candidate, minimum=min_agreement, tolerance=tolerance),
            *judge_latency(default, candidate, max_slowdown=max_slowdown),
        )
    )
