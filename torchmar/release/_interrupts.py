"""Ctrl-C while threads are at work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
