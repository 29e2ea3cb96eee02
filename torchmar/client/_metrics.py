"""The metrics API: Prometheus text, parsed into samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ._http import Transport

# The exposition format, version 0.0.4: name{label="value",…} value [timestamp]
_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+-?\d+)?"
)
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


@dataclass(frozen=True)
class Sample:
    """One value of one metric."""

    name: str
    labels: Mapping[str, str]
    value: float


class Metrics:
    """The metrics address of one server. It has no tokens, and is empty unless metrics_mode is prometheus."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def address(self) -> str:
        """The base URL."""
        return self._transport.address

    def text(self) -> str:
        """What Prometheus would scrape."""
        return self._transport.call("GET", "/metrics").text

    def samples(self) -> list[Sample]:
        """All values, in the order of the text."""
        return parse(self.text())


def total(samples: Iterable[Sample], name: str, labels: Mapping[str, str] = MappingProxyType({})) -> float:
    """The sum of a metric's values that have these labels, whatever their others; 0 of none."""
    return sum(
        sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
    )


def parse(text: str) -> list[Sample]:
    """The samples in a text of the Prometheus exposition format; unreadable lines are left out."""
    found = []
    for line in text.split("\n"):  # a label may hold what splitlines takes for a line end
        match = None if line.startswith("#") else _SAMPLE.fullmatch(line.strip())
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        labels = {name: _unescape(raw) for name, raw in _LABEL.findall(match["labels"] or "")}
        found.append(Sample(match["name"], labels, value))
    return found


def _unescape(raw: str) -> str:
    return re.sub(r'\\[\\"n]', lambda match: _ESCAPES[match[0]], raw)
