"""Collect figures of requests and their answers: what an archive sees, and what it says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..answers import parsed, shown
from ..compare import Comparator
from ..dataset import Example
from ..kinds import kind_of
from ..mar import Archive
from ..measure.price import shortened
from ..worker import Request, Worker, config_of_a_check
from ._vectors import is_vector, projected

DIGITS = 4
"""Significant digits of a number. Both sides are rounded alike, so that equal values stay equal."""


@dataclass
class Figures:
    """Figures by name: numbers, classes, and vectors, which are the outputs of a model for an instance.

    `count` requests were answered, `refused` were not, the first of them as `refusal` says. A figure that
    only some requests have, as the confidence of an answer with classes, has fewer values.
    """

    count: int = 0
    refused: int = 0
    refusal: str = ""
    numbers: dict[str, list[float]] = field(default_factory=dict)
    classes: dict[str, list[str]] = field(default_factory=dict)
    vectors: dict[str, list[tuple[float, ...]]] = field(default_factory=dict)
    _sizes: dict[str, int] = field(default_factory=dict, repr=False)

    def add(self, name: str, value: Any) -> None:
        """Add one value of a figure; leaves out what is no finite number."""
        if isinstance(value, str):
            self.classes.setdefault(name, []).append(value)
        elif math.isfinite(number := float(value)):
            self.numbers.setdefault(name, []).append(shortened(number, DIGITS))

    def add_vector(self, name: str, array: Any) -> None:
        """Add an array of floats of any shape; a name whose arrays vary in size has no vectors."""
        size = self._sizes.setdefault(name, array.size)
        if size != array.size:
            self._sizes[name] = 0
            self.vectors.pop(name, None)
        elif all(map(math.isfinite, vector := projected(array))):
            self.vectors.setdefault(name, []).append(_rounded(vector))


def _rounded(vector: Sequence[float]) -> tuple[float, ...]:
    """Round to the digits that the largest number has: what is tiny beside it differs between machines."""
    largest = max(map(abs, vector))
    places = DIGITS - 1 - math.floor(math.log10(largest)) if largest else 0
    return tuple(round(one, places) for one in vector)


Ask = Callable[[Sequence[Example]], Figures]


@contextmanager
def answering(path: Path, comparator: Comparator) -> Iterator[Ask]:
    """Load an archive in this process, which runs its code; yields what returns the figures of requests.

    `path` is a .mar, or a folder with the content of one. Of each request the figures are whether it is
    answered and its size in bytes, of each of its instances the handler's `statistics` and the model's
    outputs, and of the answer its class and confidence, its numbers, or its length. Raises WorkerLoadError,
    ArchiveError, and DatasetError for a request that cannot be read.
    """
    with Worker.load(path, configured=config_of_a_check) as worker:
        seen = _Seen(worker.handler)
        yield lambda examples: _figures(worker, seen, comparator, examples)


def figures_of(archive: Archive, examples: Sequence[Example]) -> Figures:
    """Return the figures of requests that an archive answers; see `answering`."""
    with answering(archive.path, archive.comparator) as ask:
        return ask(examples)


def _figures(worker: Worker, seen: _Seen, comparator: Comparator, examples: Sequence[Example]) -> Figures:
    found = Figures()
    for example in examples:
        seen.clear()
        body = example.read()
        [response] = worker.predict([Request.body(body, example.content_type)])
        if response.status != 200 or response.broken:
            found.refused += 1
            found.add("outcome", "refused")
            found.refusal = found.refusal or f"{example.name}: {response.status}: {shown(response.body)}"
            continue
        found.count += 1
        found.add("outcome", "answered")
        found.add("bytes of the request", len(body))
        for statistics in seen.statistics:
            for name, value in statistics.items():
                found.add(name, value)
        for name, value in _of_answer(comparator, parsed(response.body)):
            found.add(name, value)
        for outputs in seen.outputs:
            for name, array in outputs.items() if isinstance(outputs, Mapping) else ():
                if is_vector(array):
                    found.add_vector(f"vector {name}", array)
    return found


class _Seen:
    """Keeps what a BatchHandler computes of each instance: `statistics` of its inputs, and its `outputs`."""

    def __init__(self, handler: Any) -> None:
        self.statistics: list[Mapping[str, float]] = []
        self.outputs: list[Mapping[str, Any]] = []
        if not all(hasattr(handler, name) for name in ("decode", "statistics", "encode")):
            return  # another handler, or one of an older torchmar
        decode, statistics, encode = handler.decode, handler.statistics, handler.encode

        def decoding(request: Any) -> Any:
            decoded = decode(request)
            self.statistics.extend(statistics(inputs) for inputs in decoded.instances)
            return decoded

        def encoding(output: Any, about: Any) -> Any:
            self.outputs.append(output)
            return encode(output, about)

        handler.decode, handler.encode = decoding, encoding

    def clear(self) -> None:
        """Forget the last request."""
        self.statistics.clear()
        self.outputs.clear()


def _of_answer(comparator: Comparator, answer: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for one in _each(answer):
        with suppress(Exception):  # an answer of no known form has no figures
            kind = kind_of(comparator, one)
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
