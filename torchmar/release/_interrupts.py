"""Ctrl-C while threads are at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noted_interrupts() -> Iterator[threading.Event]:
    """An Event that Ctrl-C sets, instead of raising KeyboardInterrupt.

    KeyboardInterrupt comes between any two instructions: also after a thread has begun, and before
    anybody knows of it. Nothing changes outside of the main thread, which alone is interrupted, nor
    where Ctrl-C is ignored.
    """
    noted = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield noted
        return
    before = signal.signal(signal.SIGINT, lambda *_: noted.set())
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


class Stopped(Exception):
    """What waits is not gone on with: it was interrupted, or something beside it has failed."""


def until(stop: threading.Event, act: Callable[..., Any]) -> Callable[..., Any]:
    """A clock, or a sleep, that raises Stopped from then on: whatever waits looks at both."""

    def acted(*arguments: Any) -> Any:
        found = None if stop.is_set() else act(*arguments)
        if stop.is_set():
            raise Stopped
        return found

    return acted
