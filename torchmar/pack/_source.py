"""What an archive is packed from, and moving it: each byte once, digested on its way."""

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

SMALL = 1 << 20  # bytes; a file of at least as many is a Source and not read into memory
_STEP = 4 << 20  # bytes that are moved before the digests are told of them
_BLOCK = 1 << 20  # bytes that are digested at once

# copy_file_range between these two files, or on this system, cannot be had
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True)
class Source:
    """`size` bytes of a file from `offset`, as they are now: an archive is made of nothing else.

    `stamp` tells whether the file is still the same; a `sha256` that is known, whether its bytes are: what is
    packed has just that one. `linkable`: torchmar made the file for itself and nobody will ever write to it,
    so that an archive's folder may hold it as a hard link.
    """

    path: Path
    size: int
    stamp: tuple[int, ...]
    offset: int = 0
    sha256: str | None = None
    linkable: bool = False

    @classmethod
    def of(cls, path: Path, *, linkable: bool = False) -> Source:
        """A whole file. Raises OSError."""
        facts = path.stat()
        return cls(path, facts.st_size, _stamp(facts), linkable=linkable)

    def digested(self) -> Source:
        """The same, with its digest known. Raises OSError; ArchiveError where the file is another by now."""
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
        """A descriptor to read it by. Raises ArchiveError where it is not, or does not stay, as it was."""
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe that took its place is not waited for
        with os.fdopen(os.open(self.path, flags), "rb", buffering=0) as file:
            self._require_unchanged(file.fileno())
            yield file.fileno()
            self._require_unchanged(file.fileno())

    def read(self) -> bytes:
        """All of it. Raises OSError."""
        with self.opened() as file:
            return os.pread(file, self.size, self.offset)

    def _require_unchanged(self, file: int) -> None:
        if _stamp(os.fstat(file)) != self.stamp:
            raise self.changed()

    def changed(self) -> ArchiveError:
        """What to raise where the file is no longer what it was."""
        return ArchiveError(f"{self.path}: it was changed while it was packed; try again")


def _stamp(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


Contents = Mapping[str, bytes | Source]
"""What an archive is to hold, by name, but for MAR-INF/digests.json, which packing adds."""


def contents_of(folder: Path, known: Mapping[str, Source] | None = None) -> dict[str, bytes | Source]:
    """The files under a folder, by name, those in `known` as they are there.

    What Python has cached of code that ran there is none of them.
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
    """Raise ArchiveError where a file is no longer as it was when it was looked at."""
    for content in contents.values():
        if isinstance(content, Source):
            with content.opened():
                pass


def move(source: Source, sink: int, at: int, *, sync: bool) -> tuple[int, str]:
    """Write a source into an open file from the byte `at` on; its CRC-32 and SHA-256.

    They are those of the bytes that were written. With `sync` the disk starts on these at once, so that
    little is left for fsync. Raises OSError; ArchiveError where the source has not the SHA-256 it should.
    """
    with source.opened() as file, _Digests(sink) as digests:
        for start, end in _moved(source, file, sink, at, sync=sync):
            digests.follow(start, end)
        crc32, sha256 = digests.finished()
    source._require(sha256)
    return crc32, sha256


def _moved(source: Source, file: int, sink: int, at: int, *, sync: bool) -> Iterator[tuple[int, int]]:
    """Copy step by step; from where to where in `sink`."""
    done = 0
    while done < source.size:
        # A step ends where large pages of the file that is written do: it is a sixth faster.
        step = min(_STEP - (at + done) % _STEP, source.size - done)
        count = _copy(file, sink, step, source.offset + done, at + done)
        if count == 0:
            raise source.changed()
        yield at + done, at + done + count
        if sync:
            _start_writing(sink, at + done, count)
        done += count


def write_all(sink: int, content: bytes, at: int) -> None:
    """Write bytes into an open file from the byte `at` on."""
    rest = memoryview(content)
    while rest:
        done = os.pwrite(sink, rest, at)
        rest, at = rest[done:], at + done


def _copy(source: int, sink: int, count: int, offset: int, at: int) -> int:
    """Copy at most `count` bytes; how many, 0 at the end. Inside the kernel where it can."""
    if hasattr(os, "copy_file_range"):
        try:
            done = os.copy_file_range(source, sink, count, offset, at)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            if done:
                return done  # some filesystems say 0 where they cannot
    return os.pwrite(sink, os.pread(source, count, offset), at)


def _start_writing(sink: int, at: int, count: int) -> None:
    """Have the kernel begin to write to disk what it would otherwise keep until fsync. It may decline."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(sink, at, count, os.POSIX_FADV_DONTNEED)


class _Digests:
    """CRC-32 and SHA-256 of a file that is being written, as it is told how far.

    zlib, hashlib and reads let other threads run: the SHA-256, which takes longest, is computed beside the
    rest where there is a second CPU.
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
        """The bytes from `start` to `end` are there now; each call goes on where the last one ended."""
        self._pending.append(self._aside.submit(self._read_sha256, start, end))
        self._read_crc32(start, end)

    def finished(self) -> tuple[int, str]:
        """Of all that was followed."""
        for pending in self._pending:
            pending.result()
        return self._crc32, self._sha256.hexdigest()

    def _update_crc32(self, block: memoryview) -> None:
        self._crc32 = zlib.crc32(block, self._crc32)


class _Reader:
    """Gives the bytes of a file to a digest."""

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
