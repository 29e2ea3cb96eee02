"""Shows the progress of long steps while they last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from ._output import err, escape

_ON_TERMINAL, _ELSEWHERE = 1.0, 10.0  # seconds between two signs of life


class Live:
    """Prints progress lines on stderr while the block runs.

    A terminal shows the first of `lines`, and overwrites it; elsewhere all of them appear every ten seconds.
    """

    def __init__(self, lines: Callable[[], Sequence[str]]) -> None:
        self._lines = lines
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.clear()

    @property
    def least_seconds(self) -> float:
        """Return the age from which a step is worth a line: a pipe gets none for one that is over soon."""
        return 0 if _is_terminal() else _ELSEWHERE / 2

    def print(self) -> None:
        """Print the line now, if it can be overwritten."""
        if _is_terminal():
            self.clear()
            with self._lock:
                for line in self._lines()[:1]:
                    err.print(
                        escape(line),
                        end="\r",
                        style="dim",
                        soft_wrap=False,
                        no_wrap=True,
                        overflow="ellipsis",
                    )

    def clear(self) -> None:
        """Clear the line for other output."""
        if _is_terminal():
            with self._lock:
                err.file.write("\r\x1b[K")
                err.file.flush()

    def _repeat(self) -> None:
        while not self._over.wait(_ON_TERMINAL if _is_terminal() else _ELSEWHERE):
            # The reader may be gone: rich raises SystemExit then.
            with suppress(OSError, SystemExit):
                self.print()
                if not _is_terminal():
                    for line in self._lines():
                        err.print(escape(line))


def _is_terminal() -> bool:
    """Return whether a line can be overwritten: with FORCE_COLOR a pipeline's log is still no terminal."""
    return err.is_terminal and not err.is_dumb_terminal and err.file.isatty()


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show the current step and its seconds on stderr; call the yielded function with each step."""
    at, begun = "under way", time.monotonic()
    live = Live(lambda: [f"{title}: {at} ({time.monotonic() - begun:.0f} s)"])

    def step(text: str) -> None:
        nonlocal at
        at = text
        live.print()

    with live:
        yield step
