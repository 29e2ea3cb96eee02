"""What nginx says of the predictions that it has split: requests, errors and latencies of each version.

One JSON object a line, in the form that nginx.py has nginx write.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...errors import ReleaseError

# 499: the client went away before it had an answer; a version that is slow enough does not answer.
# 404: TorchServe's answer where a pinned version is gone; who asked for no version has lost a request.
_ERRORS_BELOW_500 = (0, 404, 499)


@dataclass(frozen=True)
class Position:
    """How far a log was read: which file it was, and bytes from its start."""

    inode: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Logged:
    """What one version was asked. `errors` are statuses from 500 on, 404, 499 and none at all.

    A 4xx otherwise is the request's own fault, and counts among `requests` alone. `seconds` are those of
    good answers, from connecting to the server until its whole answer was there.
    """

    requests: int = 0
    errors: int = 0
    seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One line. `version` is None where the request went unpinned to the server's default version."""

    model: str
    version: str | None
    status: int
    seconds: float

    @property
    def is_error(self) -> bool:
        """Whether whoever asked has got no answer to a request that may have been good."""
        return self.status >= 500 or self.status in _ERRORS_BELOW_500


def end_of(log: Path) -> Position:
    """Where the next line will be written; the beginning of a log that is not there yet."""
    try:
        with log.open("rb") as opened:
            return Position(os.fstat(opened.fileno()).st_ino, opened.seek(0, os.SEEK_END))
    except FileNotFoundError:
        return Position()
    except OSError as error:
        raise _unreadable(log, error) from None


def read(log: Path, since: Position, model: str) -> Mapping[str | None, Logged]:
    """What was written since then about a model, by version.

    A log that was rotated in between is read to its end under the name LOG.1, as logrotate leaves it, and
    then the new one. A line that is being written is left for the next time; one that is not ours is
    skipped. Raises ReleaseError where the log cannot be read.
    """
    entries: list[Entry] = []
    try:
        rotated = log.with_name(log.name + ".1")
        if since.inode and _inode(log) != since.inode and _inode(rotated) == since.inode:
            with rotated.open("rb") as opened:
                entries += _entries(opened, since)
        with log.open("rb") as opened:
            entries += _entries(opened, since)
    except FileNotFoundError:
        pass  # nginx makes it at its next reload
    except OSError as error:
        raise _unreadable(log, error) from None
    return _by_version(entry for entry in entries if entry.model == model)


def _entries(opened: BinaryIO, since: Position) -> list[Entry]:
    """The whole lines after `since`: from the start where it is another file, or was truncated."""
    status = os.fstat(opened.fileno())
    same = status.st_ino == since.inode and status.st_size >= since.offset
    opened.seek(since.offset if same else 0)
    text = opened.read()
    whole = text[: text.rfind(b"\n") + 1]
    return [entry for line in whole.splitlines() if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> Entry | None:
    try:
        content = json.loads(line)
        return Entry(
            model=str(content["model"]),
            version=str(content["version"]) or None,
            status=int(content["status"]),
            seconds=_seconds(content),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _seconds(content: Mapping[str, Any]) -> float:
    """The server's time, without that of a client's slow line; the whole time where no server was asked.

    `$upstream_response_time` has one figure for each server that was tried, with `,` and `:` between.
    """
    parts = str(content["upstream_seconds"]).replace(":", ",").split(",")
    tried = [float(part) for part in parts if part.strip() not in {"", "-"}]
    return sum(tried) if tried else float(content["seconds"])


def _by_version(entries: Iterator[Entry]) -> dict[str | None, Logged]:
    versions: dict[str | None, list[Entry]] = {}
    for entry in entries:
        versions.setdefault(entry.version, []).append(entry)
    return {
        version: Logged(
            requests=len(found),
            errors=sum(entry.is_error for entry in found),
            seconds=tuple(entry.seconds for entry in found if 200 <= entry.status < 300),
        )
        for version, found in versions.items()
    }


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _unreadable(log: Path, error: OSError) -> ReleaseError:
    return ReleaseError(
        f"{log}: nginx's access log cannot be read: {error.strerror}; let whoever releases read it"
    )
