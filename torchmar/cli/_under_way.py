"""The steps that are under way: told while they last, and when they are interrupted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ._output import err, escape

if TYPE_CHECKING:
    from ..release import Entry

_ON_TERMINAL, _ELSEWHERE = 1.0, 5.0  # seconds between two signs of life

# What a step leaves that did not come to its end, by its name.
_LEAVES = {
    "undo default": "the default version may not be back yet",
    "undo": "the default version is back; the one that was released may be registered still, and answers",
    "back": "the default version may not be back yet",
    "reconcile": "not all that the journal names may be served yet",
    "retire": "the version may be registered still, and then it answers whoever asks for it",
    "rescue": "it may have one worker more than before",
    "drain": "nothing was changed yet",
    "scale-to-0": "the version may have no workers",
    "scale": "the version may have another number of workers than it is to have",
    "make-standby": "nothing was changed yet",
    "register-standby": "the version answers by itself; its standby may be registered",
    "default-to-standby": "the version or its standby answers: both are registered",
    "default-back": "the version or its standby answers: both are registered",
    "drain-standby": "the version answers by itself; its standby is registered still",
    "unregister-standby": "the version answers by itself; its standby may be registered still",
    "remove-standby": "its standby was taken away again, and the version answers by itself",
}


class UnderWay:
    """Tells on stderr, until the block ends, which steps go on and for how long.

    On a terminal that is one line which changes, elsewhere a line for each every few seconds.
    """

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._begun: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._over.set()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._over.clear()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._clear_line()
        self._begun.clear()

    def note(self, entry: Entry, model: str = "") -> None:
        """Call it with each entry, before that is printed; `model` where one of several is meant."""
        key = (entry.host, f"{entry.step} {model}".rstrip())
        with self._lock:
            if entry.event == "begin":
                self._begun[key] = time.monotonic()
                if _is_terminal() and not self._silent:
                    self._print_line()
            elif self._begun.pop(key, None) is not None:
                self._clear_line()
            if self._thread is None and self._begun and not self._silent and not self._over.is_set():
                self._thread = threading.Thread(target=self._tell, daemon=True)
                self._thread.start()

    def _tell(self) -> None:
        while not self._over.wait(_ON_TERMINAL if _is_terminal() else _ELSEWHERE):
            # Nobody may read it any more: SystemExit is rich's word for that.
            with self._lock, suppress(OSError, SystemExit):
                if _is_terminal():
                    self._print_line()
                else:
                    for (host, step), begun in self._begun.items():
                        seconds = time.monotonic() - begun
                        if seconds >= _ELSEWHERE / 2:
                            err.print(_line(host, step, seconds))

    def _print_line(self) -> None:
        """Of the step that was begun first: there is one line."""
        for (host, step), begun in list(self._begun.items())[:1]:
            self._clear_line()
            err.print(_line(host, step, time.monotonic() - begun), end="\r", style="dim")

    def _clear_line(self) -> None:
        if _is_terminal() and not self._silent:
            err.file.write("\r\x1b[K")
            err.file.flush()


def _is_terminal() -> bool:
    """Whether a line can be written over: FORCE_COLOR makes a log of a pipeline no terminal."""
    return err.is_terminal and not err.is_dumb_terminal and err.file.isatty()


def _line(host: str, step: str, seconds: float) -> str:
    so_far = f" {seconds:.0f} s" if seconds >= 1 else ""
    return f"{escape(host):<9} {escape(step):<10}  …{so_far}"


def state_of(entries: Sequence[Entry]) -> str:
    """Where it was when it was interrupted, and what that leaves, in words."""
    last: dict[str, Entry] = {}
    for entry in entries:
        if entry.event in {"begin", "done", "failed"}:
            last[entry.host] = entry
    begun = {host: entry.step for host, entry in last.items() if entry.event != "done"}
    if not last:
        return "nothing was changed"
    if not begun:
        return "all that was begun was done"
    steps = dict.fromkeys(begun.values())
    where = "; ".join(f"{step} on {', '.join(h for h, s in begun.items() if s == step)}" for step in steps)
    leaves = "; ".join(dict.fromkeys(_LEAVES[step] for step in steps if step in _LEAVES))
    return f"under way was {where}" + (f": {leaves}" if leaves else "")
