"""What two versions answered to the same requests, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...answers import parsed, shown
from ...compare import CLOSE, Comparator
from ._values import Sample


@dataclass(frozen=True)
class Compared:
    """One request as both answered it: of several answers, the first that shows the difference.

    `agrees` is None where nothing can be told: the default has no good answer to it, or not always the same.
    """

    request: str
    default: Sample | None
    candidate: Sample
    agrees: bool | None


def compare(
    default: Sequence[Sample] | None,
    candidate: Sequence[Sample],
    *,
    comparator: Comparator = CLOSE,
) -> tuple[Compared, ...]:
    """Each request that the candidate was sent, in the order of their first."""
    before, after = by_request(default or ()), by_request(candidate)
    return tuple(_compared(before.get(name, ()), samples, comparator) for name, samples in after.items())


def by_request(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of each request, in their order."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.request, []).append(sample)
    return found


def _compared(before: Sequence[Sample], after: Sequence[Sample], comparator: Comparator) -> Compared:
    good = [sample for sample in before if sample.ok]
    usual = parsed(good[0].body) if good else None

    def same(sample: Sample) -> bool:
        return sample.body == good[0].body or comparator.same(usual, parsed(sample.body))

    if not good or not all(same(sample) for sample in good[1:]):
        return Compared(after[0].request, before[0] if before else None, after[0], None)
    for sample in after:
        if not (sample.ok and same(sample)):
            return Compared(sample.request, good[0], sample, agrees=False)
    return Compared(after[0].request, good[0], after[0], agrees=True)


def told(sample: Sample | None, length: int) -> str:
    """What came back, for people: the answer, or else its status and why, in about `length` characters."""
    if sample is None:
        return "–"
    if sample.ok:
        return shown(sample.body, length)
    reason = shown(sample.error.encode(errors="replace") or sample.body, length)
    return f"status {sample.status}: {reason}" if sample.status else f"no answer: {reason}"


def told_json(value: Any, length: int) -> str:
    """A part of an answer likewise."""
    return shown(json.dumps(value, ensure_ascii=False).encode(errors="replace"), length)
