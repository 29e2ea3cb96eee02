"""How long to wait, by which clock, and who hears of each step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
Sleep = Callable[[float], None]
OnStep = Callable[[str], None]
"""Called with the name of each step before it runs: a journaled step may have happened, or not."""


def no_step(_name: str) -> None:
    """Do nothing: for a caller that keeps no journal."""


@dataclass(frozen=True)
class WaitPolicy:
    """Sets how long to wait, in seconds.

    `longest` is what the slowest answer takes; None is the version's own bound, after which TorchServe gives
    up on a worker. For `timeout` clients may go on to ask for a version by name, and requests to wait in its
    queue.
    """

    longest: float | None = None
    timeout: float = 60.0
    clock: Clock = time.monotonic
    sleep: Sleep = time.sleep
    on_step: OnStep = no_step
