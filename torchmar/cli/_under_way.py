"""What is under way: told while it lasts, and when it is interrupted."""

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
    """Prints lines on stderr, while the block runs, of what goes on and for how long.

    On a terminal that is the first of `lines`, written over; elsewhere all of them, every ten seconds.
    """

    def __init__(self, lines: Callable[[], Sequence[str]]) -> None:
        self._lines = lines
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.clear()

    def print(self) -> None:
        """Print them now, where a line can be written over."""
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
        """Make room for another line."""
        if _is_terminal():
            with self._lock:
                err.file.write("\r\x1b[K")
                err.file.flush()

    def _tell(self) -> None:
        while not self._over.wait(_ON_TERMINAL if _is_terminal() else _ELSEWHERE):
            # Nobody may read it any more: SystemExit is rich's word for that.
            with suppress(OSError, SystemExit):
                self.print()
                if not _is_terminal():
                    for line in self._lines():
                        err.print(escape(line))


def _is_terminal() -> bool:
    """Whether a line can be written over: FORCE_COLOR makes a log of a pipeline no terminal."""
    return err.is_terminal and not err.is_dumb_terminal and err.file.isatty()


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Tells on stderr what is going on, and for how long; call what it yields with each step."""
    at, begun = "under way", time.monotonic()
    live = Live(lambda: [f"{title}: {at} ({time.monotonic() - begun:.0f} s)"])

    def step(text: str) -> None:
        nonlocal at
        at = text
        live.print()

    with live:
        yield step


class UnderWay:
    """The steps of a release that are begun and not done, each with its host and how far it is."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._begun: dict[tuple[str, str], float] = {}
        self._so_far: dict[tuple[str, str], str] = {}
        self._live = Live(self._lines)

    def __enter__(self) -> None:
        if not self._silent:
            self._live.__enter__()

    def __exit__(self, *_: object) -> None:
        if not self._silent:
            self._live.__exit__()

    def note(self, entry: Entry, model: str = "") -> None:
        """Call it with each entry, before that is printed; `model` where one of several is meant."""
        key = (entry.host, f"{entry.step} {model}".rstrip())
        if entry.event == "begin":
            self._begun[key] = time.monotonic()
        elif self._begun.pop(key, None) is not None:
            self._so_far.pop(key, None)
        if not self._silent:
            self._live.print() if entry.event == "begin" else self._live.clear()

    def note_progress(self, host: str, step: str, text: str) -> None:
        """Have the line of a step tell how far it is, when its time comes."""
        self._so_far[host, step] = text

    def _lines(self) -> list[str]:
        """The step that was begun first is the first; in a pipe, what is over soon is not told."""
        now, least = time.monotonic(), 0 if _is_terminal() else _ELSEWHERE / 2
        return [
            f"{host:<9} {step:<10}  … {now - begun:.0f} s  {self._so_far.get((host, step), '')}".rstrip()
            for (host, step), begun in list(self._begun.items())
            if now - begun >= least
        ]


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
