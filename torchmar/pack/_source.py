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

SMALL = 1 << 20  # bytes; a file of at least as many is a Source and not read into memory
_STEP = 4 << 20  # bytes that are moved before the digests are told of them

# copy_file_range between these two files, or on this system, cannot be had
_CANNOT = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


@dataclass(frozen=True)
class Source:
    """`size` bytes of a file from `offset`, as they are at the moment; an archive is not made of others.

    Where `crc32` and `sha256` are known already, they are not computed again while packing, but for the CRC,
    which tells whether the bytes are still those. `linkable`: nobody will ever write to the file, so that a
    folder may hold it as a hard link.
    """

    path: Path
    size: int
    mtime_ns: int
    offset: int = 0
    crc32: int | None = None
    sha256: str | None = None
    linkable: bool = False

    @classmethod
    def of(cls, path: Path, *, linkable: bool = False) -> Source:
        """A whole file. Raises OSError."""
        facts = path.stat()
        return cls(path, facts.st_size, facts.st_mtime_ns, linkable=linkable)

    def digested(self) -> Source:
        """The same, with its digests known. Raises OSError; ArchiveError where the file changes meanwhile."""
        with self.opened() as file, _Digests(file, with_sha256=True) as digests:
            digests.follow(self.offset, self.offset + self.size)
            crc32, sha256 = digests.finished()
        return replace(self, crc32=crc32, sha256=sha256)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor to read it by. Raises ArchiveError where it is not, or does not stay, as it was."""
        with self.path.open("rb", buffering=0) as file:
            self._require_unchanged(file.fileno())
            yield file.fileno()
            self._require_unchanged(file.fileno())

    def read(self) -> bytes:
        """All of it. Raises OSError."""
        with self.opened() as file:
            return os.pread(file, self.size, self.offset)

    def _require_unchanged(self, file: int) -> None:
        facts = os.fstat(file)
        if facts.st_mtime_ns != self.mtime_ns or facts.st_size < self.offset + self.size:
            raise self.changed()

    def changed(self) -> ArchiveError:
        """What to raise where the file is no longer what it was."""
        return ArchiveError(f"{self.path}: it was changed while it was packed; try again")


Contents = Mapping[str, bytes | Source]
"""What an archive is to hold, by name, but for MAR-INF/digests.json, which packing adds."""


def contents_of(folder: Path, known: Mapping[str, Source] | None = None) -> dict[str, bytes | Source]:
    """The files under a folder, by name, those in `known` as they are there."""
    found: dict[str, bytes | Source] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if known is not None and name in known:
            found[name] = known[name]
        elif path.is_file():
            found[name] = path.read_bytes() if path.stat().st_size < SMALL else Source.of(path)
    return found


def require_unchanged(contents: Contents) -> None:
    """Raise ArchiveError where a file is no longer as it was when it was looked at."""
    for content in contents.values():
        if isinstance(content, Source):
            with content.opened():
                pass


def move(source: Source, sink: int, at: int, *, sync: bool) -> tuple[int, str]:
    """Write a source into an open file from the byte `at` on; the CRC-32 and SHA-256 of what is there then.

    The digests are of the bytes that were written, not of those that were read. With `sync` the disk starts
    on them at once, so that little is left for fsync.
    """
    known = source.crc32 is not None and source.sha256 is not None
    with source.opened() as file, _Digests(sink, with_sha256=not known) as digests:
        done = 0
        while done < source.size:
            step = min(_STEP, source.size - done)
            count = _copy(file, sink, step, source.offset + done, at + done)
            if count == 0:
                raise source.changed()
            digests.follow(at + done, at + done + count)
            if sync:
                start_writing(sink, at + done, count)
            done += count
        crc32, sha256 = digests.finished()
    if known:
        assert source.sha256 is not None
        sha256 = source.sha256
    for before, now in ((source.crc32, crc32), (source.sha256, sha256)):
        if before is not None and before != now:
            raise source.changed()
    return crc32, sha256


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


def start_writing(sink: int, at: int, count: int) -> None:
    """Have the kernel begin to write to disk what it would otherwise keep until fsync. It may decline."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(sink, at, count, os.POSIX_FADV_DONTNEED)


class _Digests:
    """CRC-32 and SHA-256 of a file that is being written: each in a thread of its own, as it is told how far.

    zlib, hashlib and reads let other threads run, so that the digests cost no time where there is a CPU left.
    """

    def __init__(self, file: int, *, with_sha256: bool) -> None:
        self._file = file
        self._crc32 = 0
        self._sha256 = hashlib.sha256()
        updates: list[Callable[[memoryview], None]] = [self._update_crc32]
        updates += [self._sha256.update] if with_sha256 else []
        self._threads = [(ThreadPoolExecutor(1), update) for update in updates]
        self._pending: list[Future[None]] = []

    def __enter__(self) -> _Digests:
        return self

    def __exit__(self, *_: object) -> None:
        for pool, _update in self._threads:
            pool.shutdown(cancel_futures=True)

    def follow(self, start: int, end: int) -> None:
        """The bytes from `start` to `end` are there now; each call goes on where the last one ended."""
        self._pending += [pool.submit(self._read, update, start, end) for pool, update in self._threads]

    def finished(self) -> tuple[int, str]:
        """Of all that was followed."""
        for pending in self._pending:
            pending.result()
        return self._crc32, self._sha256.hexdigest()

    def _update_crc32(self, block: memoryview) -> None:
        self._crc32 = zlib.crc32(block, self._crc32)

    def _read(self, update: Callable[[memoryview], None], start: int, end: int) -> None:
        buffer = memoryview(bytearray(min(_STEP, end - start)))
        while start < end:
            count = os.preadv(self._file, [buffer[: end - start]], start)
            if count == 0:
                raise ArchiveError("a file became shorter while it was packed; try again")
            update(buffer[:count])
            start += count
