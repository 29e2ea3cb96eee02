"""Move the files of an archive into place: each byte once, digested on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ArchiveError
from ..unpack import PYCACHE

SMALL = 1 << 20  # bytes; a file of at least this size becomes a Source and is not read into memory
_STEP = 4 << 20  # bytes to move before the digests continue
_BLOCK = 1 << 20  # bytes to digest at once

# copy_file_range is unavailable between these two files, or on this system
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True)
class Source:
    """`size` bytes of a file from `offset`, in their current state.

    `stamp` shows whether the file is still the same; a known `sha256` shows whether its bytes are, and
    packing checks it. `linkable` marks a file that torchmar made for itself and that nobody will write to, so
    an archive's folder may hold it as a hard link.
    """

    path: Path
    size: int
    stamp: tuple[int, ...]
    offset: int = 0
    sha256: str | None = None
    linkable: bool = False

    @classmethod
    def of(cls, path: Path, *, linkable: bool = False) -> Source:
        """Return a whole file as a source. Raises OSError."""
        facts = path.stat()
        return cls(path, facts.st_size, _stamp(facts), linkable=linkable)

    def digested(self) -> Source:
        """Return the same with its digest. Raises OSError; ArchiveError if the file has changed."""
        with self.opened() as file, _Digests(file) as digests:
            digests.follow(self.offset, self.offset + self.size)
            _, sha256 = digests.finished()
        self._require(sha256)
        return replace(self, sha256=sha256)

    def _require(self, sha256: str) -> None:
        if self.sha256 not in (None, sha256):
            raise self.changed()

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Yield a descriptor for reading.

        Raises ArchiveError if the file has changed, or changes meanwhile.
        """
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe in its place must not block
        with os.fdopen(os.open(self.path, flags), "rb", buffering=0) as file:
            self._require_unchanged(file.fileno())
            yield file.fileno()
            self._require_unchanged(file.fileno())

    def read(self) -> bytes:
        """Return all its bytes. Raises OSError."""
        with self.opened() as file:
            return os.pread(file, self.size, self.offset)

    def _require_unchanged(self, file: int) -> None:
        if _stamp(os.fstat(file)) != self.stamp:
            raise self.changed()

    def changed(self) -> ArchiveError:
        """Return the error for a file that has changed."""
        return ArchiveError(f"{self.path}: it was changed while it was packed; try again")


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


Contents = Mapping[str, bytes | Source]
"""An archive's files by name, without MAR-INF/digests.json, which packing adds."""


def contents_of(folder: Path, known: Mapping[str, Source] | None = None) -> dict[str, bytes | Source]:
    """Return the files under a folder by name; those in `known` come from there.

    Leaves out Python's cached bytecode.
    """
    found: dict[str, bytes | Source] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if known is not None and name in known:
            found[name] = known[name]
        elif path.is_file() and PYCACHE not in path.relative_to(folder).parts:
            found[name] = path.read_bytes() if path.stat().st_size < SMALL else Source.of(path)
    return found


def require_unchanged(contents: Contents) -> None:
    """Raise ArchiveError if a file has changed since it was first read."""
    for content in contents.values():
        if isinstance(content, Source):
            with content.opened():
                pass


def move(source: Source, sink: int, at: int, *, sync: bool) -> tuple[int, str]:
    """Write a source into an open file from byte `at` on; returns its CRC-32 and SHA-256.

    The digests are those of the written bytes. With `sync`, the disk starts on them at once, which leaves
    little for fsync. Raises OSError; ArchiveError if the source's SHA-256 is not the expected one.
    """
    with source.opened() as file, _Digests(sink) as digests:
        for start, end in _moved(source, file, sink, at, sync=sync):
            digests.follow(start, end)
        crc32, sha256 = digests.finished()
    source._require(sha256)
    return crc32, sha256


def _moved(source: Source, file: int, sink: int, at: int, *, sync: bool) -> Iterator[tuple[int, int]]:
    """Copy step by step; yields each step's start and end in `sink`."""
    done = 0
    while done < source.size:
        # Each step ends at a boundary of the written file's large pages, which makes it a sixth faster.
        step = min(_STEP - (at + done) % _STEP, source.size - done)
        count = _copy(file, sink, step, source.offset + done, at + done)
        if count == 0:
            raise source.changed()
        yield at + done, at + done + count
        if sync:
            _start_writing(sink, at + done, count)
        done += count


def write_all(sink: int, content: bytes, at: int) -> None:
    """Write bytes into an open file from byte `at` on."""
    rest = memoryview(content)
    while rest:
        done = os.pwrite(sink, rest, at)
        rest, at = rest[done:], at + done


def _copy(source: int, sink: int, count: int, offset: int, at: int) -> int:
    """Copy at most `count` bytes, inside the kernel if possible; returns how many, 0 at the end."""
    if hasattr(os, "copy_file_range"):
        try:
            done = os.copy_file_range(source, sink, count, offset, at)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            if done:
                return done  # some filesystems return 0 instead of an error
    return os.pwrite(sink, os.pread(source, count, offset), at)


def _start_writing(sink: int, at: int, count: int) -> None:
    """Ask the kernel to start writing to disk what it would keep until fsync. It may decline."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(sink, at, count, os.POSIX_FADV_DONTNEED)


class _Digests:
    """Computes CRC-32 and SHA-256 of a file while it is written.

    zlib, hashlib and reads release Python's lock, so the SHA-256, which takes longest, runs in parallel on a
    second CPU.
    """

    def __init__(self, file: int) -> None:
        self._crc32 = 0
        self._sha256 = hashlib.sha256()
        self._read_crc32 = _Reader(file, self._update_crc32)
        self._read_sha256 = _Reader(file, self._sha256.update)
        self._aside = ThreadPoolExecutor(1)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> _Digests:
        return self

    def __exit__(self, *_: object) -> None:
        self._aside.shutdown(cancel_futures=True)

    def follow(self, start: int, end: int) -> None:
        """Digest the bytes from `start` to `end`; each call continues where the last one ended."""
        self._pending.append(self._aside.submit(self._read_sha256, start, end))
        self._read_crc32(start, end)

    def finished(self) -> tuple[int, str]:
        """Return the digests of all bytes so far."""
        for pending in self._pending:
            pending.result()
        return self._crc32, self._sha256.hexdigest()

    def _update_crc32(self, block: memoryview) -> None:
        self._crc32 = zlib.crc32(block, self._crc32)


class _Reader:
    """Feeds the bytes of a file to a digest."""

    def __init__(self, file: int, update: Callable[[memoryview], None]) -> None:
        self._file = file
        self._update = update
        self._buffer = memoryview(bytearray(_BLOCK))

    def __call__(self, start: int, end: int) -> None:
        while start < end:
            count = os.preadv(self._file, [self._buffer[: end - start]], start)
            if count == 0:
                raise ArchiveError("a file became shorter while it was packed; try again")
            self._update(self._buffer[:count])
            start += count
