"""The journal of a model: JSON lines, each on disk before the step that it announces.

    <folder>/<model>.jsonl   one line for each entry, only ever added to
    <folder>/<model>.lock    held by the one process that changes the model

A step is journaled as `begin` before it and as `done` after it. So whoever comes after a process that was
killed knows what it may have done. The last line may be torn; its step was not begun then.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

from ..errors import ReleaseError
from ..files import DISK_FULL, sync_folder
from ..processes import by_token, own_token


@dataclass(frozen=True)
class Entry:
    """Holds one line. `release` is the id of the record that it belongs to, `at` an ISO time in UTC.

    event       what `data` holds
    planned     the plan: kind, version, file, sha256, options, hosts, served (by host, before it began)
    begin done  the step `step` on the host `host`
    failed      reason, and `silent` where the server has not answered and may still be at it
    served      the desired state of the host from now on: default, versions
    finished    outcome, and the reason where it was not promoted
    """

    at: str
    release: str
    event: str
    host: str = ""
    step: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


_UNKNOWN = "(unknown)"
_LOCK_PATIENCE = 1.0  # seconds: `status` holds the lock for a moment, to see whether somebody does

OnEntry = Callable[[Entry], None]
Read = TypeVar("Read")


class Held(ReleaseError):
    """Another process is changing the model."""


class JournalFull(ReleaseError):
    """The disk of the journal is full; a way back goes on without it."""


def ignore(_entry: Entry) -> None:
    """Do nothing: for those who only want the file."""


@dataclass
class Journal:
    """Reads and writes the journal of one model."""

    folder: Path
    model: str
    on_entry: OnEntry = ignore
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The file; a name that was typed may hold bytes that are no text."""
        return self.folder / f"{quote(self.model, safe='', errors='surrogatepass')}.jsonl"

    def exists(self) -> bool:
        """Return whether anything was ever written. Raises ReleaseError where that cannot be seen."""
        try:
            return self.path.exists()
        except OSError as error:
            raise ReleaseError(f"journal {self.path}: could not be read: {error.strerror}") from error

    def require_exists(self) -> None:
        """Raise ReleaseError where nothing was ever written, as in the new folder of a CI job."""
        if not self.exists():
            raise ReleaseError(
                f"{self.model}: give --journal FOLDER, or --dir or --hosts as when it was released: nothing "
                f"was released under this name here, as there is no {self.path.absolute()}"
            )

    def locked(self) -> AbstractContextManager[None]:
        """Hold the model for this process. Raises ReleaseError where another process holds it."""
        return hold(self.path.with_suffix(".lock"), self.model, str(self.path))

    def holder(self) -> str | None:
        """Return the id of the process that holds the model now, None where none does."""
        try:
            with self.path.with_suffix(".lock").open("r", encoding="ascii", errors="replace") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _holder(lock)
        except OSError:
            pass
        return None

    def new_id(self) -> str:
        """Return a new id that sorts by time, as 20261124T021500123456Z."""
        return datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S%fZ")

    def append(
        self,
        entry_of: str,
        event: str,
        *,
        host: str = "",
        step: str = "",
        is_way_back: bool = False,
        **data: Any,
    ) -> Entry:
        """Write an entry of the record `entry_of`; it is on disk when this returns.

        Raises ReleaseError where it could not be written. For a step that `is_way_back` a full disk raises
        JournalFull: that step may be taken all the same.
        """
        at = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        entry = Entry(at, entry_of, event, host, step, data)
        line = json.dumps({k: v for k, v in asdict(entry).items() if v not in ("", {})}) + "\n"
        try:
            with self._one_at_a_time:
                self._write(line)
        except OSError as error:
            what = f"journal {self.path}: could not be written: {error.strerror or error}"
            if is_way_back and error.errno in DISK_FULL:
                self._tell(entry)
                raise JournalFull(f"{what}. What was done is not in it: make room") from error
            then = "begin it again" if event == "planned" else f"`torchmar resume {self.model}`"
            mend = "make room" if error.errno in DISK_FULL else "mend that"
            raise ReleaseError(f"{what}. Nothing is done that is not in it: {mend}, and {then}") from error
        self._tell(entry)
        return entry

    def _tell(self, entry: Entry) -> None:
        # Nothing is half done because nobody reads what is told: SystemExit is rich's word for a closed pipe.
        with suppress(Exception, SystemExit):
            self.on_entry(entry)

    def _write(self, line: str) -> None:
        with self.path.open("ab") as file:
            # After the torn line of one that was killed, or of the try before.
            torn = b"\n" if file.tell() and not self._ends_with_newline() else b""
            file.write(torn + line.encode())
            file.flush()
            os.fsync(file.fileno())
            if file.tell() == len(line):
                sync_folder(self.folder)  # a new file is found after a power failure only by its name

    def entries(self) -> list[Entry]:
        """Return all entries that can be read, in their order. Raises ReleaseError."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ReleaseError(f"journal {self.path}: could not be read: {error.strerror}") from error
        return [entry for entry in map(_parsed, lines) if entry is not None]

    def _ends_with_newline(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


@contextmanager
def hold(file: Path, model: str, what: str) -> Iterator[None]:
    """Lock a file while a model is changed; the end of this process frees it. `what` is for the error.

    Raises ReleaseError where another process holds it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("a+", encoding="ascii", errors="replace")
    except OSError as error:
        raise ReleaseError(f"journal {what}: {error.strerror or error}; nothing was done") from error
    with lock:
        try:
            _lock(lock)
        except BlockingIOError:
            holder = _holder(lock)
            kill = "" if holder == _UNKNOWN else f" (`kill -INT {holder}`)"
            raise Held(
                f"{model}: process {holder} is changing it ({what}); wait for it. Ctrl-C there{kill} undoes "
                f"a release, its default version first; where that process ends in another way, `torchmar "
                f"resume {model}` or `torchmar rollback {model}`"
            ) from None
        except OSError as error:
            raise ReleaseError(
                f"{what}: its folder cannot be locked: {error.strerror or error}; nothing was done. "
                "Keep the journal on a file system with locks: --journal"
            ) from error
        with suppress(OSError):  # a full disk: then who holds it is unknown
            os.ftruncate(lock.fileno(), 0)
            os.write(lock.fileno(), own_token().encode())
        yield


