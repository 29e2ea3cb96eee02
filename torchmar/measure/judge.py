"""Judge a gate by answers, errors and latencies together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..compare import CLOSE, Comparator
from .answers import judge_agreement, judge_errors, judge_expected
from .latency import judge_first_part, judge_latency
from .samples import Judgement, Sample


def judge(
    default: Sequence[Sample] | None,
    candidate: Sequence[Sample],
    expected: Mapping[str, Any],
    *,
    max_slowdown: float,
    min_agreement: float,
    comparator: Comparator = CLOSE,
    given: int = 0,
) -> Judgement:
    """Judge golden requests that both versions got in turn; `expected` holds the expected answers.

    `given` counts the user's further requests, which have no expected answer.
    """
    return Judgement(
        (
            judge_errors(default, candidate),
            judge_expected(expected, candidate, comparator=comparator, given=given),
            judge_agreement(default, candidate, minimum=min_agreement, comparator=comparator),
            *judge_latency(default, candidate, max_slowdown=max_slowdown),
            *judge_first_part(default, candidate, max_slowdown=max_slowdown),
        )
    )
