"""Shows the progress of long steps, and says what an interruption leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ._output import err, escape

if TYPE_CHECKING:
    from ..release import Entry

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


class UnderWay:
    """Shows the steps of a release that have begun and are not done, each with its host and progress."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._begun: dict[tuple[str, str], float] = {}
        self._progress: dict[tuple[str, str], str] = {}
        self._live = Live(self._lines)

    def __enter__(self) -> None:
        if not self._silent:
            self._live.__enter__()

    def __exit__(self, *_: object) -> None:
        if not self._silent:
            self._live.__exit__()

    def note(self, entry: Entry, model: str = "") -> None:
        """Take a journal entry before it is printed; give `model` if the command works at several."""
        key = (entry.host, f"{entry.step} {model}".rstrip())
        if entry.event == "begin":
            self._begun[key] = time.monotonic()
        elif self._begun.pop(key, None) is not None:
            self._progress.pop(key, None)
        if not self._silent:
            self._live.print() if entry.event == "begin" else self._live.clear()

    def note_progress(self, host: str, step: str, text: str) -> None:
        """Set the progress of a step, for the next time that its line is printed."""
        self._progress[host, step] = text

    def _lines(self) -> list[str]:
        """Return the lines, oldest step first; a pipe gets none for a step that is young."""
        now, least = time.monotonic(), 0 if _is_terminal() else _ELSEWHERE / 2
        return [
            f"{host:<9} {step:<10}  … {now - begun:.0f} s  {self._progress.get((host, step), '')}".rstrip()
            for (host, step), begun in list(self._begun.items())
            if now - begun >= least
        ]


# What an interrupted step leaves, by its name.
_LEAVES = {
    "undo default": "the default version may not be back yet",
    "undo": "the old version is the default again; the new version may still be registered, and answers",
    "back": "the default version may not be back yet",
    "reconcile": "some versions of the journal may not be served yet",
    "retire": "the version may still be registered, and then it answers requests that name it",
    "rescue": "the version may have one worker more than before",
    "drain": "nothing was changed yet",
    "scale-to-0": "the version may have no workers",
    "scale": "the version may not have its number of workers yet",
    "make-standby": "nothing was changed yet",
    "register-standby": "the version answers by itself; its standby may be registered",
    "default-to-standby": "the version or its standby answers: both are registered",
    "default-back": "the version or its standby answers: both are registered",
    "drain-standby": "the version answers by itself; its standby is still registered",
    "unregister-standby": "the version answers by itself; its standby may still be registered",
    "remove-standby": "its standby was removed, and the version answers by itself",
}


def state_of(entries: Sequence[Entry]) -> str:
    """Return which steps were interrupted, and what they leave, in words."""
    last: dict[str, Entry] = {}
    for entry in entries:
        if entry.event in {"begin", "done", "failed"}:
            last[entry.host] = entry
    begun = {host: entry.step for host, entry in last.items() if entry.event != "done"}
    if not last:
        return "nothing was changed"
    if not begun:
        return "every step that had begun was done"
    steps = dict.fromkeys(begun.values())
    where = "; ".join(f"{step} on {', '.join(h for h, s in begun.items() if s == step)}" for step in steps)
    leaves = "; ".join(dict.fromkeys(_LEAVES[step] for step in steps if step in _LEAVES))
    return f"during {where}" + (f": {leaves}" if leaves else "")