def _holder(lock: IO[str]) -> str:
    """Return the id of the process that wrote itself into a lock.

    On a full disk that may be an earlier process; on a shared disk, one of another machine.
    """
    lock.seek(0)
    holder = by_token(lock.read(100).strip())
    return _UNKNOWN if holder is None else str(holder.pid)


def _lock(file: IO[str]) -> None:
    """Take the lock. Raises BlockingIOError where somebody holds it for longer than a moment."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@dataclass
class Writer:
    """Writes one record, as that of a release or a rollback, into a journal.

    A way back goes on where the journal's disk is full: `unwritten` says so then, and is '' else.
    """

    journal: Journal
    id: str
    is_way_back: bool = False
    clock: Callable[[], float] = time.monotonic
    unwritten: str = ""

    @property
    def model(self) -> str:
        """The model that is changed."""
        return self.journal.model

    def write(self, event: str, host: str = "", step: str = "", **data: Any) -> None:
        """Write an entry. Raises ReleaseError."""
        try:
            self.journal.append(self.id, event, host=host, step=step, is_way_back=self.is_way_back, **data)
        except JournalFull as error:
            self.unwritten = str(error)

    @contextmanager
    def step(self, host: str, name: str) -> Iterator[dict[str, Any]]:
        """Write `begin`, run the block, and write `done` with what the block puts into the dict."""
        self.write("begin", host, name)
        begin = self.clock()
        data: dict[str, Any] = {}
        yield data
        self.write("done", host, name, **data, seconds=round(self.clock() - begin, 3))


def models(folder: Path) -> list[str]:
    """Return the models that have a journal there. Raises ReleaseError where the folder cannot be read."""
    try:
        files = [Path(name) for name in os.listdir(folder)]  # noqa: PTH208 (Path.glob passes over errors)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ReleaseError(f"the journals' folder {folder}: cannot be read: {error.strerror}") from error
    return sorted(unquote(file.stem) for file in files if file.suffix == ".jsonl")


def read(kind: Callable[..., Read], content: Mapping[str, Any]) -> Read:
    """Return a dataclass that was written as JSON; what a later torchmar has added is left out.

    Raises AttributeError, TypeError for what torchmar does not write, as a field of another type.
    """
    kinds = _kinds(kind)
    found = kind(**{name: value for name, value in content.items() if name in kinds})
    for name, of in kinds.items():
        if not _is(of, getattr(found, name)):
            raise TypeError(f"{name}: expected {of.__name__ if isinstance(of, type) else of}")
    return found


@cache
def _kinds(kind: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a dataclass's fields; it takes a while, and a journal has many of one kind."""
    return get_type_hints(kind)


def _is(kind: Any, value: Any) -> bool:
    """Return whether a value is of a field's type; a list of JSON passes for a tuple."""
    origin, kinds = get_origin(kind), get_args(kind)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_is(kinds[0], one) for one in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_is(kinds[1], one) for one in value.values())
    if kind is Any:
        return True
    if kinds:  # of `int | None`
        return any(_is(one, value) for one in kinds)
    return isinstance(value, int | float if kind is float else kind) and (
        kind is bool or not isinstance(value, bool)
    )


def _parsed(line: bytes) -> Entry | None:
    try:
        return read(Entry, json.loads(line))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
