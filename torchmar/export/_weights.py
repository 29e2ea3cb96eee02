"""Describe where a module's weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRETRAINED = "pretrained"
RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """The origin of the weights: `pretrained` (the source's own), `random`, or the name of a file."""

    origin: str = PRETRAINED
    seed: int = 0

    @property
    def file(self) -> Path | None:
        """Return the file of weights, if they come from one."""
        return None if self.origin in {PRETRAINED, RANDOM} else Path(self.origin)
