"""Collect figures of requests and their answers: what an archive sees, and what it says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..answers import parsed
from ..dataset import Example
from ..mar import Archive
from ..metrics import kind_of
from ..worker import Request, Worker


@dataclass
class Figures:
    """Figures by name: numbers, and classes.

    `count` requests were answered, `refused` were not. A figure that only some requests have, as the
    confidence of an answer with classes, has fewer values.
    """

    count: int = 0
    refused: int = 0
    numbers: dict[str, list[float]] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: Any) -> None:
        """Add one value of a figure."""
        if isinstance(value, str):
            self.classes.setdefault(name, []).append(value)
        else:
            self.numbers.setdefault(name, []).append(float(value))


def figures_of(archive: Archive, examples: Sequence[Example]) -> Figures:
    """Return the figures of requests that an archive answers in this process, which runs its code.

    Of each request the size in bytes, of each of its instances the handler's `statistics`, and of the answer
    its class and confidence, its numbers, or its length. Raises WorkerLoadError, ArchiveError, DatasetError.
    """
    found = Figures()
    with Worker.load(archive.path) as worker:
        seen = _watched(worker.handler)
        for example in examples:
            seen.clear()
            body = example.read()
            [response] = worker.predict([Request.body(body, example.content_type)])
            if response.status != 200 or response.broken:
                found.refused += 1
                continue
            found.count += 1
            found.add("bytes of the request", len(body))
            for statistics in seen:
                for name, value in statistics.items():
                    found.add(name, value)
            for name, value in _of_answer(archive, parsed(response.body)):
                found.add(name, value)
    return found


def _watched(handler: Any) -> list[Mapping[str, float]]:
    """Return a list that gets the statistics of each instance as a BatchHandler decodes it."""
    seen: list[Mapping[str, float]] = []
    decode, statistics = getattr(handler, "decode", None), getattr(handler, "statistics", None)
    if decode is None or statistics is None:  # another handler, or one of an older torchmar
        return seen

    def watching(request: Any) -> Any:
        decoded = decode(request)
        seen.extend(statistics(inputs) for inputs in decoded.instances)
        return decoded

    handler.decode = watching
    return seen


def _of_answer(archive: Archive, answer: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for one in _each(answer):
        with suppress(Exception):  # an answer of no known form has no figures
            kind = kind_of(archive.comparator, one)
            part = kind.part(one)
            if kind.name == "classes":
                found.append(("class", str(part[0]["label"])))
                found.append(("confidence", float(part[0]["probability"])))
            elif kind.name == "numbers":
                named = part.items() if isinstance(part, Mapping) else [("answer", part)]
                found += [(str(name), float(value)) for name, value in named]
            elif kind.name == "text":
                found.append(("letters of the answer", len(part)))
            elif kind.name in {"boxes", "ranking"}:
                found.append((f"{kind.name} in the answer", len(part)))
    return found


def _each(answer: Any) -> Sequence[Any]:
    many = answer.get("predictions") if isinstance(answer, Mapping) and len(answer) == 1 else None
    return many if isinstance(many, list) else [answer]
