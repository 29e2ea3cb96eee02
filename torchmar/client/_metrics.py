"""Read the metrics API: Prometheus text, parsed into samples."""

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
    """Reads a server's metrics address: it needs no token, and is empty unless metrics_mode is prometheus."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def address(self) -> str:
        """Return the base URL."""
        return self._transport.address

    def text(self) -> str:
        """Return the text that Prometheus would scrape."""
        return self._transport.call("GET", "/metrics").text

    def samples(self) -> list[Sample]:
        """Return all samples, in the order of the text."""
        return parse(self.text())


def total(samples: Iterable[Sample], name: str, labels: Mapping[str, str] = MappingProxyType({})) -> float:
    """Return the sum of a metric's samples that have these labels and any others; 0 if there are none."""
    return sum(
        sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()
    )


def parse(text: str) -> list[Sample]:
    """Return the samples of a text in the Prometheus exposition format. Skips unreadable lines."""
    found = []
    for line in text.split("\n"):  # splitlines would also split inside some labels
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
