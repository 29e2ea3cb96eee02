"""Tell what an archive answers: classes, numbers, texts, boxes, masks or a ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .compare import Comparator
from .errors import DatasetError

KINDS = ("classes", "numbers", "text", "boxes", "mask", "ranking", "same")

_OF_COMPARATOR = {"first": "classes", "boxes": "boxes", "mask": "mask", "text": "text"}


@dataclass(frozen=True)
class Kind:
    """What an archive answers. `key` is the answer's key that counts, '' for all of it."""

    name: str
    key: str = ""

    def part(self, answer: Any) -> Any:
        """Return what counts of an answer. Raises DatasetError."""
        if not self.key:
            return answer
        if not isinstance(answer, Mapping) or self.key not in answer:
            raise DatasetError(f"--metric {self.name}: an answer has no {self.key!r}: {answer!r:.80}")
        return answer[self.key]


def kind_of(comparator: Comparator, answer: Any, wanted: str | None = None) -> Kind:
    """Return what an archive answers, by its comparator and one of its answers. Raises DatasetError."""
    if wanted is not None and wanted not in KINDS:
        raise DatasetError(f"--metric {wanted}: expected one of {', '.join(KINDS)}")
    if comparator.kind == "fields":
        parts = {key: Comparator.of(one).kind for key, one in comparator.options["fields"].items()}
        found = [(_of_part(kind), key) for key, kind in parts.items()]
        for name, key in found:
            if wanted in {None, name}:
                return Kind(name, key)
    if wanted is not None:
        return Kind(wanted)
    if comparator.kind in _OF_COMPARATOR:
        return Kind(_OF_COMPARATOR[comparator.kind])
    if isinstance(answer, str):
        return Kind("text")
    return Kind("numbers" if _is_numbers(answer) else "same")


def _of_part(kind: str) -> str:
    return {"first": "ranking", "exact": "text"}.get(kind, _OF_COMPARATOR.get(kind, "same"))


def _is_numbers(answer: Any) -> bool:
    values = answer.values() if isinstance(answer, Mapping) else [answer]
    return bool(values) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
