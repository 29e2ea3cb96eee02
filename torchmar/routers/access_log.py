"""Read nginx's access log: requests, errors and latencies of each version of a model.

It holds one JSON object a line, in the form that nginx.py configures.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ReleaseError
from . import Logged

# 499: the client went away before it had an answer; a version that is slow enough does not answer.
# 404: TorchServe's answer where a pinned version is gone; who asked for no version has lost a request.
_ERRORS_BELOW_500 = (0, 404, 499)


class AccessLog:
    """Reads what is written about a model after this was made; each line once.

    `read` counts as `errors` statuses from 500 on, 404, 499 and none at all. Another 4xx is the request's own
    fault and counts among `requests` alone. A log that was rotated in between is read to its end under the
    name LOG.1, as logrotate leaves it, and then the new one. A line that is being written is left for the
    next time; a line in another format is skipped.
    """

    def __init__(self, path: Path, model: str) -> None:
        """Raises ReleaseError where the log cannot be read; it may be missing still."""
        self._path = path
        self._model = model
        self._found: dict[str | None, list[tuple[int, float]]] = defaultdict(list)
        self._offsets: dict[int, int] = {}  # of each file that was read, by its inode
        try:
            with path.open("rb") as opened:
                self._offsets[os.fstat(opened.fileno()).st_ino] = opened.seek(0, os.SEEK_END)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._unreadable(error) from None

    def read(self) -> Mapping[str | None, Logged]:
        """Return the figures so far by version; None is a request that named no version.

        Raises ReleaseError where the log cannot be read.
        """
        try:
            rotated = self._path.with_name(self._path.name + ".1")
            if _inode(rotated) in self._offsets:  # nginx writes there until it opens the new file
                self._read(rotated)
            self._read(self._path)
        except FileNotFoundError:
            pass  # nginx makes it at its next reload
        except OSError as error:
            raise self._unreadable(error) from None
        return {version: _logged(entries) for version, entries in self._found.items()}

    def _read(self, path: Path) -> None:
        with path.open("rb") as opened:
            for line in self._new_lines(opened):
                self._note(line)

    def _new_lines(self, opened: BinaryIO) -> list[bytes]:
        """Return the whole lines that were not read yet; all of a new file, or of a truncated one."""
        status = os.fstat(opened.fileno())
        offset = self._offsets.get(status.st_ino, 0)
        if status.st_size < offset:
            offset = 0
        opened.seek(offset)
        text = opened.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._offsets[status.st_ino] = offset + len(whole)
        return whole.splitlines()

    def _note(self, line: bytes) -> None:
        try:
            content = json.loads(line)
            entry = int(content["status"]), _seconds(content)
            if str(content["model"]) == self._model:
                self._found[str(content["version"]) or None].append(entry)
        except (ValueError, TypeError, KeyError, RecursionError):
            pass

    def _unreadable(self, error: OSError) -> ReleaseError:
        return ReleaseError(
            f"{self._path}: nginx's access log cannot be read: {error.strerror}; let whoever releases read it"
        )


def _seconds(content: Mapping[str, Any]) -> float:
    """Return the server's time, without that of a client's slow line; the whole time if no server was asked.

    `$upstream_response_time` has one figure for each server that was tried, with `,` and `:` between.
    """
    parts = str(content["upstream_seconds"]).replace(":", ",").split(",")
    tried = [float(part) for part in parts if part.strip() not in {"", "-"}]
    return sum(tried) if tried else float(content["seconds"])


def _logged(entries: list[tuple[int, float]]) -> Logged:
    return Logged(
        requests=len(entries),
        errors=sum(status >= 500 or status in _ERRORS_BELOW_500 for status, _ in entries),
        seconds=tuple(seconds for status, seconds in entries if 200 <= status < 300),
    )


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
