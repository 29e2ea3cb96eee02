"""How long to wait, by which clock, and whom to tell what is done next."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Clock = Callable[[], float]
Sleep = Callable[[float], None]
OnStep = Callable[[str], None]
"""Told the name of each step before it is taken: what is journaled there may have happened, or not."""


def no_step(_name: str) -> None:
    """For a caller that keeps no journal."""


@dataclass(frozen=True)
class WaitPolicy:
    """Seconds: `longest` is what the slowest answer takes (None: the version's own bound, after which
    TorchServe gives up on a worker); for `timeout` clients may go on to ask for a version by name, and
    requests to wait in its queue; or a server may take to have a version, and its workers READY.
    """

    longest: float | None = None
    timeout: float = 60.0
    clock: Clock = time.monotonic
    sleep: Sleep = time.sleep
    on_step: OnStep = no_step
