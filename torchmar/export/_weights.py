"""Where a module's weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PRETRAINED = "pretrained"
RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """Where the weights come from: `pretrained` (the source's own), `random`, or a file that has them."""

    origin: str = PRETRAINED
    seed: int = 0

    @property
    def file(self) -> Path | None:
        """The file, where the weights come from one."""
        return None if self.origin in {PRETRAINED, RANDOM} else Path(self.origin)
