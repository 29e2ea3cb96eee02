"""Get the answers to examples: from an archive in a worker process, or from a server."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..answers import parsed
from ..client import Inference
from ..dataset import Example
from ..errors import WorkerLoadError
from ..files import JSON, TEXT
from ..golden import answer_of
from ..mar import Archive
from ..measure.ask import send
from ..worker import check_archive

_SUFFIX = {JSON: ".json", TEXT: ".txt"}
_AT_ONCE = 8  # requests to a server


@dataclass(frozen=True)
class Answer:
    """The answer to one example: parsed JSON, text or bytes. `problem` says why there is none, else ''."""

    content: Any = None
    problem: str = ""


def from_worker(archive: Archive, examples: Sequence[Example], *, timeout: float = 3600.0) -> list[Answer]:
    """Return the archive's answers, from a process that starts as a TorchServe worker does.

    `timeout` is in seconds, for all of them together. Raises WorkerLoadError, ArchiveError, DatasetError.
    """
    with tempfile.TemporaryDirectory(prefix="torchmar-evaluate-") as folder:
        files = [_file(Path(folder), number, example) for number, example in enumerate(examples)]
        check = check_archive(archive.path, timeout=timeout, requests=files)
    if len(check.requests) != len(examples):
        raise WorkerLoadError(check.reason or "; ".join(check.caveats), check.details)
    return [
        Answer(answer_of(one.answer)) if one.ok else Answer(problem=str(one.answer)) for one in check.requests
    ]


def _file(folder: Path, number: int, example: Example) -> Path:
    """Return a file with the request, whose suffix gives its content type."""
    suffix = _SUFFIX.get(example.content_type, ".bin")
    if isinstance(example.body, Path) and example.body.suffix.lower() not in _SUFFIX.values():
        return example.body
    file = folder / f"{number}{suffix}"
    file.write_bytes(example.read())
    return file


def from_server(
    inference: Inference,
    model: str,
    version: str | None,
    examples: Sequence[Example],
    *,
    timeout: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Answer]:
    """Return a served version's answers; None is the default version. `timeout` is in seconds for each.

    Raises ConnectionFailed, DatasetError.
    """
    done = 0

    def ask(example: Example) -> Answer:
        nonlocal done
        request = _Request(example.name, example.read(), example.content_type)
        sample = send(inference, model, version, request, timeout)
        done += 1
        progress(f"{done} of {len(examples)} answers")
        return (
            Answer(parsed(sample.body)) if sample.ok else Answer(problem=sample.error or str(sample.status))
        )

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(ask, examples))


@dataclass(frozen=True)
class _Request:
    """A request to send."""

    name: str
    body: bytes
    content_type: str
